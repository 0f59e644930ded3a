"""Loop of a worker process: reads work from the channel, runs it in pools of threads, and sends results in frames."""

from __future__ import annotations

import faulthandler
import logging
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, NoReturn

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DataConverter
from durabletask.worker import ExecutionResults

from bridge.engines.embedded.pools import PooledWorker, PoolStub
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import Item
from bridge.engines.embedded.processes.messages import Kind, json_body, parse_json, split_work, turn_done
from bridge.engines.embedded.processes.reports import Reporter
from bridge.engines.embedded.processes.settings import HEADER, SLOT, ProcessSettings
from bridge.engines.embedded.session import Session
from bridge.engines.worker.failures import text_of, type_name
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.workflows import Workflows
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

    def follows(self, request: TurnRequest) -> bool:
        return isinstance(request, ChildTurn) and request.after == self._token

    def run(self, request: TurnRequest) -> ExecutionResults:
        self._token = request.completionToken
        if self.context is None:
            result: ExecutionResults = self.execute(request.instanceId, request.pastEvents, request.newEvents)
            return result
        return self.go_on(request.pastEvents, request.newEvents)


class Outbox:
    """Results on their way to the daemon. One thread sends all that wait in one frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
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
                except OSError:
                    end_at_once()  # the daemon has gone
            if item is None:
                return


class ChannelStub(PoolStub):
    """Stub for the SDK's executors that sends results through the channel."""

    def __init__(self, worker: ProcessWorker, outbox: Outbox) -> None:
        super().__init__(worker.failed)
        self._kept = worker.sessions.has
        self._put = outbox.put

    def CompleteOrchestratorTask(self, response: TurnResponse | pb.OrchestratorResponse) -> None:  # noqa: N802 -- the protocol's name
        self._put((Kind.TURN_DONE, turn_done(response, is_kept=self._kept(response.instanceId))))

    def CompleteActivityTask(self, response: pb.ActivityResponse) -> None:  # noqa: N802 -- the protocol's name
        self._put((Kind.ACTIVITY_DONE, response.SerializeToString()))

    def CompleteEntityTask(self, result: pb.EntityBatchResult) -> None:  # noqa: N802 -- the protocol's name
        self._put((Kind.ENTITY_DONE, result.SerializeToString()))


class SlotRecord:
    """Record of the tokens that threads of this process run, in memory that the daemon reads."""

    def __init__(self, descriptor: int) -> None:
        slots = ThreadSlots(mmap.mmap(descriptor, 0), SLOT, HEADER)
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
            activity_threads=settings.threads, sessions=sessions, session_bytes=sys.maxsize, running=running, **options
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
        self._put((Kind.RETURNED, token.encode()))

    def take_item(self, kind: int, body: bytes) -> None:
        """Queue an item of work. Raises: DecodeError."""
        after, body = split_work(body) if kind == Kind.TURN else ("", body)
        token, message = split_work(body)
        if kind == Kind.ACTIVITY:
            self.take(ActivityItem(pb.ActivityRequest.FromString(message), token))
        elif kind == Kind.ENTITY:
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


def end_at_once(code: int = 0) -> NoReturn:
    """End the process, whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


def run(
    channel_descriptor: int,
    slots_descriptor: int,
    prepare: Callable[[ProcessSettings], Callable[[], object]],
    load: Callable[[ProcessSettings], Workflows],
    converter: Callable[[], DataConverter],
    figures: Callable[[], Mapping[str, int]],
) -> NoReturn:
    """Run a worker until the daemon stops it or goes away.

    prepare: sets up logs and traces; returns a function that is called at the end. load: imports the workflows.
    figures: counters of the process for its reports.
    """
    # The daemon alone stops its workers: a terminal or a service manager signals all processes of a group.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    for descriptor in (channel_descriptor, slots_descriptor):
        os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=channel_descriptor))
    try:
        _run(channel, slots_descriptor, prepare, load, converter, figures)
    except BaseException as error:
        logger.error("A worker process ends: %s", type_name(error), exc_info=error)
        end_at_once(1)
    end_at_once()


def _run(
    channel: Channel,
    slots_descriptor: int,
    prepare: Callable[[ProcessSettings], Callable[[], object]],
    load: Callable[[ProcessSettings], Workflows],
    converter: Callable[[], DataConverter],
    figures: Callable[[], Mapping[str, int]],
) -> None:
    items = channel.receive()
    if not items or items[0][0] != Kind.SETUP:
        return
    try:
        settings = ProcessSettings.parse(parse_json(items[0][1]))
        finish = prepare(settings)
        settings.limit_memory()
        workflows = load(settings)
    except BaseException as error:
        channel.send_all([(Kind.FAILED, json_body({"reason": f"{type_name(error)}: {text_of(error)}"}))])
        return
    outbox = Outbox(channel)
    worker = ProcessWorker(
        settings,
        SlotRecord(slots_descriptor),
        outbox,
        logger=quiet_logger(f"{settings.engine}.worker"),
        data_converter=converter(),
    ).add_workflows(workflows, stuck_after=settings.stuck_after, versions=settings.versions)
    worker.start_pools(ChannelStub(worker, outbox))
    worker.mark_running()
    outbox.start()
    outbox.put((Kind.READY, json_body({"pid": os.getpid()})))
    reporter = Reporter(worker, figures, outbox.put)
    reporter.start()
    waiting: list[Item] | None = items[1:]
    while waiting is not None:
        for kind, body in waiting:
            if kind == Kind.FORGET:
                worker.sessions.drop(body.decode())
            elif kind == Kind.STOP:
                worker.stop_pools()
                reporter.stop()
                outbox.stop()
                finish()
                return
            else:
                worker.take_item(kind, body)
        waiting = channel.receive()
