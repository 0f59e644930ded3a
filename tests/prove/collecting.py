"""Collector orchestrations of both variants: each records the numbers of its events in the order of arrival."""

from __future__ import annotations

from typing import Any

from durabletask import task

from bridge.workflow import Inbox

END = "end"
"""Event that ends a collector; the proof itself raises it."""


def collect(ctx: task.OrchestrationContext, first: dict[str, Any]) -> Any:
    """Collect through an inbox of the bridge, which drops repeated messages."""
    numbers = [first["number"]]
    inbox = Inbox(ctx)
    end = ctx.wait_for_external_event(END)
    while True:
        item = inbox.task("item")
        yield task.when_any([item, end])
        if item.is_complete:
            message = inbox.accept(item)
            if message is not None:
                numbers.append(message.data["number"])
                ctx.set_custom_status(len(numbers))
        elif end.is_complete:
            return numbers


def collect_plain(ctx: task.OrchestrationContext, first: dict[str, Any]) -> Any:
    """Collect with the SDK alone."""
    numbers = [first["number"]]
    end = ctx.wait_for_external_event(END)
    item = ctx.wait_for_external_event("item")
    while True:
        yield task.when_any([item, end])
        if item.is_complete:
            numbers.append(item.get_result()["number"])
            ctx.set_custom_status(len(numbers))
            item = ctx.wait_for_external_event("item")
        elif end.is_complete:
            return numbers
