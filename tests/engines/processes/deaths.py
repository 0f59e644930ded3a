"""Workflows that end their process once, in every way, and have a correct result afterwards."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from durabletask import task
from durabletask.entities import EntityContext, EntityInstanceId

from tests.engines.processes.flows import end

Steps = Generator[task.Task[Any], Any, Any]

DEADLY = ("os._exit", "segfault", "kill")
"""Ways to end the process."""

CONTAINED = ("sys.exit", "memory")
"""Ways that fail the step alone. An orchestrator does not survive its own failure."""

KINDS = {
    "in_activity": (*DEADLY, *CONTAINED),
    "in_orchestrator": DEADLY,
    "in_entity": (*DEADLY, *CONTAINED),
}
"""Ways by orchestration."""


def end_once(how: str, marker: str) -> None:
    """End this process, or the step, the first time that the marker is used."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    end(how)


def ends_once(ctx: task.ActivityContext, given: list[Any]) -> int:
    how, marker, value = given
    end_once(how, marker)
    return int(value) * 2


def fragile_counter(ctx: EntityContext, given: list[Any]) -> int:
    """Add a value, once the process has ended between the two halves of the addition."""
    how, marker, value = given
    before = ctx.get_state(int, 0)
    ctx.set_state(before + 1)
    end_once(how, marker)
    ctx.set_state(before + value)
    return int(before + value)


def in_activity(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    while True:
        try:
            return (yield ctx.call_activity(ends_once, input=given))
        except task.TaskFailedError:
            continue


def in_orchestrator(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    how, marker, value = given
    once = yield ctx.call_activity(ends_once, input=["", f"{marker}-none", value])
    if not ctx.is_replaying:
        end_once(how, marker)
    return (yield ctx.call_activity(ends_once, input=["", f"{marker}-none", once]))


def in_entity(ctx: task.OrchestrationContext, given: list[Any]) -> Steps:
    _, marker, value = given
    counter = EntityInstanceId("fragile_counter", Path(marker).name)
    while True:
        try:
            first = yield ctx.call_entity(counter, "add", given)
            break
        except task.TaskFailedError:
            continue
    second = yield ctx.call_entity(counter, "add", ["", marker, value])
    return [first, second]


def expected(kind: str, value: int) -> Any:
    """Return the correct result."""
    return {"in_activity": value * 2, "in_orchestrator": value * 4, "in_entity": [value, value * 2]}[kind]
