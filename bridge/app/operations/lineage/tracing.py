"""Trace of a message: what the engine and daemons know, else what its broker has at a position."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bridge.app.connection import searched
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.position import RereadMessage, message_behind, places, read
from bridge.app.operations.lineage.trace import AllEnginesTracer, EngineTracer, TraceAnswer, TraceResult, of_in_flight
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.source import Loaded
from bridge.core.states import Outcome
from bridge.pipeline.in_flight_search import InFlightMessage


async def tracer_of(scene: Scene, named: str | None) -> AllEnginesTracer:
    """Create the tracer of a request. named: engine that the request names."""
    if scene.open is None:
        return AllEnginesTracer([EngineTracer(await scene.engine())])
    return AllEnginesTracer([EngineTracer(await scene.open(name)) for name in searched(scene.loaded, named)])


@dataclass(frozen=True, slots=True)
class MessageTracer:
    """Tracer of messages. in_flight: answers of daemons for an id."""

    loaded: Loaded
    tracer: AllEnginesTracer
    in_flight: Callable[[str], Awaitable[Sequence[TraceAnswer]]]

    async def find(self, wanted: str, scope: SearchScope) -> TraceResult:
        """Trace a message, publication or instance. Raises: EngineError."""
        of = await message_behind(self.loaded, wanted)
        if of is not None:
            return replace(await self.find(of.id, scope), behind=of)
        in_flight = await self.in_flight(wanted)
        if in_flight:
            # A message in flight that a person names need not be searched for in instances without index
            found = await self.tracer.find(wanted, replace(scope, search=False))
        else:
            found = await self.tracer.find(wanted, scope)
        found = found.add(in_flight)
        if not found.answers and scope.prefix is None:
            for place in places(self.loaded, wanted):
                found = found.add(await self._at(await read(self.loaded, place)))
        return found

    async def _at(self, reading: RereadMessage | TraceAnswer) -> Sequence[TraceAnswer]:
        """Answers for a message that was read again at its position."""
        if isinstance(reading, TraceAnswer):
            return [reading]
        position = str(reading.position)
        if reading.identity is not None and reading.identity != position:
            known = await self.tracer.identified(reading.identity, position)
            if not known:
                known = await self.in_flight(reading.identity)
            if known:
                return known
        if reading.answer.outcome == Outcome.DEAD_LETTERED:
            detail = f"its rules refuse it: {reading.answer.detail}; the dead letter is not in the index"
            return [replace(reading.answer, detail=detail)]
        return [reading.answer]


class OneMessage(Parameters):
    """Identity, event id, position or ordering key of messages."""

    message: str


class TraceMessage(Parameters):
    """Message, publication or instance. search: also read instances that the index does not have."""

    message: str
    search: bool = False


async def _in_flight(scene: Scene, given: OneMessage) -> Any:
    return None if scene.in_flight is None else list(scene.in_flight(given.message))


async def _trace(scene: Scene, given: TraceMessage) -> Any:
    silent = 0

    async def in_flight(id_: str) -> Sequence[TraceAnswer]:
        nonlocal silent
        known = [*(() if scene.in_flight is None else scene.in_flight(id_))]
        if scene.elsewhere is not None:
            more, missing = await scene.elsewhere(id_)
            known, silent = [*known, *more], max(silent, missing)
        return [of_in_flight(each) for each in known]

    tracer = MessageTracer(scene.loaded, await tracer_of(scene, given.engine), in_flight)
    found = await tracer.find(given.message, SearchScope(search=given.search))
    return asdict(found) | {"started_by": sorted(found.started_by), "silent": silent}


MESSAGE_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("messages.show", "reader", "messages/{message}", OneMessage, _in_flight, list[InFlightMessage]),
    Operation("messages.trace", "reader", "messages/{message}/lineage", TraceMessage, _trace, TraceResult),
)
