"""Control channel: the API on a Unix socket of this process, only for the process's user and root."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from bridge.config.model.bridge import ControlConfig
from bridge.core.errors import (
    BridgeError,
    BrokerUnavailable,
    EngineOutage,
    EngineTimeout,
    InstanceAlreadyExists,
    InstanceNotFound,
    InvalidCommand,
)
from bridge.ops.audit import Actor, Denied, user
from bridge.ops.connections import Connections, Handler
from bridge.system import private

DIRECTORY = "control"
"""Name of the directory of sockets, in the state directory."""
PREFIX = "/api/v1/"
BODY_SECONDS = 30.0
"""Seconds for the body of a request."""
WRITE_SECONDS = 30.0
"""Seconds for the reader of a stream to take one part. A stream whose reader takes longer is closed."""

_LONGEST_DETAIL = 2_000
"""Characters: the detail may name what was asked for."""
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_EVENTS = "text/event-stream"
_STATUS: Mapping[type[BaseException], int] = {
    Denied: 403,
    InvalidCommand: 422,
    InstanceNotFound: 404,
    InstanceAlreadyExists: 409,
    EngineTimeout: 504,
    EngineOutage: 503,
    BrokerUnavailable: 503,
    LookupError: 404,
    BridgeError: 409,
}
"""HTTP status by error class. The first matching class decides."""


@dataclass(frozen=True, slots=True)
class Route:
    """One place of the API.

    answer: called with parameters and caller.
    refused: called with parameters and a caller without permission.
    """

    method: str
    path: str
    answer: Callable[[Mapping[str, Any], Actor], Awaitable[Any]]
    refused: Callable[[Mapping[str, Any], Actor], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Place of the API that answers with server-sent events until its reader leaves or the daemon stops.

    open: called with the parameters; yields the data of the events, each JSON in one line. Errors before the first
    event are answers.
    """

    path: str
    open: Callable[[Mapping[str, Any]], AsyncGenerator[bytes, None]]


class Control:
    """Serves routes and streams on a socket in `directory`. admitted: user ids; None: root and this process's user."""

    def __init__(
        self,
        directory: Path,
        routes: Sequence[Route],
        max_body: int,
        admitted: frozenset[int] | None = None,
        bounds: ControlConfig | None = None,
        streams: Sequence[Stream] = (),
    ) -> None:
        self.path = directory / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
        self._admitted = frozenset((0, os.geteuid())) if admitted is None else admitted
        self._app = web.Application(middlewares=[_problems], client_max_size=max_body)
        for route in routes:
            # aiohttp's own pattern accepts no braces, which ids may have
            path = route.path.replace("}", ":[^/]+}")
            self._app.router.add_route(route.method, PREFIX + path, self._handler(route))
        for stream in streams:
            self._app.router.add_get(PREFIX + stream.path, self._stream_handler(stream))
        self._streaming: set[asyncio.Task[Any]] = set()
        self._connections = Connections(self._app, bounds or ControlConfig())
        self._running = False

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused connections by cause."""
        return self._connections.refused

    async def start(self) -> None:
        """Listen. Remove the sockets of killed processes. Raises: OSError."""
        private.directory(self.path.parent)
        for left in self.path.parent.glob("*.sock"):
            if _is_dead(left):
                left.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            with near(self.path) as path:
                listener.bind(path)
            private.narrow([self.path])
            await self._connections.listen_on(listener)
        except BaseException:
            listener.close()
            self.path.unlink(missing_ok=True)
            raise
        self._running = True

    async def stop(self) -> None:
        """Close all connections and remove the socket. Idempotent."""
        if self._running:
            self._running = False
            for task in self._streaming:
                task.cancel()
            await self._connections.stop()
            self.path.unlink(missing_ok=True)

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            uid = peer_uid(request)
            actor = user(uid, "socket")
            given: dict[str, Any] = dict(request.match_info)
            if uid not in self._admitted:
                await route.refused(given, actor)
                raise Denied("only the user of the daemon and root may use its control channel")
            if request.method == "GET":
                sent: Mapping[str, Any] = request.query
            else:
                sent = await _body(request)
            if twice := sorted(sent.keys() & given.keys()):
                raise InvalidCommand(f"{', '.join(twice)}: already set by the path")
            result = await route.answer(given | dict(sent), actor)
            return web.Response(body=json.dumps(result).encode(), content_type=_JSON)

        return handle

    def _stream_handler(self, stream: Stream) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if peer_uid(request) not in self._admitted:
                raise Denied("only the user of the daemon and root may use its control channel")
            task = asyncio.current_task()
            assert task is not None
            self._streaming.add(task)
            response = web.StreamResponse(headers={"Content-Type": _EVENTS, "Cache-Control": "no-store"})
            try:
                async with aclosing(stream.open(dict(request.query))) as events:
                    first = await anext(events)
                    await response.prepare(request)
                    await _send(response, first)
                    async for event in events:
                        await _send(response, event)
            except (ConnectionError, TimeoutError):  # the reader has gone, or takes nothing
                if request.transport is not None:
                    request.transport.abort()
            finally:
                self._streaming.discard(task)
            return response

        return handle


@contextmanager
def near(path: Path) -> Iterator[str]:
    """Path to a socket that is short enough for a socket address, wherever the socket is. Raises: OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def peer_uid(request: web.Request) -> int:
    """User id of the peer, from the kernel."""
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            with near(path) as short:
                probe.connect(short)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


async def _send(response: web.StreamResponse, event: bytes) -> None:
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(b"data: " + event + b"\n\n")


async def _body(request: web.Request) -> Mapping[str, Any]:
    if request.content_type != _JSON:
        raise web.HTTPUnsupportedMediaType(text=f"the body must be {_JSON}")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            text = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_SECONDS:g} s") from None
    try:
        sent = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON, or is nested too deeply") from None
    if not isinstance(sent, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return sent


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        text = refusal.text if refusal.status in (400, 408, 415) else None
        response = _problem(refusal.status, refusal.reason.lower().replace(" ", "_"), text or refusal.reason)
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
    except (BridgeError, LookupError) as error:
        if isinstance(error, LookupError) and type(error) is not LookupError:
            response = _bug(request)
        else:
            status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
            response = _problem(status, getattr(error, "reason", "unknown_name"), str(error))
    except Exception:
        response = _bug(request)
    if not response.prepared:
        response.headers["Cache-Control"] = "no-store"
    return response


def _bug(request: web.Request) -> web.Response:
    place = request.match_info.route.resource
    path = place.canonical if place is not None else "?"
    logging.getLogger("bridge.web").exception("request failed", extra={"action": "control", "path": path})
    return _problem(500, "bug", "the bridge could not answer; see its log")


def _problem(status: int, reason: str, detail: str) -> web.Response:
    content = {
        "type": f"urn:durable-bridge:problem:{reason}",
        "title": reason.replace("_", " "),
        "status": status,
        "detail": detail if len(detail) <= _LONGEST_DETAIL else f"{detail[:_LONGEST_DETAIL]}...",
        "reason": reason,
    }
    return web.Response(status=status, body=json.dumps(content).encode(), content_type=_PROBLEM)
