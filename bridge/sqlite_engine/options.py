"""Options of a task hub, and the rules that the program around the engine adds to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bridge.encryption import Keyring
from bridge.sqlite_engine.defaults import (
    CACHED_BYTES,
    INDEX_RECORDS,
    LOST_WORKERS,
    MAX_PAYLOAD,
    MAX_REQUEST,
    PAYLOAD_AGE,
    UNREAD_BYTES,
    UNREAD_EVENTS,
)
from bridge.system.clock import SYSTEM, Clock

PERIOD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Limits of retention; None means no limit.

    age: seconds since the instance finished.
    count: number of finished instances that are kept.
    """

    age: float | None = None
    count: int | None = None
    period: float = PERIOD_SECONDS
    """Seconds between two checks."""


@dataclass(frozen=True, slots=True)
class Record:
    """Line of the index that belongs to no instance and no entity. The oldest of a kind make room for new ones.

    kind: number of the kind.
    ids: ids under which it is found.
    body: text without payload.
    """

    kind: int
    ids: frozenset[str]
    body: str


class HostRules:
    """Hooks of the engine, which run in the writer's thread. This class adds no rule.

    Texts of inputs and events are JSON as their senders wrote it, and may be empty.
    """

    companion: str | None = None
    """Name of entities that each belong to one instance, and get the signal `started` when that instance starts."""

    sagas: frozenset[str] = frozenset()
    """Orchestrations that run sagas with names of their own."""

    never_alone: frozenset[str] = frozenset()
    """Activities that wait for other work of their own worker. After losses they pause, and neither run alone nor are
    given up."""

    index: str | None = None
    """Name of the entity through which clients read the index (`hub.index`). No such entity exists."""

    workload: str | None = None
    """Name of the entity through which clients read the numbers of work items. No such entity exists."""

    def companion_of(self, instance_id: str) -> str:
        """Id of the companion entity of an instance."""
        raise NotImplementedError

    def is_disposable(self, entity_name: str) -> bool:
        """True for entities that are deleted as soon as they have no state, no lock and no operation."""
        return False

    def may_replace(self, earlier: str, later: str) -> bool:
        """True when a start with the input `later` may replace the finished instance of the input `earlier`."""
        return True

    def is_repeated_start(self, earlier: str, later: str) -> bool:
        """True when the message of the input `later` has started the instance of the input `earlier`."""
        return False

    def is_accepted_once(self, event_name: str) -> bool:
        """True for an event that an execution accepts once; further ones are refused."""
        return False

    def is_repeated_event(self, earlier: str, later: str) -> bool:
        """True when both events come from the same message."""
        return False

    def trace_of(self, event: str) -> str | None:
        """`traceparent` of the sender of an event; None when the event's text names none."""
        return None

    def saga_of(self, input_: str) -> str | None:
        """Name of the saga that an orchestration of `sagas` runs for the input; None when the input names none."""
        return None

    def saga_end(self, saga: str | None, custom_status: str | None, status: int) -> tuple[str, str] | None:
        """Name and outcome of the saga of a finished instance with this custom status; None without a saga.

        saga: name from `saga_of`.
        """
        return None

    def ids_of_start(self, orchestration: str, given: str) -> Iterable[str]:
        """Ids under which the index lists an instance because of its input."""
        return ()

    def ids_of_event(self, given: str) -> Iterable[str]:
        """Ids under which the index lists an instance because of an event."""
        return ()

    def ids_of_activity(self, activity: str, given: str) -> Iterable[str]:
        """Ids under which the index lists an instance because it calls an activity with this input."""
        return ()

    def ids_of_operation(self, entity_name: str, operation: str, given: str) -> Iterable[str]:
        """Ids under which the index lists an entity because of a signal. The entity keeps what the signal brings."""
        return ()

    def ids_of_state(self, entity_name: str, state: str) -> Iterable[str]:
        """Ids under which the index lists an entity with this state."""
        return ()

    def record_of_operation(self, entity_id: str, operation: str, given: str) -> Record | None:
        """Record of a signal that leaves no other trace; None for none."""
        return None

    def record_of(self, given: str) -> Record | None:
        """Record that a client sends to the entity `index`; None when it cannot be read."""
        return None

    def reason_against_rewind(self, custom_status: str) -> str | None:
        """Reason why a failed instance with this custom status cannot be rewound: it has handled its failure."""
        return None


@dataclass(frozen=True, slots=True)
class TracingOptions:
    """Settings of the spans that the engine makes of its histories.

    samples: decides for an instance that begins a trace, by trace id and name of its span.
    max_backlog: bytes of spans that the file keeps until they are sent; further ones are dropped.
    """

    samples: Callable[[str, str], bool]
    max_backlog: int


@dataclass(frozen=True, slots=True)
class EndsOptions:
    """Settings of the ends of instances that the file keeps until the program has announced them.

    describe: text of a `Finish` at a time in microseconds, without payload; None for an end that is not kept. It runs
    in the writer's thread.
    most: ends that the file keeps; further ones are dropped.
    """

    describe: Callable[[Any, int], str | None]
    most: int


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Limits and settings of a task hub. Sizes are in bytes."""

    max_cached_instances: int = 10_000
    max_cached_bytes: int = CACHED_BYTES
    max_work_item: int = 4 * 1024 * 1024
    """Largest message that a remote worker accepts; an instance that needs a larger work item fails."""
    max_request: int = MAX_REQUEST
    """Largest request of a client or worker, by any way to the engine; a port may accept less (`Guard.max_message`)."""
    lease_seconds: float | None = None
    """Seconds until a work item is given to another worker. None disables it, because workers cannot extend a lease."""
    disposable: bool = False
    """True when clients may empty the hub, with the calls that delete it or create it again."""
    strict: bool = False
    """True when the scheduler's limits apply."""
    clock: Clock = SYSTEM
    unread_events: int = UNREAD_EVENTS
    """Unread events that one instance may have; further events are refused."""
    unread_bytes: int = UNREAD_BYTES
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    max_lost_workers: int = LOST_WORKERS
    """Worker processes that may die while they run one work item and nothing else. 0 disables the limit."""
    keyring: Keyring | None = None
    """Keys that encrypt the payloads in the file. None leaves them unencrypted."""
    payload_age: float = PAYLOAD_AGE
    """Seconds after which the file of a large payload is removed when nothing refers to it."""
    max_payload: int = MAX_PAYLOAD
    """Largest payload that a process on a port stores in a file."""
    loss_pause: float = 1.0
    """First pause in seconds of work that was lost twice; the pause doubles each time."""
    rules: HostRules = field(default_factory=HostRules)
    index: bool = False
    """True to write the index that `HostRules.index` names."""
    index_records: int = INDEX_RECORDS
    """Records of each kind that the index keeps."""
    tracing: TracingOptions | None = None
    """Spans of workflows; None: none are made."""
    ends: EndsOptions | None = None
    """Ends of instances that the program announces; None: none are kept."""
