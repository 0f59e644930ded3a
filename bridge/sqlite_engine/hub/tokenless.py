"""Answers without a completion token, as Java's SDK up to 1.5.0 and Go's send them.

Such an answer has only the id of its instance and the number of its activity; nothing identifies its execution or turn.
These rules keep an answer from being applied to other work with the same id:

- While an answer for an activity may still come, another activity of the same number is handed out under a new number.
- While a worker still runs a turn that no longer counts, the turns of a new instance with the same id wait.
- After a worker was lost with a turn, one answer from another connection than that of the turn's present worker is
  refused as the late answer of the lost one.

Workers that have sent a token are exempt. Everything but `is_late` runs in the writer's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from bridge.sqlite_engine.hub.leases import ACTIVITY, ORCHESTRATION, Lease, WorkerStream
from bridge.sqlite_engine.model.work import Task

REMEMBERED = 10_000
"""Number of activities, and of instances, for which late answers are recognised."""

FIRST_NUMBER = 1 << 30
"""First number that replaces an activity's own number. Orchestrations count from 0."""

Ready = tuple[str, str | None, Any]
"""Name, version and subject of ready work."""


class Tokenless:
    """Answers that may still come without a token."""

    def __init__(self) -> None:
        self._activities: OrderedDict[tuple[str, int], tuple[int, int]] = OrderedDict()
        """Sequence number of the activity, and number of answers that may come, by instance id and number."""
        self._turns: dict[str, Lease] = {}
        """Open leases of turns that no longer count, by instance id."""
        self._waiting: dict[str, Ready] = {}
        """Turns that wait for the end of another one, by instance id."""
        self._lost: OrderedDict[str, int] = OrderedDict()
        """Number of turns without an answer from their lost workers, by instance id."""
        self._next = FIRST_NUMBER

    def number(self, task: Task, instance_id: str, stream: WorkerStream) -> int:
        """Return a number that identifies the activity in its answer."""
        if stream.sends_tokens:
            return task.task_id
        key = (instance_id, task.task_id)
        if self._activities.get(key, (task.seq, 0))[0] != task.seq:
            key = (instance_id, self._next)
            self._next = FIRST_NUMBER + (self._next + 1) % FIRST_NUMBER
        _, answers = self._activities.pop(key, (task.seq, 0))
        self._activities[key] = (task.seq, answers + 1)
        if len(self._activities) > REMEMBERED:
            self._activities.popitem(last=False)
        return key[1]

    def mark_void(self, lease: Lease) -> None:
        """Record that a worker runs a turn that no longer counts."""
        if not lease.stream.sends_tokens:
            self._turns[lease.instance_id] = lease

    def must_wait(self, instance_id: str, stream: WorkerStream, ready: Ready) -> bool:
        """True when the turn must wait for the end of another one. It is then returned by `end`."""
        if stream.sends_tokens or instance_id not in self._turns:
            return False
        self._waiting[instance_id] = ready
        return True

    def end(self, lease: Lease, *, is_lost: bool) -> Ready | None:
        """Record the end of a lease. Returns the turn that waited for it.

        is_lost: True when the lease ended without an answer, which may still come.
        """
        if lease.kind == ACTIVITY and not is_lost:
            self._answered((lease.instance_id, lease.task_id), lease.subject.seq)
        elif lease.kind == ORCHESTRATION and is_lost and not lease.stream.sends_tokens:
            self._lost[lease.instance_id] = self._lost.pop(lease.instance_id, 0) + 1
            if len(self._lost) > REMEMBERED:
                self._lost.popitem(last=False)
        if self._turns.get(lease.instance_id) is not lease:
            return None
        del self._turns[lease.instance_id]
        return self._waiting.pop(lease.instance_id, None)

    def _answered(self, key: tuple[str, int], seq: int) -> None:
        known, answers = self._activities.get(key, (None, 0))
        if known != seq:
            return
        if answers > 1:
            self._activities[key] = (seq, answers - 1)
        else:
            del self._activities[key]

    def is_late(self, lease: Lease | None, instance_id: str, peer: str) -> bool:
        """True when an answer to a turn comes from a worker that was lost with it. Callable from any thread.

        lease: of the turn that runs at present.
        """
        if lease is not None and lease.stream.peer == peer:
            return False
        answers = self._lost.pop(instance_id, 0)
        if answers > 1:
            self._lost[instance_id] = answers - 1
        return answers > 0

    def reset(self, leases: Iterable[Lease]) -> list[Lease]:
        """Withdraw the turns among the open leases when all work is dropped. Returns their leases."""
        self._waiting.clear()
        self._turns.clear()
        kept = [lease for lease in leases if lease.kind == ORCHESTRATION and not lease.stream.sends_tokens]
        for lease in kept:
            lease.mark_void()
            self.mark_void(lease)
        return kept
