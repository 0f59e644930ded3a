"""Ops port: health, metrics, the API and its pages over HTTP or HTTPS, only under the configured host names."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from bridge.config.model.bridge import HttpConfig
from bridge.core.errors import ConfigError, Problem
from bridge.core.states import DaemonState
from bridge.ops.access import Caller, CallerRates, OpsAccess
from bridge.ops.api import (
    PREFIX,
    ApiRoute,
    Authenticate,
    EventStream,
    EventStreams,
    TooManyRequests,
    add_routes,
    problem,
    problems,
)
from bridge.ops.connections import Connections, Handler
from bridge.ops.health import Readiness
from bridge.ops.http_errors import ProblemProtocol
from bridge.ops.metrics import OPENMETRICS, chosen_type
from bridge.ops.peers import PEER, PeerPort
from bridge.ops.sessions import BrowserSessions, random_keyring
from bridge.system.addresses import is_loopback
from bridge.system.tls import TlsFiles, TlsProblem, serve_current

STREAMS = "/stream/"
"""Prefix of the streams for pages, whose readers have sessions."""
_SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


class Pages(Protocol):
    """Pages for browsers."""

    def add_to(self, app: web.Application, authenticate: Authenticate, sessions: BrowserSessions) -> None:
        """Serve them on an application, for callers that `authenticate` admits, and the logins of their sessions."""
        ...


class Scrape(Protocol):
    """Renderer of the metrics."""

    def __call__(self, *, openmetrics: bool) -> Awaitable[bytes]: ...


class Web:
    """Server of /healthz, /readyz, /startupz, /metrics, the API and its pages on the event loop of `start`.

    An answer of /healthz shows that the process lives and its event loop runs.
    """

    def __init__(
        self,
        settings: HttpConfig,
        health: Callable[[], Readiness],
        metrics: Scrape,
        tls: TlsFiles | None = None,
        routes: Sequence[ApiRoute] = (),
        streams: Sequence[EventStream] = (),
        access: OpsAccess | None = None,
        max_body: int = 1024 * 1024,
        pages: Pages | None = None,
        sessions: BrowserSessions | None = None,
        peers: PeerPort | None = None,
    ) -> None:
        """Create the server.

        health, metrics: called on the event loop at every request; they must not block.
        tls: files of the settings.
        routes, streams: the API, for callers that `access` admits.
        max_body: bytes of the largest body of a request.
        pages: for browsers, which get the streams below `/` too; None: there are none.
        sessions: of browsers; None: with a random key.
        peers: answers the questions of other daemons; None: nothing does.
        """
        self._routes = routes
        self._pages = pages
        self._stream_places = streams
        self._streams = EventStreams(min(settings.max_streams, settings.max_connections // 2))
        self._access = access or OpsAccess()
        self.sessions = sessions or BrowserSessions(self._access, random_keyring(), settings.access.sessions.duration)
        self._rate = CallerRates(settings.access.rate, settings.access.burst)
        self._peers = peers
        self._max_body = max_body
        self._tls = tls
        self._settings = settings
        self._health = health
        self._metrics = metrics
        self._connections: Connections | None = None
        self._port = 0
        self._hosts = _LOOPBACK | {_bracketed(host).lower() for host in (settings.host, *settings.allowed_hosts)}
        if settings.peers.url is not None:
            self._hosts |= {_host_of(urlsplit(_with_scheme(settings.peers.url, "http")).netloc)}

    @property
    def port(self) -> int:
        """Port in use; 0 before `start`."""
        return self._port

    @property
    def url(self) -> str:
        """Address without a trailing slash; valid after `start`."""
        host = self._settings.host
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{_bracketed({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host))}:{self._port}"  # noqa: S104 - turned into loopback

    @property
    def peer_url(self) -> str | None:
        """Address for other daemons, without a trailing slash; None where they cannot ask. Valid after `start`."""
        host, given = self._settings.host, self._settings.peers.url
        if self._peers is None or (given is None and (is_loopback(host) or host in _ALL_ADDRESSES)):
            return None
        address = _with_scheme(host if given is None else given, "http" if self._tls is None else "https")
        return address if urlsplit(address).port else f"{address}:{self._port}"

    @property
    def refused(self) -> Mapping[str, int]:
        """Refused connections since the start, by cause."""
        return {} if self._connections is None else {**self._connections.refused, "streams": self._streams.refused}

    async def start(self) -> None:
        """Listen. Raises: ConfigError when the address cannot be bound, or its certificate cannot be used."""
        try:
            context = None if self._tls is None else serve_current(self._tls)
        except TlsProblem as problem:
            raise ConfigError([Problem("configuration", 0, 0, "ops.http.tls", str(problem), code="C005")]) from None
        app = web.Application(middlewares=[self._guard], client_max_size=self._max_body)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/startupz", self._startupz)
        app.router.add_get("/metrics", self._render_metrics)
        if self._peers is not None:
            app.router.add_post(PEER, self._peers.answer)
        add_routes(app, self._routes, self._caller)
        self._streams.add(app, PREFIX, self._stream_places, self._caller, self._admitted)
        if self._pages is not None:
            self._pages.add_to(app, self._visitor, self.sessions)
            self._streams.add(app, STREAMS, self._stream_places, self._visitor, self.sessions.caller)
        connections = Connections(app, self._settings, ProblemProtocol)
        try:
            self._port = await connections.listen(self._settings.host, self._settings.port, context)
        except OSError as error:
            # asyncio's text is longer
            why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else error.strerror
            what = (
                f"cannot listen on {self._settings.host}:{self._settings.port}: {why}; "
                "choose another port, or 0 for a free port"
            )
            raise ConfigError([Problem("configuration", 0, 0, "ops.http.port", what, code="C005")]) from None
        self._connections = connections

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
        connections, self._connections = self._connections, None
        self._streams.stop()
        if connections is not None:
            await connections.stop()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await self._answer(request, handler)
        except web.HTTPException as refusal:
            response = _text(refusal.status, refusal.reason)
            if "Allow" in refusal.headers:
                response.headers["Allow"] = refusal.headers["Allow"]
        except Exception:
            logging.getLogger("bridge.web").exception("request failed", extra={"action": "http", "path": request.path})
            response = _text(500, "the bridge could not answer; see its log")
        if not response.prepared:
            for name, value in _SECURITY.items():
                response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        api = request.path.startswith((PREFIX, STREAMS))
        # A page in a browser can reach loopback through a name of its own (DNS rebinding); the Host header shows it
        if _host_of(request.headers.get("Host", "")) not in self._hosts:
            text = "this host name is not served here; list it under ops.http.allowed_hosts"
            return problem(421, "unknown_host", text) if api else _text(421, text)
        return await (problems(request, handler) if api else handler(request))

    async def _admitted(self, request: web.Request) -> Caller:
        return await self._access.caller(request.headers, request.remote)

    async def _caller(self, request: web.Request) -> Caller:
        return self._paced(await self._admitted(request))

    async def _visitor(self, request: web.Request) -> Caller:
        return self._paced(await self.sessions.caller(request))

    def _paced(self, caller: Caller) -> Caller:
        """Count a request of a caller. Raises: TooManyRequests."""
        seconds = self._rate.wait(caller.actor.name, time.monotonic())
        if seconds:
            raise TooManyRequests(seconds)
        return caller

    async def _healthz(self, _: web.Request) -> web.Response:
        return _json(200, {"alive": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        readiness = self._health()
        return _json(200 if readiness.ready else 503, readiness.as_dict())

    async def _startupz(self, _: web.Request) -> web.Response:
        started = self._health().phase is not DaemonState.STARTING
        return _json(200 if started else 503, {"started": started})

    async def _render_metrics(self, request: web.Request) -> web.Response:
        kind = chosen_type(",".join(request.headers.getall("Accept", ())))
        body = await self._metrics(openmetrics=kind == OPENMETRICS)
        return web.Response(body=body, headers={"Content-Type": kind, "Vary": "Accept"})


def _host_of(header: str) -> str:
    """Name in a Host header, in lower case, without its port; empty when it is malformed."""
    found = _HOST.fullmatch(header.strip().lower())
    return found[1] if found else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _with_scheme(address: str, scheme: str) -> str:
    return address if "://" in address else f"{scheme}://{_bracketed(address)}"


def _json(status: int, content: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content) + b"\n", content_type="application/json")


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")
