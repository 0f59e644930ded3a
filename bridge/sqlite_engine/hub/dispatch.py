"""Assignment of ready work to workers, within the filters and credits of their streams."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from bridge.sqlite_engine.hub.balance import Balance
from bridge.sqlite_engine.hub.leases import (
    ACTIVITY,
    ENTITY,
    KINDS,
    ORCHESTRATION,
    Identity,
    Lease,
    Leases,
    WorkerStream,
    identity,
)
from bridge.sqlite_engine.hub.ready import Group, ReadyQueue, accepts
from bridge.sqlite_engine.hub.tokenless import Tokenless
from bridge.sqlite_engine.hub.turn_order import Motion
from bridge.sqlite_engine.model.values import new_id
from bridge.sqlite_engine.storage.schema import is_file_fault

MAX_ROWS = 1000
"""Rows of `Dispatcher.work`: callers choose the names of their work."""


def _leased(stream: WorkerStream) -> int:
    return len(stream.leases)


@dataclass(slots=True, order=True)
class _Pause:
    until: float
    kind: int
    order: int
    name: str = field(compare=False)
    version: str | None = field(compare=False)
    subject: Any = field(compare=False)


class Dispatcher:
    """Dispatcher of ready work to streams.

    build: makes the work item of a subject under a token, or returns None when the work is no longer needed.
    not_built: called with a subject whose work item cannot be made, and with the error.
    never_alone: activities that run beside other work also when they are suspected.
    """

    def __init__(
        self,
        build: Callable[[int, Any, WorkerStream, str], tuple[Lease, Any] | None],
        not_built: Callable[[int, Any, Exception], None],
        tokenless: Tokenless,
        lease_seconds: float | None = None,
        never_alone: frozenset[str] = frozenset(),
    ) -> None:
        self._build = build
        self._not_built = not_built
        self._tokenless = tokenless
        self._not_sent: Callable[[WorkerStream, Exception], None] = lambda stream, _: None
        self._lease_seconds = lease_seconds
        self._never_alone = never_alone
        self._expiring: list[tuple[float, str]] = []
        self.ready = tuple(ReadyQueue() for _ in KINDS)
        self.starts = ReadyQueue()
        """First turns of new orchestrations."""
        self.motion = Motion()
        self._balance = Balance()
        self.owners: dict[str, WorkerStream] = {}
        """Workers that alone have an orchestration in memory, by instance id. Their streams keep the table."""
        self.streams: list[WorkerStream] = []
        self._flushing: list[WorkerStream] = []
        self.leases = Leases()
        self._paused: list[_Pause] = []
        self._attempts: dict[tuple[int, Hashable], int] = {}
        self._order = 0
        self._resets = 0
        self.start_id = new_id()[:12]
        """Begin of all completion tokens: a worker may answer work from before a restart of the engine."""
        self._token = 0
        self._suspects: dict[Identity, float] = {}
        self._on_done: Callable[[Lease], None] | None = None
        self._waiting: dict[Identity, tuple[int, str, str | None, Any]] = {}
        self._alone: Lease | None = None
        self._quiet: object | None = None

    def report_unsent_to(self, listener: Callable[[WorkerStream, Exception], None]) -> None:
        """Call the listener with each stream that accepts no more messages, and with the error."""
        self._not_sent = listener

    def report_done_to(self, listener: Callable[[Lease], None] | None) -> None:
        """Call the listener with the lease of completed work; None for no listener."""
        self._on_done = listener

    def suspect(self, item: Identity, until: float | None) -> None:
        """Run an item alone after a pause, which ends at a time of the monotonic clock. None: suspect it no more.

        An activity of `never_alone` only pauses.
        """
        if until is None:
            self._suspects.pop(item, None)
        else:
            self._suspects[item] = until

    def suspected_until(self, item: Identity) -> float | None:
        """End of the pause of a suspected item; None for an item that is not suspected."""
        return self._suspects.get(item)

    def is_current(self, lease: Lease) -> bool:
        """False for a lease that was given before the last reset."""
        return lease.resets == self._resets

    def connect(self, stream: WorkerStream) -> None:
        if stream not in self.streams:
            self.streams.append(stream)
            self._streams_changed()

    def _streams_changed(self) -> None:
        self.motion.set_limits(self.streams)
        self._flushing = [stream for stream in self.streams if stream.flush is not None]

    def _remove(self, stream: WorkerStream) -> None:
        """Send nothing more to the stream; its own turns go to the other workers."""
        if stream in self.streams:
            self.streams.remove(stream)
            self._streams_changed()
            for instance_id in [each for each, owner in self.owners.items() if owner is stream]:
                del self.owners[instance_id]
        for turn in stream.turns.take_all():
            self.ready[ORCHESTRATION].add(*turn)

    def add_turn(self, instance_id: str, name: str, version: str | None, key: int, *, is_new: bool) -> None:
        """Queue a turn. is_new: the first one of its orchestration."""
        queue = self.starts
        if not is_new:
            owner = self.owners.get(instance_id)
            queue = self.ready[ORCHESTRATION] if owner is None else owner.turns
        queue.add(name, version, key)

    def retire(self, stream: WorkerStream) -> None:
        """Stop sending work to a stopping worker, which may finish the work that it holds."""
        stream.drain()
        self._remove(stream)

    def work(self) -> list[tuple[int, str, str | None, int, int]]:
        """Kind, name and version of work, with the numbers of items that wait for a worker and that workers hold.

        Without items that pause or wait for a time. At most MAX_ROWS rows: those with the most items.
        """
        waiting: Counter[tuple[int, str, str | None]] = Counter()
        held: Counter[tuple[int, str, str | None]] = Counter()
        turns = (self.starts, *(stream.turns for stream in self.streams))
        for kind, queue in (*zip(KINDS, self.ready, strict=True), *((ORCHESTRATION, each) for each in turns)):
            for (name, version), number in queue.sizes():
                waiting[kind, name, version] += number
        for kind, name, version, _ in self._waiting.values():
            waiting[kind, name, version] += 1
        for lease in self.leases.open():
            if not lease.void:
                held[lease.kind, lease.name, lease.version] += 1
        rows = [(*each, waiting[each], held[each]) for each in waiting.keys() | held.keys()]
        return heapq.nlargest(MAX_ROWS, rows, key=lambda row: row[3] + row[4])

    def is_lost(self, caller: WorkerStream, kind: int, name: str) -> bool:
        """True when no worker will ever accept work of this name, as far as the calling stream knows."""
        if caller.knows is None or caller.knows(kind, name):
            return False
        return not any((names := each.filters[kind]) is None or name in names for each in self.streams)

    def disconnect(self, stream: WorkerStream) -> list[Lease]:
        """Remove the stream and return its leases. The caller queues their work again."""
        self._remove(stream)
        taken = [self.leases.take(token) for token in stream.leases]
        stream.leases.clear()
        return [lease for lease in taken if lease is not None]

    def release(self, lease: Lease, *, done: bool) -> None:
        """Return the lease's credit to its stream. done: reset the count of abandoned attempts."""
        lease.stream.end(lease)
        if done and self._attempts:
            self._attempts.pop((lease.kind, lease.subject), None)
        if done and self._on_done is not None:
            self._on_done(lease)

    def end_lease(self, lease: Lease, *, done: bool) -> None:
        """Release the lease, and queue a turn that waited for its end. done: as for `release`."""
        self.release(lease, done=done)
        waited = self._tokenless.end(lease, is_lost=not done)
        if waited is not None:
            self.ready[ORCHESTRATION].add(*waited)

    def mark_void(self, lease: Lease) -> None:
        """Mark the lease of a turn as void: its response no longer counts."""
        lease.mark_void()
        if lease.token in lease.stream.leases:  # not ended in the same transaction
            self._tokenless.mark_void(lease)

    @property
    def has_pauses(self) -> bool:
        """True when some work waits for the end of its pause."""
        return bool(self._paused)

    def requeue_later(self, lease: Lease, delay: float | None = None) -> None:
        """Queue work again after a pause.

        delay: seconds. None: 50 ms for abandoned work, doubled at each further attempt, up to 30 s.
        """
        if delay is None:
            key = (lease.kind, lease.subject)
            attempts = self._attempts.get(key, 0)
            self._attempts[key] = attempts + 1
            delay = min(30.0, 0.05 * 2 ** min(attempts, 10))
        self._order += 1
        pause = _Pause(time.monotonic() + delay, lease.kind, self._order, lease.name, lease.version, lease.subject)
        heapq.heappush(self._paused, pause)

    def wake(self, now: float) -> None:
        """Queue the work whose pause has ended, and new orchestrations that have waited for slow ones."""
        self.motion.wake(now)
        while self._paused and self._paused[0].until <= now:
            pause = heapq.heappop(self._paused)
            self.ready[pause.kind].add(pause.name, pause.version, pause.subject)

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
        moments = [pause.until for pause in self._paused[:1]] + [moment for moment, _ in self._expiring[:1]]
        if self.motion.holds:
            moments.append(self.motion.stalled_until())
        if self._balance.due is not None:
            moments.append(self._balance.due)
        return min(moments, default=None)

    def pump(self) -> None:
        """Send all work that the streams can accept."""
        if self._waiting or self._quiet is not None:
            self._send_alone()
        if len(self._flushing) > 1:
            # Several processes: the next item goes to the one that has the fewest
            self.streams.sort(key=_leased)
        self._turns()
        for kind in (ACTIVITY, ENTITY):
            queue = self.ready[kind]
            waiting = queue.members
            while waiting and self._round(kind, queue):
                pass
        if self._waiting and self._quiet is None:
            self._send_alone()
        if len(self._flushing) > 1 and not self.ready[ACTIVITY].members and self._quiet is None:
            self._balance.check(self._flushing, time.monotonic())
        for stream in self._flushing:
            assert stream.flush is not None
            stream.flush()

    def _turns(self) -> None:
        """Send turns: of orchestrations that one worker has in memory, then of all begun ones, then of new ones."""
        for stream in self._flushing:
            while stream.turns.members and self._next(ORCHESTRATION, stream, stream.turns):
                pass
        begun, starts = self.ready[ORCHESTRATION], self.starts
        while begun.members and self._round(ORCHESTRATION, begun):
            pass
        self.motion.begin_round()
        while starts.members and self._round(ORCHESTRATION, starts, self.motion.may_begin):
            pass

    def _round(self, kind: int, queue: ReadyQueue, permits: Callable[[Group], bool] | None = None) -> bool:
        handed = False
        for stream in tuple(self.streams):
            if stream.free[kind] > 0 and self._next(kind, stream, queue, permits):
                handed = True
        return handed

    def _next(
        self, kind: int, stream: WorkerStream, queue: ReadyQueue, permits: Callable[[Group], bool] | None = None
    ) -> bool:
        """Send the next item that the stream can accept. Returns False when there is none."""
        if stream.free[kind] <= 0 or stream.free_bytes <= 0:
            return False
        if self._quiet is not None and stream.process is self._quiet:
            return False
        found = queue.take(stream.filters[kind], permits)
        if found is None:
            return False
        name, version, subject = found
        if not (self._suspects and self._set_aside(kind, name, version, subject)):
            lease = self._send(stream, kind, subject)
            if lease is not None and queue is self.starts:
                self.motion.begin(lease.subject, (name, version))
        return True

    def _send(self, stream: WorkerStream, kind: int, subject: Any, *, alone: bool = False) -> Lease | None:
        """Send work to the stream. Returns None when there is nothing to do or no work item can be made."""
        self._token += 1
        try:
            built = self._build(kind, subject, stream, f"{self.start_id}-{self._resets}-{self._token}")
        except Exception as error:
            if is_file_fault(error):
                raise
            self._not_built(kind, subject, error)
            return None
        if built is None:
            return None
        lease, item = built
        lease.mark_sent(alone=alone, resets=self._resets)
        stream.grant(lease)
        self.leases.add(lease)
        if self._lease_seconds is not None:
            heapq.heappush(self._expiring, (time.monotonic() + self._lease_seconds, lease.token))
        try:
            size = stream.send(item)
            if size is not None:
                lease.charge(size)
        except Exception as error:
            self._not_sent(stream, error)
        return lease

    def _set_aside(self, kind: int, name: str, version: str | None, subject: Any) -> bool:
        """Pause a suspected item, or keep it until it can run alone. Returns False for all other work."""
        key = identity(kind, subject)
        until = self._suspects.get(key)
        if until is None:
            return False
        if until <= time.monotonic():
            if kind == ACTIVITY and name in self._never_alone:
                return False
            self._waiting[key] = (kind, name, version, subject)
        elif until < math.inf:
            self._order += 1
            heapq.heappush(self._paused, _Pause(until, kind, self._order, name, version, subject))
        return True

    def _send_alone(self) -> None:
        """Give one suspected item to a process that has no other work.

        Until the item is given, and while it runs, that process gets no other work.
        """
        if self._alone is not None and self.leases.get(self._alone.token) is not None:
            return
        self._alone = self._quiet = None
        busy = Counter(id(lease.stream.process) for lease in self.leases.open())
        for key, (kind, name, version, subject) in list(self._waiting.items()):
            if key not in self._suspects:
                del self._waiting[key]
                self.ready[kind].add(name, version, subject)
                continue
            takers = [stream for stream in self.streams if accepts(stream.filters[kind], (name, version))]
            if not takers:
                continue
            stream = min(takers, key=lambda each: busy[id(each.process)])
            if busy[id(stream.process)]:
                self._quiet = stream.process
                return
            del self._waiting[key]
            lease = self._send(stream, kind, subject, alone=True)
            if lease is not None:
                self._alone, self._quiet = lease, stream.process
                return

    def reset(self) -> None:
        """Drop all work, and all leases but void ones of workers without tokens. Streams stay connected."""
        kept = self._tokenless.reset(self.leases.open())
        self._resets += 1
        for queue in (*self.ready, self.starts, *(stream.turns for stream in self.streams)):
            queue.clear()
        self.motion.clear()
        self._balance.clear()
        self.leases.clear()
        self._paused.clear()
        self._expiring.clear()
        self._attempts.clear()
        self._suspects.clear()
        self._waiting.clear()
        self._alone = self._quiet = None
        for stream in self.streams:
            stream.reset()
        for lease in kept:
            self.leases.add(lease)
            lease.stream.grant(lease)
