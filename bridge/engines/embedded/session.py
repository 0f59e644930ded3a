"""Extended sessions: an orchestration stays in memory between its turns, and a turn takes in only what is new.

Without them each turn runs the orchestrator from its beginning, so that the cost of n turns grows as n squared. The
Durable Task Framework has the same under the same name. A session is what a replay would build, and no more: it is used
when the history goes on exactly where it stopped, and forgotten at any doubt.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import chain
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import CancellableTask
from durabletask.worker import ExecutionResults, _OrchestrationExecutor

from bridge.engines.containment import close_quietly
from bridge.engines.embedded.workitem import TurnRequest


class Session(_OrchestrationExecutor):
    """One orchestration. Used by one thread at a time."""

    _context: Any = None
    _begin = 0
    _turn: list[pb.HistoryEvent]
    size = 0
    """Bytes of its history: about what it takes in memory."""

    def process_event(self, ctx: Any, event: pb.HistoryEvent) -> None:
        self._context = ctx
        super().process_event(ctx, event)

    def follows(self, request: TurnRequest) -> bool:
        """Whether this turn comes right after the last one: the history has that one's events, the very same objects.

        The first of them was made for that turn alone, so no other turn in its place can be mistaken for it.
        """
        past, turn = request.pastEvents, self._turn
        end = self._begin + len(turn)
        return len(past) >= end and past[self._begin] is turn[0] and past[end - 1] is turn[-1]

    def run(self, request: TurnRequest) -> ExecutionResults:
        """A turn. Raises: what the SDK's executor raises."""
        if self._context is None:
            result = self.execute(request.instanceId, request.pastEvents, request.newEvents)
        else:
            result = self._go_on(self._context, request)
        self._begin, self._turn = len(request.pastEvents), request.newEvents
        self.size = request.historyBytes
        for event in request.newEvents:
            self.size += event.ByteSize()
        return result

    def _go_on(self, context: Any, request: TurnRequest) -> ExecutionResults:
        """What `execute` of the SDK does, from where the last turn ended."""
        process = super().process_event
        try:
            context._is_replaying = True
            for event in request.pastEvents[self._begin + len(self._turn) :]:
                process(context, event)
            context._is_replaying = False
            for event in request.newEvents:
                process(context, event)
        except Exception as error:
            context.set_failed(error)
        return ExecutionResults(
            context.get_actions(), context._encoded_custom_status, context._orchestration_trace_context
        )

    @property
    def unread(self) -> tuple[int, int]:
        """Number and bytes of events that came and that no wait has taken."""
        held = self._context._received_events if self._context is not None else None
        if not held:
            return 0, 0
        sizes = [len(data or "") + len(name) for name, events in held.items() for _, data in events]
        return len(sizes), sum(sizes)

    @property
    def over(self) -> bool:
        """Nothing can follow."""
        return self._context is None or self._context._is_complete

    def close(self) -> None:
        """Let go of the orchestrator, and of what refers to itself: a collector might find it hours later only.

        Its `finally` clauses run, as they do behind every replay.
        """
        context, self._context = self._context, None
        if context is None:
            return
        close_quietly(context._generator)
        waits = [*context._pending_tasks.values(), *chain.from_iterable(context._pending_events.values())]
        for wait in waits:
            if isinstance(wait, CancellableTask):
                wait.set_cancel_handler(_nothing)
        vars(context).clear()


def _nothing() -> None:
    """What cancelling a wait of nobody does."""


class Sessions:
    """The sessions of a worker; the least recently used go first. Used from any thread.

    most: how many there are at most. most_bytes: of history, all together.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, request: TurnRequest) -> Session | None:
        """The session that this turn follows; it is the caller's then."""
        with self._lock:
            found = self._kept.pop(request.instanceId, None)
            if found is not None:
                self.bytes -= found.size
        if found is None or found.follows(request):
            return found
        found.close()
        return None

    def keep(self, instance_id: str, session: Session) -> None:
        """Until its next turn, or until there is no room."""
        gone: list[Session] = []
        with self._lock:
            former = self._kept.pop(instance_id, None)
            if former is not None:
                self.bytes -= former.size
                gone.append(former)
            self._kept[instance_id] = session
            self.bytes += session.size
            while len(self._kept) > self.most or self.bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self.bytes -= oldest.size
                gone.append(oldest)
        for each in gone:
            each.close()

    def clear(self) -> None:
        with self._lock:
            gone = self._kept
            self._kept = OrderedDict()
            self.bytes = 0
        for each in gone.values():
            each.close()
