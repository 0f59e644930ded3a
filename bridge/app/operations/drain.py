"""Report of all that is left on an engine from which instances move, before it is switched off."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from durabletask.client import OrchestrationStatus
from durabletask.history import EventRaisedEvent, HistoryEvent, TaskScheduledEvent, TimerCreatedEvent, TimerFiredEvent
from pydantic import Field

from bridge.app.operations.instances.instances import FINISHED, InstanceFilter, InstanceOperations
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.source import Loaded, state_engine
from bridge.core.answers import ANSWER, PUBLISH_ACTIVITY, parse
from bridge.core.errors import InstanceNotFound
from bridge.core.system_names import (
    DEAD_LETTER_STATES,
    PREFIX,
    REPLAY,
    ROUTE_LIMIT,
    SAGA,
    SOURCE_PAUSE,
)
from bridge.engines.base import Engine
from bridge.system.clock import stamp
from bridge.waiting.totals import WaitingTotals

_UNFINISHED = tuple(
    each for each in OrchestrationStatus.__members__ if each not in FINISHED and each != "CONTINUED_AS_NEW"
)


@dataclass(frozen=True, slots=True)
class DrainReport:
    """Contents of an engine that an operator must wait for, or move, before the engine is switched off.

    starts: routes that start instances on the engine.
    instances: unfinished instances by orchestration, or by saga of the configuration.
    jobs: unfinished instances of the bridge by orchestration, such as jobs and the writing of dead letters.
    timers: open timers of the examined instances.
    last_timer: time of the last one, RFC 3339; None without one.
    requests: open requests of the examined instances.
    examined: unfinished instances whose history was read for timers and requests.
    early: early messages.
    quarantined: quarantined keys by source.
    replays: dead letters that wait for their replay.
    entities: entities with a state by name.
    kept: finished instances that the engine keeps. Without them, a repeat of one of their messages starts an instance
    again.
    sources: sources whose state (pauses, limits, states of dead letters) is on the engine.
    pauses, limits: sources that people have paused, and routes that they have limited, on the engine.
    handled: blocks with states of dead letters, such as replayed and dropped.
    left: members of the report that keep the engine from being switched off.
    """

    engine: str
    starts: list[str]
    instances: dict[str, int]
    jobs: dict[str, int]
    timers: int
    last_timer: str | None
    requests: int
    examined: int
    early: int
    quarantined: dict[str, int]
    replays: int
    entities: dict[str, int]
    kept: int
    sources: list[str]
    pauses: list[str]
    limits: list[str]
    handled: int
    left: list[str] = field(default_factory=list)

    @property
    def is_drained(self) -> bool:
        """True when the engine can be switched off."""
        return not self.left


class DrainEngine(Parameters):
    """Engine to report on.

    entities: entities with a state keep the engine from being switched off.
    histories: most unfinished instances whose history is read.
    """

    entities: bool = True
    histories: int = Field(1000, ge=0, le=100_000)


_BLOCKING = ("starts", "instances", "jobs", "early", "quarantined", "replays", "entities", "pauses", "limits")


async def drain(loaded: Loaded, engine: Engine, *, entities: bool, histories: int) -> DrainReport:
    """Report what is left on an engine. See `DrainEngine`. Raises: EngineError."""
    unfinished: Counter[str] = Counter()
    for each in await InstanceOperations(engine).count(InstanceFilter(statuses=_UNFINISHED)):
        unfinished[each.name] += each.count
    kept = sum(
        each.count for each in await InstanceOperations(engine).count(InstanceFilter(statuses=tuple(sorted(FINISHED))))
    )
    own = {name for name in unfinished if name.startswith(PREFIX) and name != SAGA}
    waits = await _waits(engine, histories)
    totals = WaitingTotals(1, 1)
    await totals.count(engine)
    counted = totals.counted
    names: dict[str, list[str]] = {}
    states: Counter[str] = Counter()
    async for page in engine.client.entity_pages("@", what="look for entities"):
        for entity in page:
            name, _, key = entity.instanceId.removeprefix("@").partition("@")
            if entity.serializedState.value in ("", "null"):
                continue
            states[name] += 1
            if name in (SOURCE_PAUSE, ROUTE_LIMIT):
                names.setdefault(name, []).append(key)
            elif name == REPLAY:
                states["replays"] += len((json.loads(entity.serializedState.value) or {}).get("items", ()))
    report = DrainReport(
        engine.name,
        [route.name for route in loaded.config.routes if route.engine == engine.name],
        {name: count for name, count in sorted(unfinished.items()) if name not in own},
        {name: count for name, count in sorted(unfinished.items()) if name in own},
        len(waits.timers),
        stamp(max(waits.timers)) if waits.timers else None,
        waits.requests,
        waits.examined,
        counted.early,
        {source: each.keys for source, each in sorted(counted.quarantined.items())},
        states.pop("replays", 0),
        {name: count for name, count in sorted(states.items()) if not name.startswith(PREFIX)},
        kept,
        [source for source in loaded.config.sources if state_engine(loaded, source) == engine.name],
        sorted(names.get(SOURCE_PAUSE, ())),
        sorted(names.get(ROUTE_LIMIT, ())),
        states[DEAD_LETTER_STATES],
    )
    blocking = [each for each in _BLOCKING if entities or each != "entities"]
    report.left.extend(each for each in blocking if getattr(report, each))
    return report


@dataclass(slots=True)
class _Waits:
    """Waits of unfinished instances. timers: times of open timers."""

    timers: list[datetime] = field(default_factory=list)
    requests: int = 0
    examined: int = 0


async def _waits(engine: Engine, most: int) -> _Waits:
    """Open timers and requests, by the histories of at most this number of unfinished instances."""
    found = _Waits()
    statuses = [OrchestrationStatus[each] for each in _UNFINISHED]
    async for page in engine.client.instance_pages(statuses, what="look for unfinished instances"):
        for state in page:
            if found.examined >= most:
                return found
            if state.name.startswith(PREFIX) and state.name != SAGA:
                continue
            try:
                history = await engine.client.get_orchestration_history(state.instanceId)
            except InstanceNotFound:
                continue
            found.examined += 1
            found.timers += _open_timers(history)
            found.requests += len(_open_requests(history))
    return found


def _open_timers(history: Sequence[HistoryEvent]) -> list[datetime]:
    """Times of the timers that have not fired."""
    fired = {each.timer_id for each in history if isinstance(each, TimerFiredEvent)}
    return [
        each.fire_at if each.fire_at.tzinfo else each.fire_at.replace(tzinfo=UTC)
        for each in history
        if isinstance(each, TimerCreatedEvent) and each.event_id not in fired
    ]


def _open_requests(history: Sequence[HistoryEvent]) -> set[str]:
    """Names of the events that answer requests without an answer."""
    wanted: set[str] = set()
    for each in history:
        if isinstance(each, TaskScheduledEvent) and each.name == PUBLISH_ACTIVITY and each.input:
            request = json.loads(each.input)
            answer = request.get(ANSWER) if isinstance(request, dict) else None
            given = None if answer is None else parse(answer["to"])
            if given is not None:
                wanted.add(given.event)
        elif isinstance(each, EventRaisedEvent):
            wanted.discard(each.name)
    return wanted


async def _drain(scene: Scene, given: DrainEngine) -> Any:
    engine = await scene.engine()
    return asdict(await drain(scene.loaded, engine, entities=given.entities, histories=given.histories))


DRAIN_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("engines.drain", "reader", "engines:drain", DrainEngine, _drain, DrainReport),
)
