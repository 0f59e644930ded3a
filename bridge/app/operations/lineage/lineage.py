"""Lineage of instances: the messages that led to them and their publications, read from the engine's histories.

The envelope of a start input or an event names its message. The calls of the publish activity name the publications.
`lineage` reads one instance's history. `Histories` reads instances, also all of them in a search without an index.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from durabletask import history
from durabletask.client import OrchestrationQuery, OrchestrationState

from bridge.core.errors import InstanceNotFound
from bridge.core.origin import MessageOrigin, UnknownEnvelope, is_named, unwrap
from bridge.core.system_names import SAGA
from bridge.core.trace_context import trace_context
from bridge.engines.base import Engine
from bridge.engines.sagas import declared_name
from bridge.system.clock import stamp
from bridge.workflow import PUBLISH_ACTIVITY

_NEVER = datetime.fromtimestamp(0, UTC)
_PAGE = 1000
_INPUTS = 20_000
"""Most instances whose inputs are listed at once. Beyond it, every history is read instead."""

_AT_ONCE = 16
"""Number of histories that are read concurrently."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Start or event of an instance.

    what: `start`, or `event` and its name.
    message_id, route: None when no message brought it.
    position: the message's position; None where an earlier version brought it.
    """

    at: str
    what: str
    message_id: str | None
    route: str | None
    part: int = 0
    traceparent: str | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """Message that an instance published.

    attempts: number of calls of the publish activity.
    state: state of the last call.
    """

    at: str
    id: str
    type: str
    target: str
    subject: str | None
    state: Literal["published", "failed", "pending"]
    attempts: int
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """Messages and publications of one instance.

    name: of its orchestration, or of its saga if the configuration declares that.
    trace_id: its W3C trace.
    """

    instance_id: str
    name: str
    status: str
    created_at: str
    parent: str | None
    trace_id: str | None
    arrivals: tuple[Arrival, ...]
    publications: tuple[Publication, ...]
    children: tuple[Lineage, ...] = ()

    def holds(self, wanted: str) -> bool:
        """True when a message or publication of this id belongs to the instance."""
        return any(self.arrived(wanted)) or any(publication.id == wanted for publication in self.publications)

    def arrived(self, wanted: str) -> Iterator[Arrival]:
        """Arrivals of the message that a person names."""
        return (one for one in self.arrivals if is_named(one.message_id, one.position, wanted))


@dataclass(frozen=True, slots=True)
class SearchScope:
    """Limits of a search.

    since: only instances changed after this time.
    until: only instances created before this time.
    search: read instances that the index does not have.
    prefix: prefix of instance ids.
    all: continue after the first match.
    progress: called with the numbers of searched and of all instances.
    """

    since: datetime | None = None
    prefix: str | None = None
    all: bool = False
    progress: Callable[[int, int], None] = field(default=lambda done, of: None)
    until: datetime | None = None
    search: bool = True


class Histories:
    """Lineages of one engine, from its histories. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client

    async def search(self, wanted: str, scope: SearchScope) -> AsyncIterator[Lineage | None]:
        """Yield matches, and None for other instances.

        Instances whose start input names the message come first, then those with the newest change.
        """
        states = [
            state
            for state in await self._list(scope, scope.prefix, None, payloads=False)
            if scope.since is None or state.last_updated_at.replace(tzinfo=UTC) >= scope.since
        ]
        started: set[str] = set()
        if len(states) <= _INPUTS:
            # A listing shows starts; events and results are only in the histories
            listed = await self._list(scope, scope.prefix, scope.since, payloads=True)
            started = {state.instance_id for state in listed if _started_by(state, wanted)}
        states.sort(key=lambda state: (state.instance_id not in started, -state.last_updated_at.timestamp()))
        for begin in range(0, len(states), _AT_ONCE):
            some = states[begin : begin + _AT_ONCE]
            for one in await asyncio.gather(*(self.alone(state) for state in some)):
                yield one if one is not None and one.holds(wanted) else None
            scope.progress(min(len(states), begin + _AT_ONCE), len(states))

    async def _list(
        self, scope: SearchScope, prefix: str | None, since: datetime | None, *, payloads: bool
    ) -> list[OrchestrationState]:
        query = OrchestrationQuery(
            created_time_from=since,
            created_time_to=scope.until,
            instance_id_prefix=prefix,
            fetch_inputs_and_outputs=payloads,
            max_instance_count=_PAGE,
        )
        states = await self._client.get_all_orchestration_states(query)
        return [state for state in states if state.instance_id.startswith(prefix or "")]

    async def find(self, instance_id: str) -> Lineage | None:
        """Lineage of an instance, without the children's own; None when there is no such instance."""
        state = await self._client.find_instance(instance_id)
        return None if state is None else await self.alone(state)

    async def find_all(self, ids: Collection[str]) -> list[Lineage]:
        """Lineages of the instances that exist."""
        found: list[Lineage] = []
        listed = list(ids)
        for begin in range(0, len(listed), _AT_ONCE):
            some = await asyncio.gather(*(self.find(each) for each in listed[begin : begin + _AT_ONCE]))
            found += [one for one in some if one is not None]
        return found

    async def alone(self, state: OrchestrationState) -> Lineage | None:
        """Lineage without the children's own; None when the instance is gone meanwhile."""
        try:
            events = await self._client.get_orchestration_history(state.instance_id)
        except InstanceNotFound:
            return None
        return lineage(state, events)

    async def with_children(self, one: Lineage) -> Lineage:
        """The same lineage with those of its children."""
        children = []
        for child in one.children:
            found = await self.find(child.instance_id)
            children.append(child if found is None else await self.with_children(found))
        return replace(one, children=tuple(children))


def lineage(state: OrchestrationState, events: Sequence[history.HistoryEvent]) -> Lineage:
    """Lineage from a history. Children have only an id and a name."""
    arrivals: list[Arrival] = []
    publications: dict[str, Publication] = {}
    tasks: dict[int, str] = {}
    children: list[Lineage] = []
    parent: str | None = None
    trace_id: str | None = None
    name = state.name
    now = _NEVER
    for event in events:
        # Some engines give times to turns only: an event without a time happened in the turn before it
        now = event.timestamp if event.timestamp > _NEVER else now
        match event:
            case history.ExecutionStartedEvent():
                arrivals.append(_arrival(stamp(now), "start", event.input))
                name = _shown_name(state.name, event.input)
                above = event.parent_instance and event.parent_instance.orchestration_instance
                parent = above.instance_id if above else None
                trace_id = trace_id or _trace_id(arrivals[-1], event)
            case history.EventRaisedEvent():
                arrivals.append(_arrival(stamp(now), f"event {event.name}", event.input))
            case history.TaskScheduledEvent(name=activity) if activity == PUBLISH_ACTIVITY:
                _published(stamp(now), event, publications, tasks)
            case history.TaskCompletedEvent(task_scheduled_id=task) if task in tasks:
                publications[tasks[task]] = replace(publications[tasks[task]], state="published", at=stamp(now))
            case history.TaskFailedEvent(task_scheduled_id=task) if task in tasks:
                publications[tasks[task]] = replace(publications[tasks[task]], state="failed")
            case history.SubOrchestrationInstanceCreatedEvent():
                shown = _shown_name(event.name, event.input)
                child = Lineage(event.instance_id, shown, "UNKNOWN", stamp(now), state.instance_id, None, (), ())
                children.append(child)
            case _:
                pass
    return Lineage(
        state.instance_id,
        name,
        state.runtime_status.name,
        stamp(state.created_at),
        parent,
        trace_id,
        tuple(arrivals),
        tuple(publications.values()),
        tuple(children),
    )


def _shown_name(orchestration: str, start_input: str | None) -> str:
    """Own name of a declared saga, else the name of the orchestration."""
    if orchestration != SAGA:
        return orchestration
    return declared_name(start_input or "") or orchestration


def _arrival(at: str, what: str, serialized: str | None) -> Arrival:
    origin = _origin(serialized)
    if origin is None:
        return Arrival(at, what, None, None)
    return Arrival(at, what, origin.message_id, origin.route, origin.part, origin.traceparent, origin.position)


def _origin(serialized: str | None) -> MessageOrigin | None:
    try:
        return unwrap(json.loads(serialized)).origin if serialized else None
    except (ValueError, RecursionError, UnknownEnvelope):
        return None


def _published(
    at: str, event: history.TaskScheduledEvent, publications: dict[str, Publication], tasks: dict[int, str]
) -> None:
    try:
        request: Any = json.loads(event.input or "null")
        key, target, kind = request["id"], request["target"], request["type"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return
    tasks[event.event_id] = key
    before = publications.get(key)
    parent = (request.get("headers") or {}).get("traceparent")
    publications[key] = Publication(
        at, key, kind, target, request.get("subject"), "pending", before.attempts + 1 if before else 1, parent
    )


def _trace_id(start: Arrival, event: history.ExecutionStartedEvent) -> str | None:
    parent = event.parent_trace_context
    found = trace_context(
        {"traceparent": start.traceparent}, {"traceparent": None if parent is None else parent.trace_parent}
    )
    return None if found is None else found.trace_id


def _started_by(state: OrchestrationState, wanted: str) -> bool:
    origin = _origin(state.serialized_input)
    return origin is not None and is_named(origin.message_id, origin.position, wanted)
