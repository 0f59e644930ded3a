"""HTTP server with payloads, as a test tells it to answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PayloadServer:
    """Server on loopback. answers: by path; others are not found. asked: paths of the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.base = ""
        self.is_away = False

    def holds(self, path: str, body: bytes, status: int = 200, encoding: str | None = None) -> str:
        """Answer with a body; return the address."""

        async def answer(request: web.Request) -> web.StreamResponse:
            headers = {} if encoding is None else {"Content-Encoding": encoding}
            return web.Response(body=body, status=status, headers=headers)

        self.answers[path] = answer
        return f"{self.base}{path}"

    def never_ends(self, path: str) -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)

        self.answers[path] = answer
        return f"{self.base}{path}"

    def hangs(self, path: str) -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        self.answers[path] = answer
        return f"{self.base}{path}"

    def drips(self, path: str) -> str:
        """Send a byte from time to time."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)

        self.answers[path] = answer
        return f"{self.base}{path}"

    def breaks_off(self, path: str, *, stated: int, sent: bytes) -> str:
        """Send other bytes than the head states, and close the connection."""

        async def answer(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (stated, sent))
            request.transport.close()
            raise asyncio.CancelledError

        self.answers[path] = answer
        return f"{self.base}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.is_away:
            return web.Response(status=503)
        answer = self.answers.get(request.path)
        return web.Response(status=404) if answer is None else await answer(request)


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[PayloadServer]:
    server = PayloadServer()
    application = web.Application()
    application.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.base = f"http{'s' if tls else ''}://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()
