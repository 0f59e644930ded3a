"""Assignment of ready work to workers: queues, the workers' streams with filters and credits, and leases.

Everything runs in the writer's thread, except `Leases.take`, which any thread may call.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.storage.schema import is_file_fault

ORCHESTRATION = 0
ACTIVITY = 1
ENTITY = 2
KINDS = (ORCHESTRATION, ACTIVITY, ENTITY)

DEFAULT_CREDITS = 100
"""Work items of one kind that a stream holds at once when its request names no number."""

DRAINING = "draining:"
"""Prefix of the token of work that a stopping worker returns. The worker gets no more work, and is not lost."""

Identity = tuple[int, int | str]
"""Kind of a work item, and its key among the items of that kind."""


def identity(kind: int, subject: Any) -> Identity:
    """Identity of a subject: key of the instance, number of the activity, or id of the entity."""
    return (kind, subject.seq if kind == ACTIVITY else subject)


Names = dict[str, frozenset[str]]
"""Accepted versions by name; an empty set accepts every version."""


class Stream:
    """Connected worker: the names that it accepts, its credits, and the leases that it holds.

    The writer's thread calls `send` with a WorkItem, or with a TurnRequest when `shares` is true. `send` must not
    block.

    knows: returns True when this worker knows a worker that runs the name. Calls of any other name from its
    orchestrations fail at once, unless another stream accepts them. None: calls wait for a worker.
    peer: address of the connection; empty when unknown.
    """

    knows: Callable[[int, str], bool] | None = None

    def __init__(
        self, request: pb.GetWorkItemsRequest, send: Callable[[Any], None], *, shares: bool = False, peer: str = ""
    ) -> None:
        self.send = send
        self.shares = shares
        self.peer = peer
        self.sends_tokens = shares
        """True as soon as the worker is known to send completion tokens."""
        self.streams_history = pb.WORKER_CAPABILITY_HISTORY_STREAMING in request.capabilities
        self.credits = tuple(
            wanted if wanted > 0 else DEFAULT_CREDITS
            for wanted in (
                request.maxConcurrentOrchestrationWorkItems,
                request.maxConcurrentActivityWorkItems,
                request.maxConcurrentEntityWorkItems,
            )
        )
        self.free = list(self.credits)
        self.filters: tuple[Names | None, Names | None, Names | None] = (None, None, None)
        if request.HasField("workItemFilters"):
            chosen = request.workItemFilters
            self.filters = (
                _names(chosen.orchestrations),
                _names(chosen.activities),
                {entity.name.lower(): frozenset() for entity in chosen.entities},
            )
        self.leases: set[str] = set()
        self.connected = True
        self.process: object = self
        """Identity of the worker's process, shared by all streams of the process."""
        self.is_drained = False
        """True when the worker ends the stream in good order, with none of its leased work running."""


def _names(filters: Iterable[pb.OrchestrationFilter | pb.ActivityFilter]) -> Names:
    names: Names = {}
    for each in filters:
        known = names.get(each.name)
        versions = frozenset(each.versions)
        # A filter without versions accepts every version, whatever another filter of the same name lists.
        names[each.name] = versions if known is None else frozenset() if not known or not versions else known | versions
    return names


@dataclass(slots=True, eq=False)
class Lease:
    """Right of one stream to complete one work item."""

    token: str
    kind: int
    subject: Any
    """Key of the instance, the Task, or id of the entity."""
    name: str
    version: str | None
    stream: Stream
    instance_id: str
    epoch: int
    task_id: int = 0
    """Number of an activity as its worker knows it."""
    chunks: list[pb.OrchestratorResponse] = field(default_factory=list)
    """Parts of a response that arrives in several messages."""
    turn: list[pb.HistoryEvent] | None = None
    """New events of a turn."""
    turn_at: int = 0
    """Time of a turn, in microseconds."""
    taken: Sequence[tuple[int, pb.HistoryEvent]] = ()
    """Inbox events that a turn has taken, or operations of a batch."""
    void: bool = False
    """True when the response no longer counts, while the stream still holds the lease."""
    is_alone: bool = False
    """True when the stream's process was given no other work."""


class ReadyQueue:
    """Work of one kind that waits for a worker, oldest first per name and version."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str | None], deque[tuple[int, Hashable]]] = {}
        self.members: set[Hashable] = set()
        self._order = 0

    def __len__(self) -> int:
        return len(self.members)

    def add(self, name: str, version: str | None, item: Hashable) -> None:
        """Queue the item, unless it is queued already."""
        if item in self.members:
            return
        self.members.add(item)
        self._order += 1
        group = self._groups.get((name, version))
        if group is None:
            group = self._groups[(name, version)] = deque()
        group.append((self._order, item))

    def take(self, names: Names | None) -> tuple[str, str | None, Hashable] | None:
        """Remove and return the oldest item that the names accept, or None."""
        best: tuple[str, str | None] | None = None
        order = 0
        for group_key, group in self._groups.items():
            if (best is None or group[0][0] < order) and _accepts(names, group_key):
                best, order = group_key, group[0][0]
        if best is None:
            return None
        group = self._groups[best]
        item = group.popleft()[1]
        if not group:
            del self._groups[best]
        self.members.discard(item)
        return (*best, item)

    def clear(self) -> None:
        self._groups.clear()
        self.members.clear()


def _accepts(names: Names | None, group: tuple[str, str | None]) -> bool:
    if names is None:
        return True
    versions = names.get(group[0])
    return versions is not None and (not versions or (group[1] or "") in versions)


class Leases:
    """Open leases by token."""

    def __init__(self) -> None:
        self._by_token: dict[str, Lease] = {}
        self.get: Callable[[str], Lease | None] = self._by_token.get
        """Look up a lease without ending it."""

    def __len__(self) -> int:
        return len(self._by_token)

    def add(self, lease: Lease) -> None:
        self._by_token[lease.token] = lease

    def take(self, token: str) -> Lease | None:
        """End the lease and return it; None when it has ended already. Only one of several callers gets the lease."""
        return self._by_token.pop(token, None)

    def open(self) -> list[Lease]:
        return list(self._by_token.values())

    def put_back(self, lease: Lease) -> None:
        self._by_token[lease.token] = lease

    def find(self, kind: int, instance_id: str, task_id: int) -> Lease | None:
        """Look up the lease of a work item by instance and number, for workers that send no token."""
        wanted = (kind, instance_id, task_id)
        for lease in self.open():
            if (lease.kind, lease.instance_id, lease.task_id) == wanted and not lease.stream.sends_tokens:
                return lease
        return None

    def clear(self) -> None:
        self._by_token.clear()


@dataclass(slots=True, order=True)
class _Rest:
    until: float
    kind: int
    order: int
    name: str = field(compare=False)
    version: str | None = field(compare=False)
    subject: Any = field(compare=False)


class Dispatcher:
    """Dispatcher of ready work to streams.

    `build` makes the work item of a subject, or returns None when the work is no longer needed.
    """

    def __init__(
        self,
        build: Callable[[int, str, str | None, Any, Stream], tuple[Lease, Any] | None],
        lease_seconds: float | None = None,
        not_built: Callable[[int, Any, Exception], None] | None = None,
    ) -> None:
        self._build = build
        self._not_built = not_built
        self.not_sent: Callable[[Stream, Exception], None] = lambda stream, _: None
        """Called with a stream that accepts no more messages, and with the error."""
        self._lease_seconds = lease_seconds
        self._expiring: list[tuple[float, str]] = []
        self.ready = tuple(ReadyQueue() for _ in KINDS)
        self.streams: list[Stream] = []
        self.leases = Leases()
        self._resting: list[_Rest] = []
        self._attempts: dict[tuple[int, Hashable], int] = {}
        self._order = 0
        self.epoch = 0
        self.suspects: dict[Identity, float] = {}
        """Suspected items, which run alone, with the end of their pause by the monotonic clock."""
        self.on_done: Callable[[Lease], None] | None = None
        """Called with the lease of completed work, while a listener is set."""
        self._waiting: dict[Identity, tuple[int, str, str | None, Any]] = {}
        self._alone: Lease | None = None
        self._quiet: object | None = None

    def connect(self, stream: Stream) -> None:
        if stream not in self.streams:
            self.streams.append(stream)

    def retire(self, stream: Stream) -> None:
        """Stop sending work to a stopping worker, which may finish the work that it holds."""
        stream.is_drained = True
        if stream in self.streams:
            self.streams.remove(stream)

    def is_lost(self, caller: Stream, kind: int, name: str) -> bool:
        """True when no worker will ever accept work of this name, as far as the calling stream knows."""
        if caller.knows is None or caller.knows(kind, name):
            return False
        return not any((names := each.filters[kind]) is None or name in names for each in self.streams)

    def disconnect(self, stream: Stream) -> list[Lease]:
        """Remove the stream and return its leases. The caller queues their work again."""
        stream.connected = False
        if stream in self.streams:
            self.streams.remove(stream)
        taken = [self.leases.take(token) for token in stream.leases]
        stream.leases.clear()
        return [lease for lease in taken if lease is not None]

    def release(self, lease: Lease, *, done: bool) -> None:
        """Return the lease's credit to its stream. done: reset the count of abandoned attempts."""
        if lease.token in lease.stream.leases:
            lease.stream.leases.discard(lease.token)
            lease.stream.free[lease.kind] += 1
        if done and self._attempts:
            self._attempts.pop((lease.kind, lease.subject), None)
        if done and self.on_done is not None:
            self.on_done(lease)

    @property
    def resting(self) -> bool:
        """True when some work waits for the end of its pause."""
        return bool(self._resting)

    def rest(self, lease: Lease, delay: float | None = None) -> None:
        """Queue work again after a pause.

        delay: seconds. None: 50 ms for abandoned work, doubled at each further attempt, up to 30 s.
        """
        if delay is None:
            key = (lease.kind, lease.subject)
            attempts = self._attempts.get(key, 0)
            self._attempts[key] = attempts + 1
            delay = min(30.0, 0.05 * 2 ** min(attempts, 10))
        self._order += 1
        rest = _Rest(time.monotonic() + delay, lease.kind, self._order, lease.name, lease.version, lease.subject)
        heapq.heappush(self._resting, rest)

    def wake(self, now: float) -> None:
        """Queue the work whose pause has ended."""
        while self._resting and self._resting[0].until <= now:
            rest = heapq.heappop(self._resting)
            self.ready[rest.kind].add(rest.name, rest.version, rest.subject)

    def expired(self, now: float) -> list[Lease]:
        """End and return the leases that have expired. Without `lease_seconds` there are none."""
        ended: list[Lease] = []
        while self._expiring and self._expiring[0][0] <= now:
            lease = self.leases.take(heapq.heappop(self._expiring)[1])
            if lease is not None:
                ended.append(lease)
        return ended

    def next_wake(self) -> float | None:
        """Time at which `wake` or `expired` is next due, by the monotonic clock; None when neither is."""
        moments = [rest.until for rest in self._resting[:1]] + [moment for moment, _ in self._expiring[:1]]
        return min(moments, default=None)

    def pump(self) -> None:
        """Send all work that the streams can accept."""
        if self._waiting or self._quiet is not None:
            self._hand_out_alone()
        for kind in KINDS:
            queue = self.ready[kind]
            waiting = queue.members
            while waiting and self._round(kind, queue):
                pass
        if self._waiting and self._quiet is None:
            self._hand_out_alone()

    def _round(self, kind: int, queue: ReadyQueue) -> bool:
        handed = False
        for stream in tuple(self.streams):
            if stream.free[kind] <= 0 or (self._quiet is not None and stream.process is self._quiet):
                continue
            found = queue.take(stream.filters[kind])
            if found is None:
                continue
            handed = True
            name, version, subject = found
            if not (self.suspects and self._set_aside(kind, name, version, subject)):
                self._hand_out(stream, kind, name, version, subject)
        return handed

    def _hand_out(
        self, stream: Stream, kind: int, name: str, version: str | None, subject: Any, *, alone: bool = False
    ) -> Lease | None:
        """Send work to the stream. Returns None when there is nothing to do or no work item can be made."""
        try:
            built = self._build(kind, name, version, subject, stream)
        except Exception as error:
            if self._not_built is None or is_file_fault(error):
                raise
            self._not_built(kind, subject, error)
            return None
        if built is None:
            return None
        lease, item = built
        lease.is_alone = alone
        stream.free[kind] -= 1
        stream.leases.add(lease.token)
        self.leases.add(lease)
        if self._lease_seconds is not None:
            heapq.heappush(self._expiring, (time.monotonic() + self._lease_seconds, lease.token))
        try:
            stream.send(item)
        except Exception as error:
            self.not_sent(stream, error)
        return lease

    def _set_aside(self, kind: int, name: str, version: str | None, subject: Any) -> bool:
        """Pause a suspected item, or keep it until it can run alone. Returns False for all other work."""
        key = identity(kind, subject)
        until = self.suspects.get(key)
        if until is None:
            return False
        if until <= time.monotonic():
            self._waiting[key] = (kind, name, version, subject)
        elif until < math.inf:
            self._order += 1
            heapq.heappush(self._resting, _Rest(until, kind, self._order, name, version, subject))
        return True

    def _hand_out_alone(self) -> None:
        """Give one suspected item to a process that has no other work.

        Until the item is given, and while it runs, that process gets no other work.
        """
        if self._alone is not None and self.leases.get(self._alone.token) is not None:
            return
        self._alone = self._quiet = None
        busy = Counter(id(lease.stream.process) for lease in self.leases.open())
        for key, (kind, name, version, subject) in list(self._waiting.items()):
            if key not in self.suspects:
                del self._waiting[key]
                self.ready[kind].add(name, version, subject)
                continue
            takers = [stream for stream in self.streams if _accepts(stream.filters[kind], (name, version))]
            if not takers:
                continue
            stream = min(takers, key=lambda each: busy[id(each.process)])
            if busy[id(stream.process)]:
                self._quiet = stream.process
                return
            del self._waiting[key]
            lease = self._hand_out(stream, kind, name, version, subject, alone=True)
            if lease is not None:
                self._alone, self._quiet = lease, stream.process
                return

    def reset(self, kept: Iterable[Lease] = ()) -> None:
        """Drop all work, and all leases but the void ones to keep. Streams stay connected."""
        self.epoch += 1
        for queue in self.ready:
            queue.clear()
        self.leases.clear()
        self._resting.clear()
        self._expiring.clear()
        self._attempts.clear()
        self.suspects.clear()
        self._waiting.clear()
        self._alone = self._quiet = None
        for stream in self.streams:
            stream.leases.clear()
            stream.free = list(stream.credits)
        for lease in kept:
            self.leases.add(lease)
            lease.stream.leases.add(lease.token)
            lease.stream.free[lease.kind] -= 1
