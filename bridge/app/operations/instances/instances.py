"""Operations on the orchestrations of a running engine: every orchestration call of the SDK's client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import NAMESPACE_OID, uuid4, uuid5

from durabletask.client import (
    OrchestrationQuery,
    OrchestrationState,
    OrchestrationStatus,
    parse_orchestration_state,
)
from durabletask.history import HistoryEvent

from bridge.app.connection import payload
from bridge.app.operations.cursors import EntryPlace, cursor_at, place_of
from bridge.app.operations.instances.causes import FailureCause, cause_of, failure
from bridge.core.commands import Command, OnExisting, RaiseEvent, Resume, ScheduleOrchestration, Suspend, Terminate
from bridge.core.errors import AlreadyTaken, EngineRejected, EngineTimeout, InstanceNotFound
from bridge.core.instance_protocol import FINISHED as ENDED
from bridge.core.origin import MessageOrigin
from bridge.core.system_names import SAGA
from bridge.engines.base import Engine, ListingEngine, instance_counts
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.errors import details_of
from bridge.engines.recording import Recording, UnreadableRecording, record
from bridge.engines.sagas import declared_name, saga_end
from bridge.routing.identifier import check_instance_id, check_name
from bridge.sqlite_engine.storage.listing import Listed, ListFilter, ListPart
from bridge.system.clock import stamp

_CURSORS = "instances"
"""Name of the list in its cursors."""

_TAG_PAGE = 1000

FINISHED = ENDED & frozenset(OrchestrationStatus.__members__)
"""Statuses of the SDK in which an instance has ended."""


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """Current state of one orchestration. Times are RFC 3339 in UTC, payloads are JSON values."""

    instance_id: str
    name: str
    status: str
    created_at: str
    last_updated_at: str
    input: Any
    output: Any
    custom_status: Any
    failure: dict[str, Any] | None
    saga: str | None = None
    """Own name of its saga, where it is known."""
    outcome: str | None = None
    """Outcome of the saga of a finished instance."""

    @property
    def shown_name(self) -> str:
        """Name for people: a saga of the configuration has its own."""
        return self.saga if self.name == SAGA and self.saga else self.name

    @property
    def reason(self) -> str | None:
        """Reason of the failure of its saga."""
        status = self.custom_status
        return status.get("reason") if self.saga is not None and isinstance(status, dict) else None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """Filter of instances. Empty and None mean any. completed_*: only finished instances, by time of completion."""

    statuses: tuple[str, ...] = ()
    prefix: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    completed_from: datetime | None = None
    completed_to: datetime | None = None
    name: str | None = None
    """Name of the orchestration, or own name of the saga."""
    outcomes: tuple[str, ...] = ()
    """Outcomes of sagas."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def runtime_status(self) -> list[OrchestrationStatus] | None:
        statuses = self.statuses or (sorted(FINISHED) if self.outcomes else ())
        return [OrchestrationStatus[status] for status in statuses] or None

    @property
    def counted(self) -> bool:
        """True when the counts of an engine answer it."""
        rest = replace(self, statuses=(), name=None, outcomes=())
        return rest == InstanceFilter() and not (self.statuses and self.outcomes)

    def matches(self, one: InstanceInfo) -> bool:
        """True when an instance that the engine selected has name and outcome of the filter."""
        return (self.name is None or self.name in (one.shown_name, one.saga)) and (
            not self.outcomes or one.outcome in self.outcomes
        )


@dataclass(frozen=True, slots=True)
class CountOfInstances:
    """Number of instances of one name and status, or of one saga and outcome."""

    name: str
    status: str
    count: int


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Request to start an orchestration.

    start_at: aware time.
    delay: seconds. At most one of the two is given.
    """

    orchestration: str
    input: Any = None
    instance_id: str | None = None
    start_at: datetime | None = None
    delay: float | None = None
    version: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class InstanceOperations:
    """Orchestrations of one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = engine.client
        self._execute = CommandRunner(engine).execute

    async def list(self, filter_: InstanceFilter, *, payloads: bool) -> list[InstanceInfo]:
        """Instances that match the filter, newest first. payloads: include input and output."""
        if filter_.completed_from or filter_.completed_to:
            states = await self._completed(filter_, payloads)
        else:
            query = OrchestrationQuery(
                created_time_from=filter_.created_from,
                created_time_to=filter_.created_to,
                runtime_status=filter_.runtime_status,
                fetch_inputs_and_outputs=payloads,
                instance_id_prefix=filter_.prefix,
            )
            states = await self._client.get_all_orchestration_states(query)
        found: Sequence[InstanceInfo] = [_instance(state) for state in states]
        if filter_.tags:
            tagged = await self._tagged(filter_)
            found = [one for one in found if one.instance_id in tagged]
        if filter_.name is not None:
            found = await self.named(found)
        return sorted(filter(filter_.matches, found), key=lambda one: (one.created_at, one.instance_id), reverse=True)

    async def page(
        self, filter_: InstanceFilter, limit: int, cursor: str, status_text: tuple[str, ...] = ()
    ) -> tuple[Sequence[InstanceInfo], str | None]:
        """Part of the instances that match the filter, newest first and without payloads; and the next cursor.

        cursor: `start`, or that of the part before. status_text: texts in custom statuses, where the engine can look.
        The embedded engine reads the part only, unless the filter has a
        tag or a time of completion; other engines list all instances. Raises: InvalidCommand for a malformed cursor.
        """
        before = place_of(_CURSORS, cursor, (int,), (str, str))
        part = None
        if before is None or len(before) == 1:  # a place in the list of the engine
            part = await self._newest(filter_, limit, None if before is None else int(before[0]), status_text)
        if part is not None:
            return [_listed(each) for each in part.listed], (
                None if part.before is None else cursor_at(_CURSORS, (part.before,))
            )
        everything = [one for one in await self.list(filter_, payloads=False) if _is_before(one, before)]
        shown = everything[:limit]
        more = cursor_at(_CURSORS, (shown[-1].created_at, shown[-1].instance_id)) if len(everything) > limit else None
        return shown, more

    async def _newest(
        self, filter_: InstanceFilter, limit: int, before: int | None, status_text: tuple[str, ...]
    ) -> ListPart | None:
        if (
            not isinstance(self._engine, ListingEngine)
            or filter_.tags
            or filter_.completed_from
            or filter_.completed_to
        ):
            return None
        statuses = tuple(each.value for each in filter_.runtime_status or ())
        first, end = (
            None if each is None else int(each.timestamp() * 1e6) for each in (filter_.created_from, filter_.created_to)
        )
        wanted = ListFilter(statuses, filter_.prefix or "", filter_.name, filter_.outcomes, first, end, status_text)
        return await self._engine.newest_instances(wanted, limit, before)

    async def _tagged(self, filter_: InstanceFilter) -> set[str]:
        """Ids of the instances with the tags of the filter."""
        statuses = filter_.runtime_status or ()
        found = await self._client.get_all_tags(statuses, filter_.prefix or "", _TAG_PAGE, what="list instances")
        return {id_ for id_, _, tags in found if filter_.tags.items() <= tags.items()}

    async def named(self, found: Sequence[InstanceInfo]) -> Sequence[InstanceInfo]:
        """Add the own names of declared sagas that have no custom status yet, from their input."""
        named = [*found]
        for position, one in enumerate(found):
            if one.name == SAGA and one.saga is None:
                state = await self._client.find_instance(one.instance_id)
                saga = None if state is None else declared_name(state.serialized_input or "")
                named[position] = replace(one, saga=saga)
        return named

    async def count(self, filter_: InstanceFilter) -> Sequence[CountOfInstances]:
        """Number of instances by name and status, or by saga and outcome if the filter has outcomes.

        The embedded engine answers from its counts, unless the filter has a prefix, a tag or a time.
        """
        counts = await instance_counts(self._engine) if filter_.counted else None
        found: Counter[tuple[str, str]] = Counter()
        if counts is None:
            for one in await self.named(await self.list(filter_, payloads=False)):
                if filter_.outcomes:
                    found[one.saga or one.name, one.outcome or ""] += 1
                else:
                    found[one.shown_name, one.status] += 1
        else:
            wanted = filter_.outcomes or filter_.statuses
            for (name, word), number in (counts.sagas if filter_.outcomes else counts.instances).items():
                if filter_.name in (None, name) and (not wanted or word in wanted):
                    found[name, word] += number
        return [CountOfInstances(name, word, number) for (name, word), number in sorted(found.items())]

    async def _completed(self, filter_: InstanceFilter, payloads: bool) -> Sequence[OrchestrationState]:
        states = []
        for instance_id in await self.finished_ids(filter_):
            state = await self._client.find_instance(instance_id, fetch_payloads=payloads)
            created = state.created_at.timestamp() if state is not None else 0.0
            # The engine lists finished ids by completion time only; the rest of the filter is applied here
            if (
                state is not None
                and instance_id.startswith(filter_.prefix or "")
                and (filter_.created_from is None or created >= filter_.created_from.timestamp())
                and (filter_.created_to is None or created < filter_.created_to.timestamp())
            ):
                states.append(state)
        return states

    async def finished_ids(self, filter_: InstanceFilter) -> Sequence[str]:
        """Ids of finished instances, by status and time of completion."""
        return await self._client.list_all_instance_ids(
            filter_.runtime_status, filter_.completed_from, filter_.completed_to
        )

    async def show(self, instance_id: str) -> InstanceInfo:
        """Read one instance. Raises: InstanceNotFound."""
        state = await self._client.find_instance(instance_id)
        if state is None:
            raise InstanceNotFound(f"no instance {instance_id!r} exists")
        return _instance(state)

    async def cause(self, one: InstanceInfo) -> FailureCause | None:
        """Cause of the failure of an instance or of its saga; None without a failure.

        Reads the history when a task failed. Without a history it is the failure of the instance itself.
        """
        return await cause_of(self._client, one.instance_id, one.failure, one.reason)

    async def history(self, instance_id: str) -> Sequence[HistoryEvent]:
        """History events of an instance, oldest first."""
        return await self._client.get_orchestration_history(instance_id)

    async def recording(self, instance_id: str) -> Recording:
        """Recorded history of an instance, for replay tests. Raises: InstanceNotFound."""
        await self.show(instance_id)
        try:
            return await record(self._client, instance_id)
        except UnreadableRecording as error:
            raise EngineRejected(str(error)) from error

    async def wait(
        self, instance_id: str, until: Literal["start", "completion"], seconds: float
    ) -> InstanceInfo | None:
        """Wait until the instance has started or finished; None after `seconds`. Raises: InstanceNotFound."""
        await self.show(instance_id)
        wait = (
            self._client.wait_for_orchestration_start
            if until == "start"
            else self._client.wait_for_orchestration_completion
        )
        try:
            state = await wait(instance_id, fetch_payloads=True, timeout=seconds)
        except EngineTimeout:
            return None
        return None if state is None else _instance(state)

    async def start(self, start: StartRequest, origin: MessageOrigin | None = None) -> tuple[str, bool]:
        """Start an instance; return its id, and False when the start is a duplicate.

        origin: message that the start counts as, see `execute`. Without an id in `start`, the id is derived from the
        message's.
        Raises: InstanceAlreadyExists, InvalidCommand.
        """
        instance_id = _fresh_id(start, origin) if start.instance_id is None else check_instance_id(start.instance_id)
        command = ScheduleOrchestration(
            check_name(start.orchestration, "the orchestration's name"),
            instance_id,
            start.input,
            start.version,
            start.tags,
            start.start_at,
            start.delay,
            OnExisting.DEAD_LETTER,
        )
        return instance_id, await self._taken(command, origin)

    async def terminate(self, instance_id: str, output: Any, *, recursive: bool) -> None:
        """Terminate an instance. Raises: InstanceNotFound, InstanceFinished."""
        await self._execute(Terminate(instance_id, output, recursive))

    async def raise_event(self, instance_id: str, name: str, data: Any, origin: MessageOrigin | None = None) -> bool:
        """Raise an event; False when it is a duplicate. Raises: InstanceNotFound, InstanceFinished, InvalidCommand."""
        return await self._taken(RaiseEvent(instance_id, check_name(name, "the event name"), data), origin)

    async def suspend(self, instance_id: str, reason: str | None) -> None:
        """Suspend an instance. Raises: InstanceNotFound, InstanceFinished."""
        await self._execute(Suspend(instance_id, reason))

    async def resume(self, instance_id: str, reason: str | None) -> None:
        """Resume an instance. Raises: InstanceNotFound, InstanceFinished."""
        await self._execute(Resume(instance_id, reason))

    async def restart(self, instance_id: str, *, new_id: bool) -> str:
        """Run a finished instance again with its input; return the id it runs under. Raises: InstanceNotFound."""
        await self._finished(instance_id, "restart")
        return await self._client.restart_orchestration(instance_id, restart_with_new_instance_id=new_id)

    async def rewind(self, instance_id: str, reason: str | None) -> None:
        """Run a failed instance again from the turn in which it failed. Steps that succeeded are not repeated.

        Raises: InstanceNotFound; EngineRejected with the reason when the instance cannot be rewound. Nothing has
        changed then.
        """
        found = await self.show(instance_id)
        if found.status != "FAILED":
            raise EngineRejected(
                f"rewind {instance_id!r}: the instance is {found.status}; only a failed instance can be rewound"
            )
        try:
            await self._client.rewind_orchestration(instance_id, reason=reason)
        except EngineRejected as error:
            # The engine's text names reason and remedy. Only the person who asked sees it
            details = details_of(error.__cause__) if error.__cause__ is not None else ""
            raise EngineRejected(details or str(error)) from error

    async def purge(self, instance_id: str, *, recursive: bool) -> int:
        """Delete a finished instance; return the number of deleted instances. Raises: InstanceNotFound."""
        await self._finished(instance_id, "purge")
        result = await self._client.purge_orchestration(instance_id, recursive)
        return result.deleted_instance_count

    async def purge_by(self, filter_: InstanceFilter, *, recursive: bool) -> tuple[int, bool]:
        """Delete finished instances by status and creation; return their number, and False when some are left."""
        result = await self._client.purge_orchestrations_by(
            filter_.created_from, filter_.created_to, filter_.runtime_status, recursive
        )
        return result.deleted_instance_count, result.is_complete is not False

    async def _taken(self, command: Command, origin: MessageOrigin | None) -> bool:
        try:
            await self._execute(command, origin)
        except AlreadyTaken:
            return False
        return True

    async def _finished(self, instance_id: str, what: str) -> None:
        found = await self.show(instance_id)
        if not found.finished:
            raise EngineRejected(
                f"{what} {instance_id!r}: the instance is {found.status}; wait for its end, or terminate it first"
            )


def _is_before(one: InstanceInfo, place: EntryPlace | None) -> bool:
    return place is None or (one.created_at, one.instance_id) < place


def _listed(each: Listed) -> InstanceInfo:
    found = _instance(parse_orchestration_state(each.state))
    return replace(found, saga=each.saga or found.saga, outcome=each.outcome or found.outcome)


def _fresh_id(start: StartRequest, origin: MessageOrigin | None) -> str:
    return uuid4().hex if origin is None else uuid5(NAMESPACE_OID, f"{start.orchestration}\n{origin.message_id}").hex


def _instance(state: OrchestrationState) -> InstanceInfo:
    status = state.runtime_status.name
    declared = declared_name(state.serialized_input or "") if state.name == SAGA else None
    end = saga_end(state.serialized_custom_status, state.runtime_status.value, declared)
    return InstanceInfo(
        state.instance_id,
        state.name,
        state.runtime_status.name,
        stamp(state.created_at),
        stamp(state.last_updated_at),
        payload(state.serialized_input),
        payload(state.serialized_output),
        payload(state.serialized_custom_status),
        failure(state.failure_details),
        None if end is None else end.saga,
        None if end is None or status not in FINISHED else end.outcome,
    )
