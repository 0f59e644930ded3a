"""AMQP over WebSocket: the listener, and the transport to which a connection writes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import WSMsgType, web

PROTOCOLS = ("AMQPWSB10", "amqp")
PATH = "/$servicebus/websocket"


class WebSocketListener:
    """Listener for WebSocket clients. make: creates the protocol of each connection."""

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=1)

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Start listening. Returns the port. Raises: OSError when the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.rstrip("/") not in (PATH, ""):
            raise web.HTTPNotFound
        socket = web.WebSocketResponse(protocols=PROTOCOLS, max_msg_size=0)
        await socket.prepare(request)
        protocol, transport = self._make(), _Transport(socket, request)
        protocol.connection_made(transport)
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                protocol.data_received(message.data)
        finally:
            protocol.connection_lost(None)
            await transport.end()
        return socket


class _Transport(asyncio.Transport):
    """Subset of a transport that Connection uses; one task sends the messages in order."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        super().__init__()
        self._socket, self._request = socket, request
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._send())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._outbox.put_nowait(bytes(data))

    def close(self) -> None:
        self._outbox.put_nowait(None)

    def abort(self) -> None:
        """Reset the connection; unsent output is lost."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self) -> None:
        while (data := await self._outbox.get()) is not None:
            await self._socket.send_bytes(data)
        await self._socket.close()
