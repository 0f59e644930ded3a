"""Working set of the writer: instances in memory, work in flight, and the consequences of the current transaction.

Everything runs in the writer's thread. A change of the working set adds to the transaction. Its consequences (work to
send, answers to give, further operations) follow after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.sqlite_engine.hub.leases import Lease
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import FAILED, InstanceCache, StoredInstance
from bridge.sqlite_engine.model.reply import Reply
from bridge.sqlite_engine.model.work import Task, Timer
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage.ends import EndRecorder
from bridge.sqlite_engine.storage.references import References
from bridge.sqlite_engine.storage.store import Store
from bridge.sqlite_engine.storage.transaction import Transaction

T = TypeVar("T")


class OperationKind(StrEnum):
    """Kinds of operations. The values are labels of a metric."""

    CALL = "call"
    """Request of a client."""
    TURN = "turn"
    """Response of an orchestrator."""
    ACTIVITY = "activity"
    """Result of an activity."""
    BATCH = "batch"
    """Results of an entity's operations."""
    RETURN = "return"
    """Work that a worker returned, lost, or held too long."""
    WORKER = "worker"
    """Connection or end of a worker, or the end of a caller that waited."""
    TIMER = "timer"
    """Timer, delayed start or delayed signal that is due."""
    CLOCK = "clock"
    """Check of all timers after the wall clock was set."""
    MOVE = "move"
    """Consequence of the last transaction."""
    PURGE = "purge"
    """Further step of a long purge."""
    RETENTION = "retention"
    """Search for instances beyond the retention limits, and the removal of one."""
    HANDOUT = "handout"
    """Work item for a worker."""
    RECOVERY = "recovery"
    """Item found in the file at the start."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Operations that an entity has not processed."""

    entity: str


@dataclass(frozen=True, slots=True)
class Orchestration:
    """Instance, by its key."""

    key: int


Subject = Lease | Timer | Task | Queued | Orchestration


@dataclass(slots=True, eq=False)
class WriterOperation:
    """One operation of the writer.

    subject: given up when the operation cannot be applied.
    reply: reply of its caller.
    """

    kind: OperationKind
    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    reply: Reply | None = None
    subject: Subject | None = None


class Consequences(list[T]):
    """Consequences that other parts of the hub append, and one part takes."""

    def take(self) -> list[T]:
        """Remove and return all."""
        taken = self[:]
        self.clear()
        return taken


class WorkingSet:
    """Instances and work over one store, and the steps of which the hub's operations consist.

    tx: the current transaction.
    """

    def __init__(self, store: Store, options: DatabaseOptions) -> None:
        self.store = store
        self.files = PayloadFiles(directory_of(store.path))
        """Files of large payloads."""
        self.ends = None if options.ends is None else EndRecorder(store.connection, options.ends)
        """Recorder of the ends of instances; None where none are announced."""
        references = References(store.connection, store.payloads, self.files)
        self.tx = Transaction(store.connection, store.payloads, references, self.ends)
        self.instances = InstanceCache(options.max_cached_instances, options.max_cached_bytes)
        self.clock = options.clock
        self.now = self.clock.now()
        """Time of the current transaction, in microseconds, which goes back when the wall clock is set back."""
        self.stepped = True
        """True when the wall clock was set, or may have been while the file was closed: timers must be checked."""
        self.in_flight: dict[int | str, Lease] = {}
        """Turns and batches in flight, by key of the instance or id of the entity, also while neither is cached."""
        self.cancelled: set[int] = set()
        """Keys of instances whose queued activities are void."""
        self.settled: Consequences[tuple[Reply, Any]] = Consequences()
        """Answers that are given after the commit."""
        self.after: Consequences[Callable[[], None]] = Consequences()
        """Functions that run after the commit."""
        self.later: Consequences[WriterOperation] = Consequences()
        """Operations for the next transaction."""
        self.failed: Consequences[tuple[WriterOperation, Exception]] = Consequences()
        """Operations outside of transactions that cannot be applied, with their errors. Their subjects are given up."""
        self._jumps = self.clock.jumps.total()
        self._released: dict[int | str, Lease] = {}
        """Leases that the current transaction has taken out of flight."""
        self._absent: set[str] = set()
        self._key = 1
        self._seq = 1
        self._woken: dict[int, StoredInstance] = {}
        self._changed: dict[int, StoredInstance] = {}
        self._started: dict[int, StoredInstance] = {}
        self.load_counters()

    # Transaction

    def begin(self) -> bool:
        """Begin a transaction: update its time. Returns True when all timers must be checked first."""
        self.now = self.clock.now()
        jumps = self.clock.jumps.total()
        stepped = self.stepped or jumps != self._jumps
        self._jumps, self.stepped = jumps, False
        return stepped

    def undo(self) -> None:
        """Roll back the current transaction, and keep the work in flight. Raises: sqlite3.Error."""
        self.tx.rollback()
        self.in_flight.update(self._released)
        self.settled.clear()
        self.forget()
        self.instances.clear()

    def forget(self) -> None:
        """Discard the consequences of the current transaction."""
        self.after.clear()
        self._released.clear()
        self._absent.clear()
        self._woken.clear()
        self._changed.clear()
        self._started.clear()

    # Numbers

    def load_counters(self) -> None:
        self._key = max(self._key, self.store.next_key())
        self._seq = max(self._seq, self.store.next_seq())

    @property
    def last_key(self) -> int:
        """Upper limit of all instance keys."""
        return self._key

    def next_key(self) -> int:
        self._key += 1
        return self._key

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # Instances

    def note_absent(self, instance_ids: list[str]) -> None:
        """Note the unused ids among many with one read, because most ids of starts are new."""
        unknown = [each for each in instance_ids if each and self.instances.by_id(each) is None]
        if len(unknown) > 1:
            self._absent = set(unknown) - self.store.ids_present(unknown)

    def find(self, instance_id: str) -> StoredInstance | None:
        instance = self.instances.by_id(instance_id)
        if instance is not None or instance_id in self._absent:
            return instance
        return self._loaded(self.store.instance_by_id(instance_id))

    def find_key(self, key: int) -> StoredInstance | None:
        instance = self.instances.by_key(key)
        return self._loaded(self.store.instance_by_key(key)) if instance is None else instance

    def _loaded(self, instance: StoredInstance | None) -> StoredInstance | None:
        if instance is not None and not instance.finished:
            self.instances.add(instance)
            lease = self.in_flight.get(instance.key)
            if lease is not None:
                instance.token, instance.turn, instance.shared = lease.token, lease.turn, lease.stream.shares
                instance.taken, instance.turn_at = len(lease.taken), max(instance.turn_at, lease.turn_at)
        return instance

    def add(self, instance: StoredInstance) -> None:
        """Add a new instance, whose id must be free."""
        self.instances.add(instance)
        self._absent.discard(instance.id)
        self.tx.create(instance)
        self._started[instance.key] = instance

    def mark_started(self, instance: StoredInstance) -> None:
        """Report the instance as started after the commit."""
        self._started[instance.key] = instance

    def touch(self, instance: StoredInstance) -> None:
        """Mark the instance's row as changed."""
        instance.updated_at = self.now
        self._changed[instance.key] = instance
        self.tx.change(instance)

    def change_generation(self, instance: StoredInstance) -> None:
        """Record that the instance's execution, version or start event changed."""
        self.tx.change_generation(instance)
        self.instances.measure(instance)

    def wake(self, instance: StoredInstance) -> None:
        """Check after this commit whether the instance can run a turn."""
        self._woken[instance.key] = instance

    def deliver(self, instance: StoredInstance, event: pb.HistoryEvent) -> None:
        """Put the event in the inbox of an unfinished instance."""
        seq = self.next_seq()
        instance.inbox.append((seq, event))
        self.tx.put(seq, instance, event)
        self.wake(instance)

    def answer(self, instance: StoredInstance, event: pb.HistoryEvent) -> None:
        """Deliver a result. A failed instance keeps the result for a rewind; any other finished instance drops it."""
        if not instance.finished:
            self.deliver(instance, event)
        elif instance.status == FAILED:
            self.tx.put(self.next_seq(), instance, event)

    def load_history(self, instance: StoredInstance) -> list[pb.HistoryEvent]:
        if instance.history is None:
            if instance.chunks:
                instance.history, size = self.store.history(instance.key)
                self.instances.grow(instance, size - instance.history_bytes)
            else:
                instance.history = []
        return instance.history

    def append(self, instance: StoredInstance, new: Iterable[pb.HistoryEvent]) -> None:
        """Add events to the instance's history."""
        new = list(new)
        size = self.tx.append_history(instance, new)
        instance.chunks += 1
        if instance.history is not None:
            instance.history.extend(new)
            self.instances.grow(instance, size)

    def drop_history(self, instance: StoredInstance) -> None:
        """Delete the instance's history."""
        self.tx.clear(instance, "history")
        self.instances.grow(instance, -instance.history_bytes)
        instance.history = []
        instance.spans = None
        instance.chunks = 0

    # Work in flight

    def mark_in_flight(self, lease: Lease) -> None:
        """Record that the lease's turn or batch is in flight. Call it after the commit only."""
        self.in_flight[lease.subject] = lease

    def release(self, subject: int | str) -> Lease | None:
        """Mark the turn of the instance, or the batch of the entity, as no longer in flight."""
        lease = self.in_flight.pop(subject, None)
        if lease is not None:
            self._released[subject] = lease
        return lease

    # Activities

    def void_tasks(self, key: int) -> None:
        """Check the queued activities of an instance before they are sent: some were removed from the file."""
        self.cancelled.add(key)

    def waiting_for(self, task: Task) -> StoredInstance | None:
        """Instance that awaits the activity's result: the execution that scheduled it, or one that kept it."""
        instance = self.find_key(task.key)
        if instance is None or instance.execution == task.execution:
            return instance
        return instance if instance.execution == self.store.task_execution(task.seq) else None

    def fail_task(self, task: Task, failure: pb.TaskFailureDetails) -> None:
        """Report that the activity cannot be run."""
        instance = self.waiting_for(task)
        self.tx.remove("tasks", [task.seq])
        if instance is not None:
            self.answer(instance, events.task_failed(self.now, task.task_id, failure))
