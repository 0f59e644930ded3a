"""Worker whose work arrives through a channel, in a process of the daemon or in `bridge worker` on its machine."""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
from collections.abc import Callable
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import ExecutionResults

from bridge.engines.embedded.pools import PooledWorker, PoolStub
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import Item
from bridge.engines.embedded.processes.messages import ItemKind, split_work, turn_done
from bridge.engines.embedded.processes.settings import HEADER, SLOT, ProcessSettings
from bridge.engines.embedded.session import Session
from bridge.engines.payloads.large_payloads import FilePayloadStore
from bridge.engines.worker.failures import type_name
from bridge.sqlite_engine.hub.leases import DRAINING
from bridge.sqlite_engine.hub.work_items import ActivityItem, TurnRequest, TurnResponse
from bridge.system.slots import ThreadSlots

logger = logging.getLogger("bridge.engines.embedded.processes")

MAX_BATCH = 512 * 1024
"""Bytes of results from which on a frame takes no more."""


class ChildTurn(TurnRequest):
    """Turn of the channel. after: token of the turn after which the past events begin; empty for the whole history."""

    __slots__ = ("after",)
    after: str


class ChildSession(Session):
    """Session whose history the daemon compares: a turn names the one at whose end the session must be."""

    _token = ""
    _past: list[pb.HistoryEvent]
    _new: list[pb.HistoryEvent]

    def follows(self, request: TurnRequest) -> bool:
        return isinstance(request, ChildTurn) and request.after == self._token

    def run(self, request: TurnRequest) -> ExecutionResults:
        """Run a turn. Afterwards the request has the whole history, for those who inspect the turn."""
        self._token = request.completionToken
        result: ExecutionResults
        if self.context is None:
            result = self.execute(request.instanceId, request.pastEvents, request.newEvents)
            self._past = request.pastEvents
        else:
            result = self.continue_turn(request.pastEvents, request.newEvents)
            self._past += chain(self._new, request.pastEvents)
            request.pastEvents = self._past
        self._new = request.newEvents
        return result


class Outbox:
    """Results on their way to the daemon. One thread sends all that wait in one frame.

    on_lost: called once when the daemon has gone.
    """

    def __init__(self, channel: Channel, on_lost: Callable[[], None]) -> None:
        self._channel = channel
        self._on_lost = on_lost
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self.put: Callable[[Item], None] = self._queue.put
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, and stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        queue = self._queue
        while True:
            item = queue.get()
            items: list[Item] = []
            size = 0
            try:
                while item is not None:
                    items.append(item)
                    size += len(item[1])
                    if size > MAX_BATCH:
                        break
                    item = queue.get_nowait()
            except Empty:
                pass
            if items:
                try:
                    self._channel.send_all(items)
                except Exception as error:  # also MemoryError: what this process holds must go on elsewhere
                    if not isinstance(error, OSError):
                        logger.error("Results cannot be sent: %s", type_name(error))
                    self._on_lost()
                    return
            if item is None:
                return


class ChannelStub(PoolStub):
    """Stub for the SDK's executors that sends results through the channel."""

    def __init__(self, worker: ProcessWorker, outbox: Outbox) -> None:
        super().__init__(worker.failed)
        self._kept = worker.sessions.has
        self._put = outbox.put

    def give_back(self, token: str) -> None:
        self._put((ItemKind.RETURNED, f"{DRAINING}{token}".encode()))

    def CompleteOrchestratorTask(self, response: TurnResponse | pb.OrchestratorResponse) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.TURN_DONE, turn_done(response, is_kept=self._kept(response.instanceId))))

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.ACTIVITY_DONE, response.SerializeToString()))

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.ENTITY_DONE, result.SerializeToString()))

    def AbandonTaskOrchestratorWorkItem(self, request: pb.AbandonOrchestrationTaskRequest) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.RETURNED, request.completionToken.encode()))

    def AbandonTaskActivityWorkItem(self, request: pb.AbandonActivityTaskRequest) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.RETURNED, request.completionToken.encode()))

    def AbandonTaskEntityWorkItem(self, request: pb.AbandonEntityTaskRequest) -> None:  # noqa: N802 -- the protocol's name
        self._put((ItemKind.RETURNED, request.completionToken.encode()))


class SlotRecord:
    """Record of the tokens that threads of this process run, in memory that the daemon reads."""

    def __init__(self, descriptor: int) -> None:
        # A descriptor of its own: late threads may use the record after the caller has closed the given one
        file = open(os.dup(descriptor), "rb+", buffering=0)  # noqa: PTH123, SIM115 -- a descriptor has no path

        def grow(size: int) -> mmap.mmap | None:
            try:
                file.truncate(size)
                return mmap.mmap(file.fileno(), 0)
            except OSError:
                return None

        slots = ThreadSlots(mmap.mmap(descriptor, 0), grow, SLOT, HEADER)
        self._write = slots.write
        self.end = slots.clear

    def begin(self, token: str) -> None:
        self._write(token.encode())

    def resume(self) -> None:
        """Record nothing: the daemon knows which processes run."""

    drain = resume


class ProcessWorker(PooledWorker):
    """Worker of a process of its own."""

    def __init__(self, settings: ProcessSettings, running: SlotRecord, outbox: Outbox, **options: Any) -> None:
        sessions = sys.maxsize if settings.sessions else 0  # the daemon limits them
        super().__init__(
            store=None if settings.payloads is None else FilePayloadStore(settings.payloads),
            activity_threads=settings.threads,
            sessions=sessions,
            session_bytes=sys.maxsize,
            running=running,
            **options,
        )
        self.session_type = ChildSession
        self._begin, self._end = running.begin, running.end
        self._put = outbox.put

    def has_history(self, request: TurnRequest) -> bool:
        return not (isinstance(request, ChildTurn) and request.after)

    def replay_turn(self, request: Any, stub: Any, token: Any) -> None:
        if self.has_history(request):
            super().replay_turn(request, stub, token)
        else:
            self._need_history(request, stub)

    def _need_history(self, request: ChildTurn, stub: Any) -> None:
        """Request the turn again with its whole history."""
        stub.CompleteOrchestratorTask(
            pb.OrchestratorResponse(
                instanceId=request.instanceId, completionToken=request.completionToken, requiresHistory=True
            )
        )

    def failed(self, token: str, error: BaseException) -> None:
        """Return work whose executor raised unexpectedly."""
        self.report_failure(error)
        self._put((ItemKind.RETURNED, token.encode()))

    def expect(self, item: Item) -> None:
        """Record that this thread takes a large item: the process may end for lack of memory before a thread runs it.

        item: its kind and the beginning of its body. `end_expected` ends the record.
        """
        kind, body = item
        self._begin(split_work(split_work(body)[1] if kind == ItemKind.TURN else body)[0])

    def end_expected(self) -> None:
        """Record that this thread has queued what it has received."""
        self._end()

    def take_item(self, kind: int, body: bytes) -> None:
        """Carry out an item from the daemon: queue work, or do what the item asks for. Raises: DecodeError."""
        if kind == ItemKind.FORGET:
            self.sessions.drop(body.decode())
            return
        if kind == ItemKind.RECALL:
            self._put((ItemKind.RECALLED, "\n".join(self.take_unbegun_activities()).encode()))
            return
        after, body = split_work(body) if kind == ItemKind.TURN else ("", body)
        token, message = split_work(body)
        if kind == ItemKind.ACTIVITY:
            self.take(ActivityItem(pb.ActivityRequest.FromString(message), token))
        elif kind == ItemKind.ENTITY:
            item = pb.WorkItem(completionToken=token)
            item.entityRequestV2.ParseFromString(message)
            self.take(item)
        else:
            turn = pb.OrchestratorRequest.FromString(message)
            request = ChildTurn(
                turn.instanceId, list(turn.pastEvents), list(turn.newEvents), turn.orchestrationTraceContext, token, 0
            )
            request.after = after
            self.take(request)
