"""Limits on the connections of an HTTP server, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.config.model.bridge import ConnectionsConfig, ControlConfig, HttpConfig
from bridge.core.states import DaemonState
from bridge.ops.connections import Connections
from bridge.ops.control import Control, near
from bridge.ops.health import Readiness
from bridge.ops.web import Web
from bridge.system.tls import TlsFiles
from tests.kafka.certificates import Authority
from tests.kit.waiting import TIMEOUT

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Open = Callable[[], Any]


@asynccontextmanager
async def serving(handler: Any, **limits: Any) -> AsyncIterator[Open]:
    app = web.Application()
    app.router.add_get("/", handler)
    server = Connections(app, ConnectionsConfig(**limits))
    port = await server.listen("127.0.0.1", 0)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            return reader, writer

        yield connect


async def plain(_: web.Request) -> web.Response:
    return web.Response(text="here")


async def answered(reader: asyncio.StreamReader) -> None:
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert (await reader.readuntil(b"here")).endswith(b"here")


async def ended(reader: asyncio.StreamReader) -> None:
    """Return when the server has closed the connection."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b""


@pytest.mark.parametrize("sent", [b"", b"G", ASK[:-2]], ids=["nothing", "a byte", "no end"])
async def test_headers_that_do_not_end_are_not_waited_for(sent: bytes) -> None:
    async with serving(plain, header_timeout="0.1s", idle_timeout="60s") as connect:
        reader, writer = await connect()
        writer.write(sent)
        await ended(reader)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01no TLS here\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n", b"\0" * 99_999])
async def test_what_is_no_request_leaves_nothing_in_the_log(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(plain) as connect:
        reader, writer = await connect()
        writer.write(sent)
        assert b" 400 " in await reader.readline()
    assert caplog.records == []


async def test_a_byte_now_and_then_gains_no_time() -> None:
    async with serving(plain, header_timeout="0.3s", idle_timeout="60s") as connect:
        reader, writer = await connect()

        async def drip() -> None:
            writer.write(ASK[:-2] + b"X: ")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        await ended(reader)
        dripping.cancel()


async def test_the_second_request_of_a_connection_is_bounded_too() -> None:
    async with serving(plain, header_timeout="0.2s", idle_timeout="60s") as connect:
        reader, writer = await connect()
        writer.write(ASK)
        await answered(reader)
        writer.write(ASK[:10])
        await ended(reader)


async def test_an_idle_connection_is_kept_for_its_time() -> None:
    async with serving(plain, header_timeout="60s", idle_timeout="0.2s") as connect:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(ASK)
            await answered(reader)
        await ended(reader)


async def test_a_request_at_work_has_all_the_time_that_it_needs() -> None:
    gate = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(text="here")

    async with serving(slow, header_timeout="0.05s", idle_timeout="60s") as connect:
        reader, writer = await connect()
        writer.write(ASK)
        other, _ = await connect()
        await ended(other)  # its deadline, the later one, has passed
        gate.set()
        await answered(reader)


async def test_idle_connections_make_room_for_a_new_one() -> None:
    async with serving(plain, header_timeout="60s", idle_timeout="60s", max_connections=3) as connect:
        hogs = [await connect() for _ in range(3)]
        reader, writer = await connect()
        writer.write(ASK)
        await answered(reader)
        await ended(hogs[0][0])


async def test_busy_connections_are_not_closed_for_a_new_one() -> None:
    gate, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_: web.Request) -> web.Response:
        begun.release()
        await gate.wait()
        return web.Response(text="here")

    async with serving(slow, max_connections=2) as connect:
        working = [await connect() for _ in range(2)]
        for _, writer in working:
            writer.write(ASK)
            await begun.acquire()
        reader, _ = await connect()
        await ended(reader)
        gate.set()
        for reader, _ in working:
            await answered(reader)


async def test_what_is_refused_is_counted() -> None:
    gate, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_: web.Request) -> web.Response:
        begun.release()
        await gate.wait()
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", slow)
    server = Connections(app, ConnectionsConfig(header_timeout="0.3s", idle_timeout="60s", max_connections=1))
    port = await server.listen("127.0.0.1", 0)
    try:
        late, _ = await asyncio.open_connection("127.0.0.1", port)
        await ended(late)
        assert server.refused == {"full": 0, "replaced": 0, "late": 1}
        idle, _ = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await ended(idle)
        writer.write(ASK)
        await begun.acquire()
        full, _ = await asyncio.open_connection("127.0.0.1", port)
        await ended(full)
        assert server.refused == {"full": 1, "replaced": 1, "late": 1}
        gate.set()
        await answered(reader)
    finally:
        gate.set()
        await server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def no_metrics(*, openmetrics: bool) -> bytes:
    return b""


@asynccontextmanager
async def secure(authority: Authority, **limits: Any) -> AsyncIterator[tuple[Web, ssl.SSLContext]]:
    files = TlsFiles(authority.issue("ops"))
    port = Web(HttpConfig(port=0, **limits), lambda: Readiness(DaemonState.RUNNING, ()), no_metrics, files)
    await port.start()
    try:
        yield port, ssl.create_default_context(cafile=str(authority.file))
    finally:
        await port.stop()


async def test_handshakes_that_do_not_end_make_room_for_one_that_does(authority: Authority) -> None:
    async with secure(authority, max_connections=3, header_timeout="60s") as (port, context):
        hogs = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("localhost", port.port, ssl=context)
        await ended(hogs[0][0])
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert port.refused["replaced"] == 1
        for _, hog in hogs:
            hog.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01\x02", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "part", "no TLS"]
)
async def test_handshakes_that_do_not_end_are_not_waited_for(authority: Authority, sent: bytes) -> None:
    async with secure(authority, header_timeout="200ms") as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(sent)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), TIMEOUT)  # an alert or no byte, then the end
        writer.close()


async def test_headers_after_a_handshake_have_no_time_of_their_own(authority: Authority) -> None:
    async with secure(authority, header_timeout="500ms") as (port, context):
        reader, writer = await asyncio.open_connection("localhost", port.port, ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), TIMEOUT) == b""
        assert port.refused["late"] == 1
        writer.close()


async def test_a_request_that_comes_with_the_handshake_is_answered(authority: Authority) -> None:
    async with secure(authority) as (port, context):
        for _ in range(50):
            reader, writer = await asyncio.open_connection("localhost", port.port, ssl=context)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()


async def test_the_ops_port_has_these_bounds() -> None:
    port = Web(HttpConfig(port=0, header_timeout="100ms"), lambda: Readiness(DaemonState.RUNNING, ()), no_metrics)
    await port.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        await ended(reader)
        writer.close()
        assert port.refused["late"] == 1
    finally:
        await port.stop()


async def test_the_control_socket_has_these_bounds(tmp_path: Path) -> None:
    control = Control(tmp_path / "control", [], 1024, bounds=ControlConfig(header_timeout="300ms", max_connections=2))
    await control.start()
    try:
        with near(control.path) as path:
            hogs = [await asyncio.open_unix_connection(path) for _ in range(3)]
        for reader, writer in hogs:
            await ended(reader)
            writer.close()
        assert control.refused == {"full": 0, "replaced": 1, "late": 2}
    finally:
        await control.stop()
