"""Streams of connected workers, and the leases of the work items that they hold.

Any thread may read streams and leases, end a lease, and confirm or drain a stream.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.ready import Names, ReadyQueue

ORCHESTRATION = 0
ACTIVITY = 1
ENTITY = 2
KINDS = (ORCHESTRATION, ACTIVITY, ENTITY)

DEFAULT_CREDITS = 100
"""Work items of one kind that a stream holds at once when its request names no number."""

DRAINING = "draining:"
"""Prefix of the token of work that a stopping worker returns. The worker gets no more work, and is not lost."""

LEAVING = "leaving:"
"""Prefix of the token of work that a stopping worker goes on with. The worker gets no more work, and is not lost."""

TAKES_BACK = "bridge-takes-back"
"""Metadata of the response to `Hello`: the engine knows these prefixes."""

Identity = tuple[int, int | str]
"""Kind of a work item, and its key among the items of that kind."""


def identity(kind: int, subject: Any) -> Identity:
    """Identity of a subject: key of the instance, number of the activity, or id of the entity."""
    return (kind, subject.seq if kind == ACTIVITY else subject)


class WorkerStream:
    """Connected worker: the names that it accepts, its credits, and the leases that it holds.

    send: called in the writer's thread with a WorkItem, or with a TurnRequest when `shares` is true; must not block.
    It may return the size of the item in bytes, which counts against `most_bytes` while the item is leased.
    flush: called in the writer's thread when all work of a commit was sent; None: `send` needs no further call.
    knows: returns True when this worker knows a worker that runs the name. Calls of any other name from its
    orchestrations fail at once, unless another stream accepts them. None: calls wait for a worker.
    process: identity of the worker's process, shared by all streams of the process. None: a process of its own.
    peer: address of the connection; empty when unknown.
    sessions: number and bytes of the orchestrations that the worker keeps in memory. None: unknown, or the worker takes
    no turns.
    """

    def __init__(
        self,
        request: pb.GetWorkItemsRequest,
        send: Callable[[Any], int | None],
        *,
        flush: Callable[[], None] | None = None,
        shares: bool = False,
        knows: Callable[[int, str], bool] | None = None,
        process: object | None = None,
        peer: str = "",
        sessions: tuple[int, int] | None = None,
        most_bytes: int = sys.maxsize,
    ) -> None:
        self.send = send
        self.flush = flush
        self.shares = shares
        self.knows = knows
        self.process = self if process is None else process
        self.peer = peer
        self.sessions = sessions
        self.most_bytes = self.free_bytes = most_bytes
        self.turns = ReadyQueue()
        """Turns of the orchestrations that this worker alone has in memory."""
        self.ran: Collection[str] | None = None
        """Tokens of the items that ran when the worker died; None where that is unknown."""
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
        self.is_drained = False
        """True when the worker ends the stream in good order, with none of its leased work running."""

    def confirm_tokens(self) -> None:
        """Record that the worker sends completion tokens."""
        self.sends_tokens = True

    def grant(self, lease: Lease) -> None:
        """Count a lease that the stream gets."""
        self.free[lease.kind] -= 1
        self.leases.add(lease.token)

    def spend(self, size: int) -> None:
        """Count the bytes of a leased work item."""
        self.free_bytes -= size

    def end(self, lease: Lease) -> None:
        """Return the credit of a lease. Idempotent."""
        if lease.token in self.leases:
            self.leases.discard(lease.token)
            self.free[lease.kind] += 1
            self.free_bytes += lease.size

    def reset(self) -> None:
        """Forget all leases."""
        self.leases.clear()
        self.free = list(self.credits)
        self.free_bytes = self.most_bytes

    def record_running(self, tokens: Collection[str]) -> None:
        """Record the tokens of the items that ran when the worker died."""
        self.ran = tokens

    def drain(self) -> None:
        """Mark the worker as stopping: none of its leased work runs, and its end is no loss."""
        self.is_drained = True

    def recall(self) -> bool:
        """Ask the worker to return the activities that it has not begun. It goes on working.

        Returns False when all of them have begun, as far as is known, or when the worker cannot return them.
        """
        return False


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
    stream: WorkerStream
    instance_id: str
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
    resets: int = 0
    """Number of resets of the dispatcher before it gave the lease."""
    size: int = 0
    """Bytes of the work item, for a stream that limits them."""

    def mark_sent(self, *, alone: bool, resets: int) -> None:
        """Record the circumstances in which the dispatcher gives the lease; see the attributes."""
        self.is_alone, self.resets = alone, resets

    def charge(self, size: int) -> None:
        """Count the bytes of the work item against the stream."""
        self.size = size
        self.stream.spend(size)

    def mark_void(self) -> None:
        """Let the response count no longer, while the stream still holds the lease."""
        self.void = True


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
