"""Instance in memory, the limits of the raised events that it has not read, and the bounded cache of instances.

Only an orchestrator knows the events that it has read. A worker in this process reports them after each turn. For
orchestrations of other workers an event counts as read when it was part of a turn with at least one action.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.values import text, timestamp

RUNNING = pb.ORCHESTRATION_STATUS_RUNNING
COMPLETED = pb.ORCHESTRATION_STATUS_COMPLETED
CONTINUED_AS_NEW = pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW
FAILED = pb.ORCHESTRATION_STATUS_FAILED
CANCELED = pb.ORCHESTRATION_STATUS_CANCELED
TERMINATED = pb.ORCHESTRATION_STATUS_TERMINATED
PENDING = pb.ORCHESTRATION_STATUS_PENDING
SUSPENDED = pb.ORCHESTRATION_STATUS_SUSPENDED
FINISHED = frozenset({COMPLETED, FAILED, CANCELED, TERMINATED})

CountKey = tuple[str, str, int, str]
"""Name of the orchestration, own name of the saga, reported status, and outcome of the saga; empty without a saga."""

ENVELOPE = 4096
"""Bytes that a message needs beside the history."""


@dataclass(frozen=True, slots=True)
class Finish:
    """End of an instance.

    has_run: an orchestrator ran, so a worker knows the name.
    seconds: since its creation.
    traceparent: trace context of its start; empty without one.
    failure: of a failed instance. cause: last failure of one of its tasks, where the history is in memory.
    """

    instance_id: str
    execution: str
    name: str
    saga: str
    status: int
    outcome: str
    has_run: bool
    seconds: float
    custom_status: str | None = None
    failure: pb.TaskFailureDetails | None = None
    cause: pb.TaskFailureDetails | None = None
    parent: str | None = None
    traceparent: str = ""

    @property
    def is_failure(self) -> bool:
        """True for a failed instance, and for one whose saga did not complete."""
        return self.status == FAILED or self.outcome not in ("", "completed", "terminated")


@dataclass(slots=True, eq=False)
class StoredInstance:
    """One orchestration instance.

    history: list of protobuf events that every turn shares; None when it is on disk only.
    inbox: events that no turn has taken, with their sequence numbers.
    execution: id of the current generation, which changes with continue-as-new and rewind. Results of earlier
    generations are dropped.
    """

    key: int
    id: str
    execution: str
    name: str
    version: str | None
    status: int
    created_at: int
    updated_at: int
    start: pb.HistoryEvent
    suspended: bool = False
    finished_at: int | None = None
    start_at: int | None = None
    turn_at: int = 0
    chunks: int = 0
    parent: str | None = None
    output: str | None = None
    custom_status: str | None = None
    failure: pb.TaskFailureDetails | None = None
    trace: pb.OrchestrationTraceContext | None = None
    saga: str | None = None
    """Own name of its saga, where it is known."""
    outcome: str | None = None
    """End of its saga."""
    counted: CountKey | None = None
    """Count that includes the instance in the file, or in the current transaction."""
    history: list[pb.HistoryEvent] | None = None
    history_bytes: int = 0
    inbox: deque[tuple[int, pb.HistoryEvent]] = field(default_factory=deque)
    token: str | None = None
    """Lease of the turn in flight."""
    turn: list[pb.HistoryEvent] | None = None
    """New events of the turn in flight, as its worker sees them."""
    taken: int = 0
    """Number of inbox events that the turn in flight has taken."""
    unread_events: int = 0
    """Number of raised events that the orchestrator has not read, as far as known."""
    unread_bytes: int = 0
    shared: bool = False
    """True when the last turn ran in this process, where no message limits the size of the history."""
    spans: Any = None
    """Spans of this execution, kept by their maker; None while there are none."""
    waiting_start: bool = False
    """True until the scheduled start time."""

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def reported(self) -> int:
        """Status that is reported to clients."""
        return SUSPENDED if self.suspended and self.status not in FINISHED else self.status

    @property
    def counted_as(self) -> CountKey:
        """Count that the instance belongs to."""
        return self.name, self.saga or "", self.reported, self.outcome or ""

    @property
    def deliverable(self) -> bool:
        """True when a turn can run as soon as a worker is free."""
        return (
            not self.suspended
            and not self.waiting_start
            and self.status not in FINISHED
            and (self.chunks == 0 or bool(self.inbox))
        )

    def next_turn_at(self, now: int) -> int:
        """Set and return the time of the next turn, in microseconds: later than that of any turn before."""
        self.turn_at = max(now, self.turn_at + 1)
        return self.turn_at

    def begin_turn(self, turn: list[pb.HistoryEvent], taken: int, *, shared: bool) -> None:
        """Record the turn that is offered to a worker. taken: number of inbox events in it. shared: see `shared`."""
        self.turn = turn
        self.taken = taken
        self.shared = shared

    def lease_turn(self, token: str) -> None:
        """Record that a worker has the turn. token: of its lease."""
        self.token = token

    def end_turn(self) -> None:
        """Forget the turn in flight. The inbox events that it has taken stay, unless they were removed before."""
        self.token = None
        self.turn = None
        self.taken = 0

    def reach_start(self) -> None:
        """Record that the scheduled start time has come."""
        self.waiting_start = False

    def suspend(self, failure: pb.TaskFailureDetails | None = None) -> None:
        """Suspend the instance. failure: reason of the engine; None: a client asked for it."""
        self.suspended = True
        self.failure = failure

    def resume(self) -> None:
        self.suspended = False
        self.failure = None

    def finish(
        self,
        status: int,
        output: str | None,
        failure: pb.TaskFailureDetails | None,
        now: int,
        saga: tuple[str, str] | None,
    ) -> None:
        """End the instance. saga: own name and outcome of its saga, where one has ended."""
        self.status = status
        self.suspended = self.waiting_start = False
        self.output, self.failure = output, failure
        self.finished_at = now
        if saga is not None:
            self.saga, self.outcome = saga

    def reopen(self, *, suspended: bool) -> None:
        """Let the finished instance run again, in an execution that has not begun yet."""
        self.status = RUNNING
        self.suspended = suspended
        self.finished_at = self.output = self.failure = self.outcome = None

    def begin_execution(self, execution: str) -> None:
        """Begin a new generation. The start event names it, too."""
        self.execution = execution
        self.start.executionStarted.orchestrationInstance.executionId.value = execution

    def drop_inbox(self) -> None:
        """Forget the events that no turn has taken."""
        self.inbox.clear()
        self.taken = 0

    def unload_history(self) -> None:
        """Keep the history on disk only."""
        self.history = None

    def count_unread(self, size: int) -> None:
        """Count a raised event of this size."""
        self.unread_events += 1
        self.unread_bytes += size

    def recount_unread(self, reported: tuple[int, int] | None = None) -> None:
        """Count the raised events in the inbox, and those that the orchestrator holds unread.

        reported: number and bytes of the latter, where the worker reports them.
        """
        sizes = [event.ByteSize() for _, event in self.inbox if event.HasField("eventRaised")]
        held, held_bytes = reported or (0, 0)
        self.unread_events, self.unread_bytes = held + len(sizes), held_bytes + sum(sizes)

    def state(self, payloads: bool) -> pb.OrchestrationState:
        """State that is reported to clients. payloads: include input and output."""
        start = self.start.executionStarted
        return pb.OrchestrationState(
            instanceId=self.id,
            name=self.name,
            version=text(self.version),
            orchestrationStatus=self.reported,  # type: ignore[arg-type] # enum values are plain ints at run time
            scheduledStartTimestamp=None if self.start_at is None else timestamp(self.start_at),
            createdTimestamp=timestamp(self.created_at),
            lastUpdatedTimestamp=timestamp(self.updated_at),
            input=start.input if payloads and start.HasField("input") else None,
            output=text(self.output) if payloads else None,
            customStatus=text(self.custom_status),
            failureDetails=self.failure,
            executionId=text(self.execution),
            completedTimestamp=None if self.finished_at is None else timestamp(self.finished_at),
            parentInstanceId=text(self.parent),
            tags=start.tags,
        )


LAST_EVENTS = 1000
"""Most events of a history in which the failure of a task is searched."""


def last_failed(history: Sequence[pb.HistoryEvent]) -> pb.HistoryEvent | None:
    """Event of the last task or child that failed, among the last events of a history."""
    for event in islice(reversed(history), LAST_EVENTS):
        if event.HasField("taskFailed") or event.HasField("subOrchestrationInstanceFailed"):
            return event
    return None


def last_failure(history: Sequence[pb.HistoryEvent]) -> pb.TaskFailureDetails | None:
    """Failure of the last task or child that failed, among the last events of a history."""
    event = last_failed(history)
    if event is None:
        return None
    return (event.taskFailed if event.HasField("taskFailed") else event.subOrchestrationInstanceFailed).failureDetails


@dataclass(frozen=True, slots=True)
class UnreadLimits:
    """Limits of unread events per instance, in number and bytes.

    message_bytes: limit of history and events of an instance whose worker gets them in one message. An eighth of the
    message is reserved for the instance's own events.
    """

    events: int
    bytes: int
    message_bytes: int

    def refuses(self, instance: StoredInstance, size: int) -> bool:
        """True when an event of this size is beyond the limits."""
        if instance.unread_events >= self.events or instance.unread_bytes + size > self.bytes:
            return True
        if instance.shared:
            return False
        return bool(instance.history_bytes + instance.unread_bytes + size + ENVELOPE > self.message_bytes * 7 // 8)


class InstanceCache:
    """Bounded working set of instances; the least recently used idle ones are evicted first.

    Limits are the number of instances, and the bytes of their histories, inputs and unread events. Instances with a
    turn in flight, and instances that the current transaction has changed, stay.
    """

    def __init__(self, max_instances: int, max_bytes: int) -> None:
        self._instances: OrderedDict[int, StoredInstance] = OrderedDict()
        self._keys: dict[str, int] = {}
        self._max_instances = max_instances
        self._max_bytes = max_bytes
        self.history_bytes = 0
        self._others: dict[int, int] = {}
        """Bytes beside the history, by key."""
        self._other_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of the instances in memory."""
        return self.history_bytes + self._other_bytes

    def __len__(self) -> int:
        return len(self._instances)

    def __iter__(self) -> Iterator[StoredInstance]:
        return iter(self._instances.values())

    def by_id(self, instance_id: str) -> StoredInstance | None:
        key = self._keys.get(instance_id)
        return None if key is None else self.by_key(key)

    def by_key(self, key: int) -> StoredInstance | None:
        instance = self._instances.get(key)
        if instance is not None:
            self._instances.move_to_end(key)
        return instance

    def add(self, instance: StoredInstance) -> None:
        self._instances[instance.key] = instance
        self._keys[instance.id] = instance.key
        self.history_bytes += instance.history_bytes
        self.measure(instance)

    def remove(self, instance: StoredInstance) -> None:
        if self._instances.pop(instance.key, None) is not None:
            self.history_bytes -= instance.history_bytes
            self._other_bytes -= self._others.pop(instance.key, 0)
            if self._keys.get(instance.id) == instance.key:
                del self._keys[instance.id]

    def clear(self) -> None:
        self._instances.clear()
        self._keys.clear()
        self._others.clear()
        self.history_bytes = self._other_bytes = 0

    def grow(self, instance: StoredInstance, size: int) -> None:
        """Record that the instance's history in memory grew by `size` bytes, which may be negative."""
        instance.history_bytes += size
        if instance.key in self._instances:
            self.history_bytes += size

    def measure(self, instance: StoredInstance) -> None:
        """Measure the instance again after a change of its start event or unread events."""
        key = instance.key
        if key in self._instances:
            size = instance.start.ByteSize() + instance.unread_bytes
            self._other_bytes += size - self._others.get(key, 0)
            self._others[key] = size

    def trim(self) -> None:
        """Evict instances beyond the limits. Call it between transactions only."""
        surplus = len(self._instances) - self._max_instances
        if surplus <= 0 and self.bytes <= self._max_bytes:
            return
        for _ in range(len(self._instances)):
            if surplus <= 0 and self.bytes <= self._max_bytes:
                break
            instance = next(iter(self._instances.values()))
            if instance.token is None:
                self.remove(instance)
                surplus -= 1
            else:
                self._instances.move_to_end(instance.key)
