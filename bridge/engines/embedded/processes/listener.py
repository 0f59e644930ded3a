"""Socket through which workers in other processes of this machine join an engine: `bridge worker`. Needs Linux.

The engine neither starts nor replaces such a process. Otherwise its worker is like one of the daemon's own: it gets the
same items over the same channel, and when it dies, its work goes on elsewhere at once.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.message import DecodeError

from bridge import __version__
from bridge.engines.base import JoinedProcess
from bridge.engines.embedded.address import EngineSocket
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import BrokenFrame, Item
from bridge.engines.embedded.processes.greeting import CHANNEL, FIRST_BYTE, Greeting
from bridge.engines.embedded.processes.messages import ItemKind, json_body, parse_json
from bridge.engines.embedded.processes.settings import HEADER, SLOT
from bridge.engines.embedded.processes.stream import ProcessStream, take_results
from bridge.sqlite_engine.database import Database
from bridge.system import forks, private, slots
from bridge.system.processes import has_ended, is_stopped

logger = logging.getLogger("bridge.engines.embedded.processes")

MAX_CONNECTIONS = 256
"""Workers that may be joined at once. Further ones are refused, and try again."""

GREETING_SECONDS = 10.0
"""Seconds in which a new connection must say what it is."""

FROZEN_SECONDS = 10.0
"""Seconds after which a worker that a signal has frozen loses its connection, and its work goes on elsewhere."""

CHECK_SECONDS = 2.0
"""Seconds between two checks for frozen workers, and for those that have ended with their connection open."""

_CREDENTIALS = struct.Struct("3i")


class WorkerSocket:
    """Listener for workers of other processes."""

    def __init__(self, database: Database, address: EngineSocket) -> None:
        self._database = database
        self._address = address
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._stopped = threading.Event()
        self.ends: Counter[str] = Counter()
        """Number of unexpected ends of joined processes, by cause: `frozen`, or `lost` with the connection."""
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Listen. A socket file in this place must belong to a dead engine. Raises: OSError."""
        path = Path(self._address.path)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._address.path)
            private.narrow([path])
            listener.listen(MAX_CONNECTIONS)
        except BaseException:
            listener.close()
            raise
        forks.add_address(self._address.path)
        self._listener = listener
        for run, name in ((self._accept, "worker-socket"), (self._watch, "worker-socket-watch")):
            thread = threading.Thread(target=run, args=(listener,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End all connections, after the engine has stopped. Idempotent."""
        self._stopped.set()
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            connection.join()
        forks.remove_address(self._address.path)
        Path(self._address.path).unlink(missing_ok=True)
        self._address.close()

    @property
    def process_ids(self) -> list[int]:
        """Ids of the processes whose workers are joined; 0 for one of another container."""
        return [each.pid for each in self.processes()]

    def processes(self) -> Sequence[JoinedProcess]:
        """Joined processes. Each has one connection for each group of its workflows."""
        found: dict[int, JoinedProcess] = {}
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            stream = each.stream
            if stream is not None:
                before = found.get(each.pid, JoinedProcess(each.pid, each.version, 0, 0))
                sessions, in_flight = before.sessions + stream.session_count, before.in_flight + len(stream.leases)
                found[each.pid] = JoinedProcess(each.pid, each.version, sessions, in_flight)
        return [found[pid] for pid in sorted(found)]

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopped.is_set():
            try:
                end, _ = listener.accept()
            except OSError:
                if self._stopped.wait(0.1):  # descriptors may be scarce for a while
                    return
                continue
            with self._lock:
                is_full = len(self._connections) >= MAX_CONNECTIONS
            if is_full:
                end.close()
                continue
            connection = _Connection(end, self._database, self._identity, self._ended)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def _identity(self, connection: _Connection) -> object:
        """Identity of the process of a connection, which has one connection for each group of its workflows."""
        with self._lock:
            for each in self._connections:
                if each is not connection and each.pid == connection.pid != 0 and each.process is not None:
                    return each.process
        return object()

    def _ended(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            is_last = connection.pid not in {each.pid for each in self._connections if each.pid}
            if is_last and connection.lost_by and not self._stopped.is_set():
                self.ends[connection.lost_by] += 1

    def _watch(self, _: socket.socket) -> None:
        """End the connections of frozen workers, and of dead ones whose end a process that they forked still holds."""
        since: dict[int, float] = {}
        while not self._stopped.wait(CHECK_SECONDS):
            now = time.monotonic()
            with self._lock:
                connections = [each for each in self._connections if each.pid]
            pids = {each.pid for each in connections}
            since = {pid: since.get(pid, now) for pid in pids if is_stopped(str(pid))}
            frozen = {pid for pid, began in since.items() if now - began >= FROZEN_SECONDS}
            for each in connections:
                if each.pid in frozen:
                    each.drop_frozen()
                elif has_ended(str(each.pid)):
                    each.close()


class _Connection:
    """Connection of one worker. A thread reads it."""

    def __init__(
        self,
        end: socket.socket,
        database: Database,
        identity: Callable[[_Connection], object],
        ended: Callable[[_Connection], None],
    ) -> None:
        self._end = end
        self._database = database
        self._identity = identity
        self._ended = ended
        self._is_frozen = False
        self.pid, self._uid, _ = _CREDENTIALS.unpack(
            end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self.process: object | None = None
        self.version = ""
        """Version of the bridge in the worker's process."""
        self.stream: ProcessStream | None = None
        """Stream of a joined worker; None before it has joined, and after it has left."""
        self.lost_by = ""
        """Cause of an unexpected end; empty for a worker that has left in order, or never joined."""
        self._thread = threading.Thread(target=self._run, name="worker-connection", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def close(self) -> None:
        """End the connection. Idempotent."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def drop_frozen(self) -> None:
        """End the connection of a frozen worker; its work does not count as lost."""
        logger.error("Worker process %d is frozen by a signal; its work goes on elsewhere", self.pid)
        self._is_frozen = True
        self.close()

    def _run(self) -> None:
        memory: int | None = None
        try:
            memory = self._greeted()
            if memory is not None:
                self._serve(Channel(self._end), memory)
        except (BrokenFrame, DecodeError, struct.error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            logger.error("Worker process %d sent an item that cannot be read (%s)", self.pid, error)
        except OSError as error:
            logger.info("The connection of worker process %d ended: %s", self.pid, error.strerror)
        except Exception:
            logger.exception("The connection of a worker failed")
        finally:
            if memory is not None:
                os.close(memory)
            self._end.close()
            self._ended(self)

    def _greeted(self) -> int | None:
        """Descriptor of the worker's slots; None for a connection that brings none or is of another user."""
        if self._uid != os.geteuid():
            return None
        self._end.settimeout(GREETING_SECONDS)
        data, descriptors, _, _ = socket.recv_fds(self._end, 1, 1)
        self._end.settimeout(None)
        if data == FIRST_BYTE and len(descriptors) == 1:
            return descriptors[0]
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _serve(self, channel: Channel, memory: int) -> None:
        items: list[Item] = []
        while len(items) < 2:
            received = channel.receive()
            if received is None:
                return
            items += received
        if items[0][0] != ItemKind.ATTACH or items[1][0] != ItemKind.REQUEST:
            raise BrokenFrame("no greeting")
        document = parse_json(items[0][1])
        if document.get("channel") != CHANNEL:
            reason = f"the daemon has version {__version__} and this worker {document.get('version')}"
            channel.send([(ItemKind.FAILED, json_body({"reason": f"{reason}; restart the older one"}))])
            return
        greeting = Greeting.parse(document)
        self.version = str(document["version"])[:50]
        request = pb.GetWorkItemsRequest.FromString(items[1][1])
        self.process = self._identity(self)
        stream = ProcessStream(
            channel,
            request,
            owners=self._database.hub.dispatcher.owners,
            sessions=greeting.sessions,
            most_bytes=greeting.most_bytes,
            knows=greeting.knows,
            recalls=greeting.recalls,
            process=self.process,
        )
        channel.send([(ItemKind.READY, b"")])
        self._database.connect(stream)
        self.stream = stream
        logger.info("A worker of process %d has joined", self.pid, extra={"action": "worker_process"})
        try:
            self._receive(channel, stream, items[2:])
        finally:
            # Read, and not mapped: the other process could make it shorter
            content = os.pread(memory, slots.required_size(SLOT, HEADER, slots.MAX_SLOTS), 0)
            ran = (entry.decode("ascii", "replace") for entry in slots.entries(content, SLOT, HEADER))
            stream.record_running(frozenset() if self._is_frozen else frozenset(ran))
            self.stream = None
            if not stream.is_drained:
                self.lost_by = "frozen" if self._is_frozen else "lost"
            self._database.disconnect(stream)
            logger.info("A worker of process %d has left", self.pid, extra={"action": "worker_process"})

    def _receive(self, channel: Channel, stream: ProcessStream, items: list[Item] | None) -> None:
        while items is not None:
            take_results(self._database, stream, items)
            if any(kind == ItemKind.LEAVING for kind, _ in items):
                self._database.retire(stream)
            items = channel.receive()
