"""Worker of `bridge worker` that joins an engine of this machine over the channel of worker processes. Needs Linux."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge.core.errors import EngineUnavailable
from bridge.engines.embedded.address import EngineSocket
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import BrokenFrame, Item
from bridge.engines.embedded.processes.greeting import FIRST_BYTE, Greeting
from bridge.engines.embedded.processes.messages import ItemKind, json_body, parse_json
from bridge.engines.embedded.processes.process_worker import ChannelStub, Outbox, ProcessWorker, SlotRecord
from bridge.engines.embedded.processes.settings import HEADER, SLOT
from bridge.engines.worker.containment import WorkerStats
from bridge.system import slots

logger = logging.getLogger("bridge.engines.embedded.processes")

FIRST_PAUSE = 0.1
"""Seconds before the second attempt to join; doubled at each further one."""

MAX_PAUSE = 5.0
"""Longest pause in seconds."""


class AttachedWorker:
    """Worker in a process that the engine has not started. It joins again when the engine's process is replaced.

    address: opens the path of the engine's socket. Raises: EngineUnavailable.
    make: creates the worker of one connection, with its record, its outbox and the counts of all connections.
    request: credits of work. The worker adds its filters.
    """

    def __init__(
        self,
        address: Callable[[], EngineSocket],
        make: Callable[[SlotRecord, Outbox, WorkerStats], ProcessWorker],
        request: pb.GetWorkItemsRequest,
        greeting: Greeting,
    ) -> None:
        self._address = address
        self._make = make
        self._request = request
        self._greeting = greeting
        self._stats = WorkerStats()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._worker: ProcessWorker | None = None
        self._channel: Channel | None = None
        self._outbox: Outbox | None = None
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="attached-worker", daemon=True)

    @property
    def stats(self) -> WorkerStats:
        """Work of this worker since it was created."""
        return self._stats

    @property
    def session_count(self) -> int:
        worker = self._worker
        return 0 if worker is None else worker.session_count

    @property
    def unfinished(self) -> tuple[int, int, int]:
        worker = self._worker
        return (0, 0, 0) if worker is None else worker.unfinished

    def stuck(self) -> list[str]:
        """Reasons why the worker cannot work; empty while it can. The state of the engine is not one of them."""
        if self._refusal:
            return [self._refusal]
        worker = self._worker
        return [] if worker is None else worker.stuck()

    def start(self) -> None:
        """Join the engine, now or when it runs. Raises: RuntimeError when the worker already runs."""
        self._thread.start()

    def stop(self) -> None:
        """Return the work that has not begun, and wait for the rest. Idempotent."""
        with self._lock:
            is_first = not self._stopping.is_set()
            self._stopping.set()
            worker, channel, outbox = self._worker, self._channel, self._outbox
            self._worker = None
        if is_first:
            self._leave(worker, channel, outbox)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _leave(self, worker: ProcessWorker | None, channel: Channel | None, outbox: Outbox | None) -> None:
        if worker is not None and channel is not None and outbox is not None:
            outbox.put((ItemKind.LEAVING, b""))
            worker.stop_pools()
            outbox.stop()
            channel.end_sending()  # the engine closes the channel when it has read all
        elif channel is not None:
            channel.shut_down()

    def _run(self) -> None:
        attempts = 0
        while not self._stopping.is_set():
            try:
                has_worked = self._connected()
            except (OSError, EngineUnavailable):
                has_worked = False  # no engine: its probe reports that
            except (BrokenFrame, DecodeError, UnicodeDecodeError) as error:
                logger.error("The engine sent an item that cannot be read (%s)", error)
                has_worked = False
            except Exception:
                logger.exception("The connection to the engine failed")
                has_worked = False
            attempts = 0 if has_worked else attempts + 1
            pause = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(attempts, 10)) * random.uniform(0.8, 1.2)  # noqa: S311 -- jitter
            self._stopping.wait(pause)

    def _connected(self) -> bool:
        """Work for one connection. Returns True when the engine took the worker. Raises: OSError, EngineUnavailable."""
        memory = os.memfd_create("bridge-worker-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, slots.required_size(SLOT, HEADER))
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            address = self._address()
            try:
                end.connect(address.path)
                socket.send_fds(end, [FIRST_BYTE], [memory])
            except BaseException:
                end.close()
                raise
            finally:
                address.close()
            channel = Channel(end)
            try:
                return self._joined(channel, SlotRecord(memory))
            finally:
                channel.close()
        finally:
            os.close(memory)

    def _joined(self, channel: Channel, running: SlotRecord) -> bool:
        outbox = Outbox(channel, channel.shut_down)
        worker = self._make(running, outbox, self._stats)
        request = pb.GetWorkItemsRequest()
        request.CopyFrom(self._request)
        if (filters := worker.filters) is not None:
            request.workItemFilters.CopyFrom(filters)
        with self._lock:
            if self._stopping.is_set():
                return False
            self._channel = channel
        document = json_body(self._greeting.document())
        channel.send_all([(ItemKind.ATTACH, document), (ItemKind.REQUEST, request.SerializeToString())])
        items = channel.receive()
        if not items or items[0][0] != ItemKind.READY:
            if items and items[0][0] == ItemKind.FAILED:
                self._refuse(str(parse_json(items[0][1]).get("reason"))[:500])
            return False
        self._refusal = ""
        stub = ChannelStub(worker, outbox)
        worker.start_pools(stub)
        worker.mark_running()
        outbox.start()
        with self._lock:
            if not self._stopping.is_set():
                self._worker, self._outbox = worker, outbox
        try:
            if self._worker is not None:
                self._receive(channel, worker, items[1:])
        finally:
            stub.close()
            with self._lock:
                is_stopped, self._worker = self._worker is None, None
            if not is_stopped:
                # The engine has gone. What still runs has no receiver, and must not delay the next connection
                threading.Thread(target=_retire, args=(worker, outbox), name="retired-worker", daemon=True).start()
            worker.sessions.clear()
        return True

    def _receive(self, channel: Channel, worker: ProcessWorker, items: list[Item] | None) -> None:
        """Queue what the engine sends. A worker that leaves returns it."""
        while items is not None:
            for kind, body in items:
                worker.take_item(kind, body)
            worker.end_expected()
            items = channel.receive(worker.expect)

    def _refuse(self, reason: str) -> None:
        if reason != self._refusal:
            logger.error("The engine refuses this worker: %s", reason, extra={"action": "worker_process"})
        self._refusal = reason


def _retire(worker: ProcessWorker, outbox: Outbox) -> None:
    """End the threads of a connection that has ended."""
    worker.stop_pools()
    outbox.stop()
