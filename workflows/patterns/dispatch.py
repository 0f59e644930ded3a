"""Two brokers in one workflow: an order on one, its payment on the other, and an event on both when it ships."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import publish

EVENTS = "dispatch-events"
"""Target of the configuration for all consumers that follow orders."""

WAREHOUSE = "dispatch-warehouse"
"""Target of the configuration for the warehouse, which packs one order after the other."""

SHELF_LIFE = timedelta(days=2)
"""Maximum time that an order may stay unread at the warehouse."""


def dispatch(ctx: task.OrchestrationContext, order: dict[str, Any]) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Ship an order when it is paid. Event: `paid`, with the amount."""
    ctx.set_custom_status("waiting for payment")
    payment = yield ctx.wait_for_external_event("paid")
    result = {"number": order["number"], "item": order["item"], "paid": payment["amount"]}
    attributes = {"type": "dispatch.shipped", "subject": order["number"], "key": order["number"]}
    yield task.when_all(
        [
            publish(ctx, EVENTS, result, **attributes),
            publish(ctx, WAREHOUSE, result, time_to_live=SHELF_LIFE, **attributes),
        ]
    )
    return result
