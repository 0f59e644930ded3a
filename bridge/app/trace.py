"""Trace of messages: asks the daemons, the engine, and for a position the broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bridge.app.connection import attached
from bridge.app.messages.position import Behind, Reading, behind, places, read
from bridge.app.operations.lineage.lineage import Scope
from bridge.app.operations.lineage.trace import Answer, Found, Tracer, of_in_flight
from bridge.app.serve.control import ask_daemons
from bridge.config.source import Loaded
from bridge.core.errors import EngineOutage, InvalidCommand
from bridge.core.states import Outcome


@dataclass(frozen=True, slots=True)
class Traced:
    """Result for one id.

    silent: number of daemons that did not answer; their messages in flight are unknown.
    away: error of the engine, where only the daemons have answered.
    behind: message that was traced instead of the dead letter or publication at this position.
    """

    id: str
    found: Found
    silent: int = 0
    away: EngineOutage | None = None
    behind: Behind | None = None


async def trace(loaded: Loaded, engine: str | None, ids: Sequence[str], scope: Scope) -> list[Traced]:
    """Trace each id. engine: None is `default`, or the only one.

    While the engine does not answer, daemons still know their messages in flight.
    Raises: LookupError for an unknown engine, EngineError; EngineOutage when no daemon knows any of the messages.
    """
    try:
        async with attached(loaded, engine) as running:
            tracer = Tracer(running)
            return [await _one(loaded, tracer, each, scope) for each in ids]
    except EngineOutage as error:
        traced = []
        for each in ids:
            answers, silent = await _in_flight(loaded, each)
            traced.append(Traced(each, Found("nothing").add(answers), silent, error))
        if not any(each.found.answers for each in traced):
            raise
        return traced


async def _one(loaded: Loaded, tracer: Tracer, wanted: str, scope: Scope) -> Traced:
    of = await behind(loaded, wanted)
    if of is not None:
        return replace(await _one(loaded, tracer, of.id, scope), id=wanted, behind=of)
    in_flight, silent = await _in_flight(loaded, wanted)
    if in_flight:
        # A message in flight that a person names need not be searched for in instances without index
        found = await tracer.find(wanted, replace(scope, search=False))
    else:
        found = await tracer.find(wanted, scope)
    found = found.add(in_flight)
    if not found.answers and scope.prefix is None:
        for place in places(loaded, wanted):
            found = found.add(await _at(loaded, tracer, await read(loaded, place)))
    return Traced(wanted, found, silent)


async def _at(loaded: Loaded, tracer: Tracer, reading: Reading | Answer) -> Sequence[Answer]:
    """Answers for a message that was read again at its position."""
    if isinstance(reading, Answer):
        return [reading]
    position = str(reading.position)
    if reading.identity is not None and reading.identity != position:
        known = await tracer.identified(reading.identity, position)
        if not known:
            known, _ = await _in_flight(loaded, reading.identity)
        if known:
            return known
    if reading.answer.outcome == Outcome.DEAD_LETTERED:
        detail = f"its rules refuse it: {reading.answer.detail}; the dead letter is not in the index"
        return [replace(reading.answer, detail=detail)]
    return [reading.answer]


async def _in_flight(loaded: Loaded, wanted: str) -> tuple[Sequence[Answer], int]:
    try:
        asked = await ask_daemons(loaded, "messages.show", {"message": wanted})
    except InvalidCommand:  # an id that is longer than any message's
        return [], 0
    return [of_in_flight(one) for answer in asked.answers for one in answer or ()], asked.silent
