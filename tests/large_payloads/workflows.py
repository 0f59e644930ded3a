"""Workflows that pass large values on in each way in which workflows can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from durabletask import entities, task


def grow(ctx: task.ActivityContext, text: str) -> str:
    return text + "."


def flow(ctx: task.OrchestrationContext, text: str) -> Any:
    """Pass the text through an activity, an event, an entity and a child; answer with all of it."""
    ctx.set_custom_status("waits")
    grown = yield ctx.call_activity("grow", input=text)
    event = yield ctx.wait_for_external_event("more")
    kept = yield ctx.call_entity(entities.EntityInstanceId("keeper", ctx.instance_id), "keep", event)
    return (yield ctx.call_sub_orchestrator("child", input=[grown, kept], instance_id=f"{ctx.instance_id}-child"))


def child(ctx: task.OrchestrationContext, texts: list[str]) -> Any:
    grown = yield ctx.call_activity("grow", input=texts[1])
    return [*texts, grown]


def generations(ctx: task.OrchestrationContext, given: list[Any]) -> Any:
    """Continue as new with another large value each time, and keep an event that no generation reads."""
    left, text = given
    grown = yield ctx.call_activity("grow", input=text)
    if left:
        ctx.continue_as_new([left - 1, grown], save_events=True)
        return None
    return grown


def too_large(ctx: task.OrchestrationContext, size: int) -> Any:
    return (yield ctx.call_activity("make", input=size))


def returns(ctx: task.OrchestrationContext, size: int) -> str:
    return "x" * size


def entity_returns(ctx: task.OrchestrationContext, size: int) -> Any:
    """Ask an entity for a text whose store refuses it, and then for its state and a small text."""
    maker = entities.EntityInstanceId("maker", ctx.instance_id)
    try:
        yield ctx.call_entity(maker, "make", size)
    except task.TaskFailedError as failed:
        return [
            str(failed.details.message),
            (yield ctx.call_entity(maker, "count")),
            (yield ctx.call_entity(maker, "make", 1)),
        ]
    return None


def make(ctx: task.ActivityContext, size: int) -> str:
    return "x" * size


class Keeper(entities.DurableEntity):
    def keep(self, text: str) -> str:
        self.set_state(len(text))
        return text


Keeper.__name__ = "keeper"


class Maker(entities.DurableEntity):
    def make(self, size: int) -> str:
        self.set_state(self.get_state(int, 0) + 1)
        return "x" * size

    def count(self, _: Any = None) -> int:
        return self.get_state(int, 0)


Maker.__name__ = "maker"


def fails_late(ctx: task.OrchestrationContext, given: list[str]) -> Any:
    """Fail after steps with large results, until the file exists."""
    text, gate = given
    grown = yield ctx.call_activity("grow", input=text)
    child: list[str] = yield ctx.call_sub_orchestrator(
        "child", input=[text, grown], instance_id=f"{ctx.instance_id}-child"
    )
    yield ctx.call_activity("needs", input=[gate, text])
    return child[1:]


def needs(ctx: task.ActivityContext, given: list[str]) -> None:
    if not Path(given[0]).exists():
        raise FileNotFoundError(given[0])


def tree(ctx: task.OrchestrationContext, given: list[Any]) -> Any:
    """Wait for the end of a line of descendants, each with a large input; the last one waits for an event."""
    depth, text = given
    if depth:
        return (yield ctx.call_sub_orchestrator("tree", input=[depth - 1, text], instance_id=f"{ctx.instance_id}-x"))
    return (yield ctx.wait_for_external_event("end"))
