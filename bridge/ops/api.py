"""The API over HTTP: routes with their callers, errors by RFC 9457, repeated requests.

The control socket and the ops port serve the same routes. They differ in the way in which they find the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from bridge.core.errors import (
    BridgeError,
    BrokerUnavailable,
    EngineOutage,
    EngineTimeout,
    InstanceAlreadyExists,
    InstanceNotFound,
    InvalidCommand,
    wire_name,
)
from bridge.ops.access import ANONYMOUS, Caller, ProviderUnavailable, Unauthenticated
from bridge.ops.audit import Actor, Denied
from bridge.ops.connections import Handler

PREFIX = "/api/v1/"
STATUS = "status"
"""Path of a daemon's status."""
LIVE = "live"
"""Path of the stream with the changes of a status."""
BODY_SECONDS = 30.0
"""Seconds for the body of a request."""
WRITE_SECONDS = 30.0
"""Seconds for the reader of a stream to take one part. A stream whose reader takes longer is closed."""
ADMIT_SECONDS = 10.0
"""Seconds after which the rights of the reader of an open stream are checked again."""
LAST = "last_event_id"
"""Parameter of a stream: id of the last event that its reader has received."""
_LAST_HEADER = "Last-Event-ID"
KEY_HEADER = "Idempotency-Key"
"""Header of a request that the client may repeat (draft-ietf-httpapi-idempotency-key-header)."""
PROBLEM = "application/problem+json"

_LONGEST_KEY = 255
KEY = re.compile(rf"[!-~]{{1,{_LONGEST_KEY}}}")
_LONGEST_DETAIL = 2_000
"""Characters: the detail may name what was asked for."""
_JSON = "application/json"
EVENTS = "text/event-stream"


@wire_name("bridge.ops.api.TooManyRequests")
class TooManyRequests(BridgeError):
    """The caller asks more often than `ops.http.access` allows. seconds: until it may ask again."""

    reason = "too_many_requests"

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        super().__init__(f"too many requests; ask again in {seconds:.1f} s")


@wire_name("bridge.ops.api.TooManyStreams")
class TooManyStreams(BridgeError):
    """As many streams are open as `ops.http.max_streams` allows."""

    reason = "too_many_streams"


@wire_name("bridge.ops.api.KeyReused")
class KeyReused(BridgeError):
    """An Idempotency-Key came a second time with another request."""

    reason = "idempotency_key_reused"


_STATUS: Mapping[type[BaseException], int] = {
    Unauthenticated: 401,
    ProviderUnavailable: 503,
    TooManyRequests: 429,
    TooManyStreams: 503,
    KeyReused: 422,
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
STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 500, 503, 504)
"""HTTP statuses of errors."""

Authenticate = Callable[[web.Request], Awaitable[Caller]]
"""Find the caller of a request. Raises: Denied with the caller as `actor`; Unauthenticated, TooManyRequests."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One method and path of the API.

    answer: called with parameters, caller, and the caller's key for repetitions.
    refused: called with parameters and a caller without permission.
    location: place of what an answer has only accepted, from the parameters and the answer; None for a finished one.
    """

    method: str
    path: str
    answer: Callable[[Mapping[str, Any], Caller, str | None], Awaitable[Any]]
    refused: Callable[[Mapping[str, Any], Actor], Awaitable[None]]
    location: Callable[[Mapping[str, Any], Any], str | None] = lambda given, result: None


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """Server-sent event.

    data: JSON in one line. name: empty for the default. id: returned by a reader that connects again; empty: none.
    """

    data: bytes
    name: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class EventStream:
    """Path that answers with server-sent events until its reader leaves or the daemon stops.

    open: called with the parameters and the caller; yields events, or their data. `LAST` is a parameter. Errors before
    the first event are answers.
    """

    path: str
    open: Callable[[Mapping[str, Any], Caller], AsyncGenerator[bytes | ServerSentEvent, None]]


class EventStreams:
    """Event streams of an application, bounded by number.

    A slow reader is closed: nothing but the socket's buffer waits.
    """

    def __init__(self, most: int) -> None:
        """Create no streams yet. most: readers at a time."""
        self._most = most
        self._running: set[asyncio.Task[Any]] = set()
        self.refused = 0
        """Readers that were one too many."""

    def add(
        self,
        app: web.Application,
        prefix: str,
        streams: Sequence[EventStream],
        authenticate: Authenticate,
        admit: Authenticate,
    ) -> None:
        """Serve streams below a prefix. admit: as `authenticate`, for open streams: it does not limit their rate."""
        for stream in streams:
            app.router.add_get(prefix + stream.path, self._handler(stream, authenticate, admit))

    def stop(self) -> None:
        """End all streams."""
        for task in self._running:
            task.cancel()

    def _handler(
        self, stream: EventStream, authenticate: Authenticate, admit: Authenticate
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
                raise Denied("another site has made this request")
            caller = await authenticate(request)
            if len(self._running) >= self._most:
                self.refused += 1
                raise TooManyStreams(f"{self._most} readers watch this daemon already; close one of them")
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            response = web.StreamResponse(
                headers={"Content-Type": EVENTS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            given = dict(request.query)
            if _LAST_HEADER in request.headers:
                given[LAST] = request.headers[_LAST_HEADER]
            try:
                async with aclosing(stream.open(given, caller)) as events:
                    first = await anext(events)
                    if request.method == "HEAD":
                        return response
                    await response.prepare(request)
                    await _send(response, first)
                    checked = time.monotonic()
                    async for event in events:
                        if time.monotonic() - checked >= ADMIT_SECONDS:
                            checked = time.monotonic()
                            if not await _is_still_allowed(request, caller, admit):
                                break
                        await _send(response, event)
            except (ConnectionError, TimeoutError):  # the reader has gone, or takes nothing
                if request.transport is not None:
                    request.transport.abort()
            finally:
                self._running.discard(task)
            return response

        return handle


async def _is_still_allowed(request: web.Request, caller: Caller, admit: Authenticate) -> bool:
    """True while the reader of a stream has the rights with which it was opened."""
    try:
        return await admit(request) == caller
    except ProviderUnavailable:
        return True
    except (Unauthenticated, Denied):
        return False


async def _send(response: web.StreamResponse, event: bytes | ServerSentEvent) -> None:
    head = b""
    if isinstance(event, ServerSentEvent):
        head = b"".join(
            b"%s: %s\n" % (name, value.encode()) for name, value in ((b"event", event.name), (b"id", event.id)) if value
        )
        event = event.data
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(head + b"data: " + event + b"\n\n")


class IdempotentAnswers:
    """Answers of this process to requests with an Idempotency-Key, bounded by number."""

    MOST = 10_000

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], tuple[str, asyncio.Task[Any]]] = OrderedDict()

    async def run_once(self, key: tuple[str, str, str], request: str, run: Callable[[], Awaitable[Any]]) -> Any:
        """Answer of the first request with a key; a repetition waits for it. An error is not kept.

        key: caller, path, and Idempotency-Key. request: digest of the parameters.
        Raises: KeyReused for another request with the same key.
        """
        known = self._known.get(key)
        if known is not None and known[0] != request:
            raise KeyReused("this Idempotency-Key came with another request; take a new key for each request")
        if known is None:
            # A client that goes away does not stop the operation: its repetition gets the answer
            known = self._known[key] = request, asyncio.ensure_future(run())
            while len(self._known) > self.MOST and next(iter(self._known.values()))[1].done():
                self._known.popitem(last=False)
        try:
            return await asyncio.shield(known[1])
        except Exception:
            if self._known.get(key) is known:
                del self._known[key]
            raise


def add_routes(app: web.Application, routes: Sequence[ApiRoute], authenticate: Authenticate) -> None:
    """Serve routes below `PREFIX`."""
    answers = IdempotentAnswers()
    for route in routes:
        # aiohttp's own pattern accepts no braces, which ids may have
        path = route.path.replace("}", ":[^/]+}")
        handler = _handler(route, authenticate, answers)
        resource = app.router.add_resource(PREFIX + path)
        for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
            resource.add_route(method, handler)


def _handler(
    route: ApiRoute, authenticate: Authenticate, answers: IdempotentAnswers
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        path: dict[str, Any] = dict(request.match_info)
        caller = await admitted(request, route, path, authenticate)
        sent = await _body(request) if request.method == "POST" else request.query
        if twice := sorted(sent.keys() & path.keys()):
            raise InvalidCommand(f"{', '.join(twice)}: already set by the path")
        given = path | dict(sent)
        key = _key(request)
        if key is None:
            result = await route.answer(given, caller, None)
        else:
            digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
            result = await answers.run_once(
                (caller.actor.name, request.path, key), digest, lambda: route.answer(given, caller, key)
            )
        response = web.Response(body=json.dumps(result).encode(), content_type=_JSON)
        if (location := route.location(given, result)) is not None:
            response.set_status(202)
            response.headers["Location"] = location
        return response

    return handle


async def admitted(
    request: web.Request, route: ApiRoute, given: Mapping[str, Any], authenticate: Authenticate
) -> Caller:
    """Caller of a request for a route; a refusal leaves an audit line. given: parameters that are known.

    Raises: as `Authenticate`.
    """
    try:
        return await authenticate(request)
    except Denied as error:
        await route.refused(given, error.actor or ANONYMOUS.actor)
        raise
    except Unauthenticated:
        await route.refused(given, ANONYMOUS.actor)
        raise


def _key(request: web.Request) -> str | None:
    key = request.headers.get(KEY_HEADER) if request.method == "POST" else None
    if key is not None and KEY.fullmatch(key) is None:
        raise InvalidCommand(f"{KEY_HEADER}: 1 to {_LONGEST_KEY} visible ASCII characters")
    return key


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
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn errors into problem details (RFC 9457)."""
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        text = refusal.text if refusal.status in (400, 408, 415) else None
        response = problem(refusal.status, refusal.reason.lower().replace(" ", "_"), text or _detail(request, refusal))
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
    except (BridgeError, LookupError) as error:
        if isinstance(error, LookupError) and type(error) is not LookupError:
            response = _bug(request)
        else:
            status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
            response = problem(status, getattr(error, "reason", "unknown_name"), str(error))
            if isinstance(error, Unauthenticated):
                response.headers["WWW-Authenticate"] = 'Bearer realm="durable-bridge"'
            elif isinstance(error, TooManyRequests):
                response.headers["Retry-After"] = str(max(1, round(error.seconds + 0.5)))
            elif isinstance(error, TooManyStreams):
                response.headers["Retry-After"] = "10"
    except web.RequestPayloadError:
        response = problem(400, "bad_request", "the body is damaged: its length or its encoding is not as announced")
        response.force_close()  # no further request can be read from the connection
    except Exception:
        response = _bug(request)
    if not response.prepared:
        response.headers["Cache-Control"] = "no-store"
    return response


def _detail(request: web.Request, refusal: web.HTTPException) -> str:
    """Cause and next step of a refusal by aiohttp."""
    match refusal:
        case web.HTTPNotFound():
            return f"nothing is at this path; {PREFIX}openapi.json lists all operations"
        case web.HTTPMethodNotAllowed():
            allowed = " or ".join(sorted(refusal.allowed_methods - {"HEAD"}))
            return f"{request.method[:20]} is not allowed here; use {allowed}"
        case web.HTTPRequestEntityTooLarge():
            return f"the body is larger than {request.client_max_size:,} bytes; send a smaller one"
        case _:
            return refusal.reason


def _bug(request: web.Request) -> web.Response:
    place = request.match_info.route.resource
    path = place.canonical if place is not None else "?"
    logging.getLogger("bridge.web").exception("request failed", extra={"action": "api", "path": path})
    return problem(500, "bug", "the bridge could not answer; see its log")


def problem(status: int, reason: str, detail: str) -> web.Response:
    """Response with problem details."""
    content = {
        "type": f"urn:durable-bridge:problem:{reason}",
        "title": reason.replace("_", " "),
        "status": status,
        "detail": detail if len(detail) <= _LONGEST_DETAIL else f"{detail[:_LONGEST_DETAIL]}...",
        "reason": reason,
    }
    return web.Response(status=status, body=json.dumps(content).encode(), content_type=PROBLEM)
