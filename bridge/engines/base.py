"""Interface of engines: services of the Durable Task sidecar protocol, reached through the SDK's client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from durabletask.serialization import DataConverter

    from bridge.engines.client import EngineClient
    from bridge.engines.lineage_index import LineageIndex
    from bridge.engines.message_sealer import MessageSealer
    from bridge.engines.worker.compatibility import CompatibilityMonitor
    from bridge.engines.worker.contained_worker import RunningWorker
    from bridge.engines.workflows import Workflows
    from bridge.sqlite_engine.model.instance import Finish
    from bridge.sqlite_engine.storage.listing import ListFilter, ListPart

FinishListener = Callable[["Sequence[Finish]"], None]
"""Listener that gets the ends of instances."""

RunListener = Callable[[Sequence[str], Sequence[str]], None]
"""Listener that gets the ids of finished and of started instances. An instance in both lists runs again."""


@dataclass(frozen=True, slots=True)
class JoinedProcess:
    """Process of a `bridge worker` that has joined a hosted engine.

    pid: 0 for processes of other containers, which count as one. version: of the bridge. sessions: orchestrations in
    memory. in_flight: work items.
    """

    pid: int
    version: str
    sessions: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Memory use of a hosted engine in bytes, numbers of refused events and lineage records, and joined processes.

    joined_ends: unexpected ends of joined processes, by cause.
    """

    instance_bytes: int
    entity_bytes: int
    events_refused: int
    lineage_records: int = 0
    joined: Sequence[JoinedProcess] = ()
    joined_ends: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class MeasuredEngine(Protocol):
    """Engine that this process may host."""

    @property
    def usage(self) -> EngineUsage | None:
        """Memory use and refused events; None when another process hosts the engine."""
        ...


@dataclass(frozen=True, slots=True)
class InstanceCounts:
    """Instances of an engine, counted in the transactions that change them.

    A saga of the configuration counts under its own name, not as `bridge.saga`. Statuses are words like RUNNING.
    Outcomes are `completed`, `compensated`, `compensation_failed`, `failed` and `terminated`.

    instances: existing instances by orchestration and status.
    sagas: existing finished sagas by name and outcome, sagas of Python code included.
    ended_today: instances that ended today (UTC) by orchestration and status, those removed since included.
    sagas_today: sagas that ended today (UTC) by name and outcome.
    failed: existing FAILED instances by orchestration, without those whose saga was compensated.
    failed_today: such instances that ended today (UTC), those removed since included.
    versions: unfinished instances by orchestration and version, of those with a version.
    """

    instances: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sagas: Mapping[tuple[str, str], int] = field(default_factory=dict)
    ended_today: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sagas_today: Mapping[tuple[str, str], int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    failed_today: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], int] = field(default_factory=dict)


@runtime_checkable
class CountingEngine(Protocol):
    """Engine that counts its instances, and reports their ends."""

    async def instance_counts(self) -> InstanceCounts | None:
        """Current counts; None while they are unknown: no process of this version has opened the engine."""
        ...

    def watch_finishes(self, listener: FinishListener) -> None:
        """Call `listener`, from any thread, after each commit in which instances ended, in the process that hosts it.

        The listener of another process is never called. Call the method between start and stop.
        """
        ...


@runtime_checkable
class StoredEntities(Protocol):
    """Engine whose file this machine has: entities can be read while no process hosts it."""

    async def entity_states(self, prefix: str) -> Mapping[str, str]:
        """States of the entities whose ids begin so, by id. Operations that wait are not applied.

        prefix: like `@name@`.
        Raises: EngineUnavailable when the file cannot be read, EngineMisconfigured when a key of its encryption is
        missing.
        """
        ...


def watch_finishes(engine: Engine, listener: FinishListener) -> bool:
    """Report the ends of instances to the listener; False when the engine does not report them to any process."""
    if not isinstance(engine, CountingEngine):
        return False
    engine.watch_finishes(listener)
    return True


@runtime_checkable
class ListingEngine(Protocol):
    """Engine that lists its instances from the newest to the oldest."""

    async def newest_instances(self, wanted: ListFilter, limit: int, before: int | None) -> ListPart | None:
        """Part of the list; None while no process of this version has opened the engine.

        before: position of the last instance of the part before.
        """
        ...


async def instance_counts(engine: Engine) -> InstanceCounts | None:
    """Counts of the instances of an engine; None when it does not count them, as on the scheduler."""
    return await engine.instance_counts() if isinstance(engine, CountingEngine) else None


class Engine(Protocol):
    """Configured engine.

    durable: False when acknowledged work is lost at exit; the daemon reports that at start.
    confirms_event_delivery: True when an accepted event reaches its instance, and an event for a finished instance is
    refused. Otherwise the bridge checks the delivery afterwards.
    """

    @property
    def name(self) -> str: ...

    @property
    def durable(self) -> bool: ...

    @property
    def notifies_instance_started(self) -> bool:
        """True when any start of an instance notifies its early-message entity, in the same transaction."""
        ...

    @property
    def faults(self) -> Mapping[str, int]:
        """Number of operations of this engine that this process could not apply and gave up, by kind."""
        ...

    @property
    def messages(self) -> MessageSealer:
        """Sealer that encrypts waiting messages, unless the engine itself stores them encrypted."""
        ...

    @property
    def keeps_lineage(self) -> bool:
        """True when the engine itself keeps the lineage index, and takes records (`EngineClient.record_lineage`)."""
        ...

    @property
    def lineage(self) -> LineageIndex | None:
        """Lineage index that the bridge itself writes; None where the engine writes it, or there is none."""
        ...

    def has_no_early_messages(self, entity_id: str) -> bool:
        """True when this early-message entity is known, without a call, to have neither state nor operations."""
        ...

    @property
    def confirms_event_delivery(self) -> bool: ...

    @property
    def description(self) -> str:
        """Summary for the start-up banner in one line: kind and place, without secrets."""
        ...

    async def start(self) -> None:
        """Start the engine. Raises: EngineError when it cannot be hosted.

        An unreachable remote engine raises nothing here.
        """
        ...

    async def stop(self) -> None:
        """Stop the engine. Idempotent."""
        ...

    async def probe(self) -> None:
        """Check that the engine answers. Raises: EngineOutage."""
        ...

    @property
    def client(self) -> EngineClient:
        """Client of the engine, valid between start and stop. Each call has a deadline (`timeout`)."""
        ...

    def watch_runs(self, listener: RunListener) -> bool:
        """Call `listener`, from any thread, whenever instances start or finish from now on, whatever starts them.

        Returns False when this engine does not report runs; the listener is then never called. Call the method between
        start and stop.
        """
        ...

    def worker(
        self,
        workflows: Workflows,
        data_converter: DataConverter | None = None,
        monitor: CompatibilityMonitor | None = None,
    ) -> RunningWorker:
        """Create a worker of the SDK with the workflows registered. The caller starts and stops it.

        data_converter: conversion of the workflows' values to JSON and back; None for the SDK's own.
        monitor: gets the instances that no longer fit their code.
        """
        ...
