"""Bounds on the connections of an HTTP server, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from bridge.config.model import HttpConfig
from bridge.ops import connections
from bridge.ops.connections import Connections
from bridge.ops.health import Readiness
from bridge.ops.web import Web

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Open = Callable[[], Any]


@asynccontextmanager
async def serving(handler: Any, **bounds: Any) -> AsyncIterator[Open]:
    app = web.Application()
    app.router.add_get("/", handler)
    server = Connections(app, **bounds)
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
    """Returns when the server has closed."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


@pytest.mark.parametrize("sent", [b"", b"G", ASK[:-2]], ids=["nothing", "a byte", "no end"])
async def test_headers_that_do_not_end_are_not_waited_for(sent: bytes) -> None:
    async with serving(plain, ask=0.1, idle=60) as connect:
        reader, writer = await connect()
        writer.write(sent)
        await ended(reader)


async def test_a_byte_now_and_then_gains_no_time() -> None:
    async with serving(plain, ask=0.3, idle=60) as connect:
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
    async with serving(plain, ask=0.2, idle=60) as connect:
        reader, writer = await connect()
        writer.write(ASK)
        await answered(reader)
        writer.write(ASK[:10])
        await ended(reader)


async def test_an_idle_connection_is_kept_for_its_time() -> None:
    async with serving(plain, ask=60, idle=0.2) as connect:
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

    async with serving(slow, ask=0.05, idle=60) as connect:
        reader, writer = await connect()
        writer.write(ASK)
        other, _ = await connect()
        await ended(other)  # its deadline, which is the later one, has passed
        gate.set()
        await answered(reader)


async def test_idle_connections_make_room_for_a_new_one() -> None:
    async with serving(plain, ask=60, idle=60, most=3) as connect:
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

    async with serving(slow, most=2) as connect:
        working = [await connect() for _ in range(2)]
        for _, writer in working:
            writer.write(ASK)
            await begun.acquire()
        reader, _ = await connect()
        await ended(reader)
        gate.set()
        for reader, _ in working:
            await answered(reader)


async def test_the_ops_port_has_these_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections.Connections.__init__, "__kwdefaults__", {"ask": 0.1, "idle": 60.0, "most": 4})
    port = Web(HttpConfig(port=0), lambda: Readiness("running", ()), lambda: b"")
    await port.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        await ended(reader)
        writer.close()
    finally:
        await port.stop()
