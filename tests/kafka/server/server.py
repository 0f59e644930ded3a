"""Connections of the Kafka protocol server: parse and answer requests in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tests.kafka.server import cluster_requests, data_requests, errors, group_requests
from tests.kafka.server.state import State
from tests.kafka.server.wire import Reader, Writer

T = TypeVar("T")

Handler = Callable[[State, Reader, Writer, int], bool | Awaitable[None] | None]

VERSIONS = 18
HANDLERS: dict[int, tuple[int, int, Handler]] = {
    0: (3, 8, data_requests.produce),
    1: (4, 11, data_requests.fetch),
    2: (1, 5, data_requests.list_offsets),
    3: (0, 5, cluster_requests.metadata),
    8: (2, 7, group_requests.commit_offsets),
    9: (1, 5, group_requests.fetch_offsets),
    10: (0, 2, group_requests.find_coordinator),
    11: (0, 5, group_requests.join_group),
    12: (0, 2, group_requests.heartbeat),
    13: (0, 3, group_requests.leave_group),
    14: (0, 3, group_requests.sync_group),
    15: (0, 3, group_requests.describe_groups),
    16: (0, 2, group_requests.list_groups),
    19: (0, 3, cluster_requests.create_topics),
    20: (0, 3, cluster_requests.delete_topics),
    21: (0, 1, cluster_requests.delete_records),
    22: (0, 1, cluster_requests.init_producer),
    24: (0, 1, cluster_requests.add_partitions),
    26: (0, 1, cluster_requests.end_transaction),
    32: (0, 0, cluster_requests.describe_configs),
    37: (0, 1, cluster_requests.create_partitions),
    42: (0, 1, group_requests.delete_groups),
}
"""Lowest version, highest version and handler by API key."""


class Server:
    """One Kafka node."""

    def __init__(self) -> None:
        self.state = State(asyncio.get_running_loop())
        self.connections_made = 0
        self.peak_connections = 0
        self.distort: Callable[[int, int, bytes], bytes] = lambda key, version, frame: frame
        """Bytes that are sent instead of an answer (its length included) to a request of this API key and version.
        Raises ConnectionError to send nothing more."""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._compaction: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> str:
        """Start listening. Returns the address. port: 0 takes a free one."""
        self._server = await asyncio.start_server(self._accept, self.state.host, port)
        self.state.port = self._server.sockets[0].getsockname()[1]
        self._compaction = asyncio.create_task(self.state.compact())
        return f"{self.state.host}:{self.state.port}"

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    def drop(self) -> None:
        """Close all connections, as a restart does."""
        for task in self._connections:
            task.cancel()

    async def stop(self) -> None:
        assert self._server is not None
        assert self._compaction is not None
        self._server.close()
        tasks = [self._compaction, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections_made += 1
        self.peak_connections = max(self.peak_connections, self.connections)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    (size,) = struct.unpack(">i", await reader.readexactly(4))
                    request = await reader.readexactly(size)
                    response = await self._answer(Reader(request))
                    if response is not None:
                        key, version = struct.unpack_from(">hh", request)
                        writer.write(self.distort(key, version, struct.pack(">i", len(response)) + response))
                        await writer.drain()
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, request: Reader) -> bytes | None:
        key, version, correlation = request.int16(), request.int16(), request.int32()
        request.maybe_text()
        writer = Writer().int32(correlation)
        if key == VERSIONS:
            known = [(VERSIONS, (0, 2)), *((each, bounds[:2]) for each, bounds in HANDLERS.items())]
            writer.int16(errors.UNSUPPORTED_VERSION if version > 2 else errors.NONE)
            writer.array(known, lambda each: writer.int16(each[0]).int16(each[1][0]).int16(each[1][1]))
            if 1 <= version <= 2:
                writer.int32(0)
            return bytes(writer.data)
        lowest, highest, handler = HANDLERS[key]
        assert lowest <= version <= highest, f"request {key} in version {version}"
        answered = handler(self.state, request, writer, version)
        if isinstance(answered, Awaitable):
            await answered
        return None if answered is False else bytes(writer.data)


class ThreadedServer:
    """Server for synchronous code and for several event loops."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kafka-server", daemon=True)
        self._thread.start()
        self._server = self._run(self._make())
        self.bootstrap = self._run(self._server.start())

    async def _make(self) -> Server:
        return Server()

    def fill(self, topic: str, logs: Sequence[tuple[Sequence[bytes], int]]) -> None:
        """Append raw batches to the partitions of a topic.

        logs: batches of each partition, and the offset after the last one.
        """
        self._run(self._fill(topic, logs))

    async def _fill(self, topic: str, logs: Sequence[tuple[Sequence[bytes], int]]) -> None:
        for number, (batches, end) in enumerate(logs):
            partition = self._server.state.partition(topic, number)
            assert partition is not None
            partition.fill(batches, end)

    def stop(self) -> None:
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
