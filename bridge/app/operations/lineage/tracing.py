"""Trace of a message: what the engine and daemons know, else what its broker has at a position."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from bridge.app.connection import searched
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.position import RereadMessage, behind, places, read
from bridge.app.operations.lineage.trace import AllEnginesTracer, EngineTracer, TraceAnswer, TraceResult
from bridge.app.operations.operation import Scene
from bridge.config.source import Loaded
from bridge.core.states import Outcome


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
        of = await behind(self.loaded, wanted)
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
