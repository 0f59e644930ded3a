"""Trace of messages: asks the daemons, the engine, and for a position the broker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bridge.app.connection import attached, searched
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import AllEnginesTracer, EngineTracer, TraceAnswer, TraceResult, of_in_flight
from bridge.app.operations.lineage.tracing import MessageTracer
from bridge.app.serve.control import ask_daemons
from bridge.config.source import Loaded
from bridge.core.errors import EngineOutage, InvalidCommand


@dataclass(frozen=True, slots=True)
class Traced:
    """Result for one id.

    silent: number of daemons that did not answer; their messages in flight are unknown.
    away: error of the engine, where only the daemons have answered.
    """

    id: str
    found: TraceResult
    silent: int = 0
    away: EngineOutage | None = None


async def trace(loaded: Loaded, engine: str | None, ids: Sequence[str], scope: SearchScope) -> list[Traced]:
    """Trace each id. engine: None is `default`, or the only one, and those between which instances move.

    While the engine does not answer, daemons still know their messages in flight.
    Raises: LookupError for an unknown engine, EngineError; EngineOutage when no daemon knows any of the messages.
    """
    try:
        async with AsyncExitStack() as opened:
            running = [await opened.enter_async_context(attached(loaded, name)) for name in searched(loaded, engine)]
            tracer = AllEnginesTracer([EngineTracer(each) for each in running])
            return [await _one(loaded, tracer, each, scope) for each in ids]
    except EngineOutage as error:
        traced = []
        for each in ids:
            answers, silent = await _in_flight(loaded, each)
            traced.append(Traced(each, TraceResult("nothing").add(answers), silent, error))
        if not any(each.found.answers for each in traced):
            raise
        return traced


async def _one(loaded: Loaded, tracer: AllEnginesTracer, wanted: str, scope: SearchScope) -> Traced:
    silent = 0

    async def in_flight(id_: str) -> Sequence[TraceAnswer]:
        nonlocal silent
        answers, missing = await _in_flight(loaded, id_)
        silent = max(silent, missing)
        return answers

    found = await MessageTracer(loaded, tracer, in_flight).find(wanted, scope)
    return Traced(wanted, found, silent)


async def _in_flight(loaded: Loaded, wanted: str) -> tuple[Sequence[TraceAnswer], int]:
    try:
        asked = await ask_daemons(loaded, "messages.show", {"message": wanted})
    except InvalidCommand:  # an id that is longer than any message's
        return [], 0
    return [of_in_flight(one) for answer in asked.answers for one in answer or ()], asked.silent
