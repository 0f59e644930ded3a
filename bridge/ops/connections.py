"""HTTP server with limits on the number of connections and on the time to send a request."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.config.model.bridge import ConnectionsConfig
from bridge.system import forks

_log = logging.getLogger("bridge.sdk.http")
_log.addFilter(
    # aiohttp reports each request that is no HTTP, and each damaged body that nobody has read, as an error with a
    # traceback: any caller could fill the log
    lambda record: (
        not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))
    )
)

LONGEST_LINE = 128 * 1024
"""Bytes of the first line of a request: a list of a thousand ids fits into its query."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Server of an application."""

    def __init__(
        self,
        app: web.Application,
        limits: ConnectionsConfig,
        protocol: type[web.RequestHandler] = web.RequestHandler,
    ) -> None:
        """Serve no connection yet. protocol: class of aiohttp's protocol, which answers what no application sees."""
        app.middlewares.insert(0, self._mark)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
        self._protocol = protocol
        self.limits = limits
        self._open: dict[Any, _Connection] = {}
        """Connections by aiohttp's protocol, in the order of their last request."""
        self._server: asyncio.Server | None = None
        self._addresses: list[Any] = []
        self._tls: ssl.SSLContext | None = None
        self.refused = {"full": 0, "replaced": 0, "late": 0}
        """Refused connections by cause: full (all busy), replaced (by a newer one), late (no headers in time)."""

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on TCP; return the port. Raises: OSError."""
        await self._runner.setup()
        self._tls = tls
        try:
            # TLS begins on the accepted connection: one that never ends its handshake is counted from the start
            self._server = await asyncio.get_running_loop().create_server(self._accept, host, port, backlog=128)
        except BaseException:
            await self._runner.cleanup()
            raise
        return int(self._own_addresses()[0][1])

    async def listen_on(self, sock: socket.socket) -> None:
        """Listen on a bound Unix socket. Raises: OSError."""
        await self._runner.setup()
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=sock, backlog=128)
        self._own_addresses()

    def _own_addresses(self) -> list[Any]:
        """Addresses of the server, which no process that this one forks keeps."""
        assert self._server is not None
        self._addresses = [each.getsockname() for each in self._server.sockets]
        for each in self._addresses:
            forks.add_address(each)
        return self._addresses

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await self._runner.cleanup()
            for each in self._addresses:
                forks.remove_address(each)

    def _accept(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        inner = self._protocol(
            self._runner.server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            keepalive_timeout=self.limits.idle_timeout,
            logger=_log,
            max_line_size=LONGEST_LINE,
        )
        return _Connection(inner, self, self._tls)

    def joined(self, connection: _Connection) -> bool:
        """Add a connection, in place of an idle one if needed; False when all are busy."""
        if len(self._open) >= self.limits.max_connections:
            idle = next((each for each in self._open.values() if not each.busy), None)
            if idle is None:
                self.refused["full"] += 1
                return False
            self.refused["replaced"] += 1
            idle.abort()
        self._open[connection.inner] = connection
        return True

    def left(self, connection: _Connection) -> None:
        self._open.pop(connection.inner, None)

    @web.middleware
    async def _mark(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = self._open.pop(request.protocol, None)
        if connection is None:  # closed meanwhile
            return await handler(request)
        self._open[request.protocol] = connection
        connection.began()
        try:
            return await handler(request)
        finally:
            connection.ended()


class _Connection(asyncio.Protocol):
    """One connection. Passes all calls to aiohttp's protocol, which has no deadline for headers."""

    def __init__(self, inner: Any, all_: Connections, tls: ssl.SSLContext | None = None) -> None:
        self.inner = inner
        self.busy = False
        self._all = all_
        self._tls = tls
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""
        """Bytes received before the handshake begins, and later with its end."""
        self._asking = True
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass
        if not self._all.joined(self):
            self._transport.abort()
            return
        self._wait(self._all.limits.header_timeout)
        if self._tls is None:
            self._begin(self._transport)
        else:
            self._transport.pause_reading()
            self._handshake = asyncio.ensure_future(self._begin_tls(self._transport, self._tls))

    async def _begin_tls(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        # uvloop starts to read after `connection_made`, although it paused the reading: what came since is passed on
        transport.pause_reading()
        hello, self._early = self._early, b""
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(
            loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._all.limits.header_timeout
            )
        )
        try:
            if hello:
                await asyncio.sleep(0)  # `starting` sets the protocol, whose `connection_made` runs before the call
                loop.call_soon(_receive, transport, hello)
            wrapped = await starting
        except (OSError, asyncio.CancelledError):  # ssl.SSLError is an OSError. Peers that speak no TLS are not logged
            starting.cancel()
            self.abort()
            return
        if wrapped is None or self._transport is None:
            self.abort()
            return
        self._transport = wrapped
        self._begin(wrapped)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._taken = True
        self.inner.connection_made(transport)
        early, self._early = self._early, b""
        if early:
            self.inner.data_received(early)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._all.left(self)
        if self._handshake is not None:
            self._handshake.cancel()
        if self._taken:
            self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._taken:
            self._early += data
            return
        if not self.busy and not self._asking:
            self._asking = True
            self._wait(self._all.limits.header_timeout)
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return bool(self.inner.eof_received()) if self._taken else False

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def began(self) -> None:
        self.busy, self._asking = True, False
        self._wait(None)

    def ended(self) -> None:
        self.busy = False
        self._wait(self._all.limits.idle_timeout)

    def _late(self) -> None:
        self._all.refused["late"] += self._asking
        self.abort()

    def abort(self) -> None:
        self._all.left(self)
        if self._transport is not None:
            self._transport.abort()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._late)


def _receive(transport: asyncio.Transport, data: bytes) -> None:
    """Give bytes to the protocol of a transport, as if they had arrived now."""
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())  # that of uvloop is no subclass
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        protocol.buffer_updated(count)
        data = data[count:]
