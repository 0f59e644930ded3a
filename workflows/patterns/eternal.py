"""Eternal orchestration: counts readings forever, and continues as new before its history grows long."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from durabletask import task

from bridge.workflow import publish
from workflows.patterns.chaining import RESULTS

READINGS_PER_GENERATION = 50
"""Number of readings that one generation takes before it continues as new."""


@dataclass
class Meter:
    """Input of `meter`, and its state from generation to generation."""

    number: str
    readings: int = 0
    total: float = 0.0
    generation: int = 1


def meter(ctx: task.OrchestrationContext, state: Meter) -> Generator[task.Task[Any], Any, dict[str, Any] | None]:
    """Take events `reading` ({"value": number}) until one has {"closed": true}.

    Events that arrive while a generation ends are kept for the next one: `save_events=True`.
    """
    for _ in range(READINGS_PER_GENERATION):
        reading = yield ctx.wait_for_external_event("reading")
        if reading.get("closed"):
            result = {"number": state.number, "readings": state.readings, "total": state.total}
            yield publish(ctx, RESULTS, result, type="meter.closed", subject=state.number)
            return {**result, "generations": state.generation}
        state.readings += 1
        state.total += reading["value"]
        ctx.set_custom_status({"readings": state.readings})
    state.generation += 1
    ctx.continue_as_new(state, save_events=True)
    return None
