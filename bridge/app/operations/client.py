"""One request to a daemon: an operation over HTTP, and the errors of its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge.app.operations.operation import Operation
from bridge.core import errors
from bridge.core.errors import (
    BridgeError,
    ConfigError,
    EngineOutage,
    EngineTimeout,
    EngineUnavailable,
    InvalidCommand,
)
from bridge.ops.api import PREFIX, TooManyRequests
from bridge.ops.connections import LONGEST_LINE
from bridge.system.tasks import cancelled

_LONGEST_PATH = 4000
"""Most characters of a path, below the limit of the server. The longest id, of 256 characters, needs 3,072."""
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 6 * 3600.0
"""Seconds for an operation. Calls to an engine have their own deadlines; the erasure of a large engine makes many."""


_NO_PLACE = ("not_found", "method_not_allowed")
"""Reasons of a daemon for a path or method that it does not know."""
FIND_SECONDS = 5.0
"""Seconds for a daemon to list its engines. A slower daemon is skipped.

During an operation the daemon is asked at the same interval, which detects a frozen one.
"""

T = TypeVar("T")
Call = tuple[str, Mapping[str, Any]]
"""Name and parameters of an operation."""


async def each_of(run: Callable[[Sequence[Call]], AsyncIterator[Any]], calls: Sequence[Call]) -> list[Any]:
    """Results or errors of operations, in order. An outage ends the list.

    run: performs operations one after the other, and yields their results until one fails.
    """
    found: list[Any] = []
    left = list(calls)
    while left:
        try:
            async for result in run(left):
                found.append(result)  # noqa: PERF401 -- results before an error count
            return found
        except BridgeError as error:
            found.append(error)
            if isinstance(error, EngineOutage | ConfigError):
                return found
            left = list(calls[len(found) :])
    return found


async def ask_over(
    session: aiohttp.ClientSession, operation: Operation[Any], given: Mapping[str, Any], base: str = "http://localhost"
) -> Any:
    """Answer of a daemon to one operation. base: address of the daemon, without a slash at its end.

    Raises: the error that the daemon reports; EngineTimeout without an answer, caused by the error of the connection;
    EngineUnavailable for the answer of something else; TooManyRequests.
    """
    # A daemon of an earlier build refuses parameters that it does not know
    parameters = operation.parse(given).model_dump(exclude_defaults=True)
    path = PREFIX + operation.path
    for name in list(parameters):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", quote(str(parameters.pop(name)), safe=""))
    sent = {name: value for name, value in parameters.items() if value is not None}
    body = None if operation.method == "GET" else json.dumps(sent, default=_json)
    query = (
        "" if body is not None else "&".join(f"{name}={quote(_text(value), safe='')}" for name, value in sent.items())
    )
    if len(path) > _LONGEST_PATH:
        raise InvalidCommand(f"{operation.name}: the id is too long")
    if len(query) > LONGEST_LINE - 2 * _LONGEST_PATH:
        raise InvalidCommand(
            f"{operation.name}: the conditions are too long for one request ({len(query):,} bytes). Next: name fewer, "
            "or select by another condition"
        )
    target = f"{base}{path}{'?' if query else ''}{query}"
    return await send(session, operation.name, operation.method, target, body)


async def while_alive(
    asked: Coroutine[Any, Any, T], is_alive: Callable[[], Awaitable[bool]], seconds: float, name: str, daemon: str
) -> T:
    """Await the answer of a daemon as long as the daemon lives.

    is_alive: asks the daemon, every `seconds`. name, daemon: what was asked and who, for the error.
    Raises: EngineTimeout when the daemon has stopped answering; errors of `asked`.
    """
    answer = asyncio.create_task(asked)
    try:
        while not (await asyncio.wait({answer}, timeout=seconds))[0]:
            if not await is_alive() and not answer.done():
                raise EngineTimeout(f"{name}: {daemon} stopped answering; the outcome is unknown")
        return answer.result()
    finally:
        await cancelled(answer)


async def send(session: aiohttp.ClientSession, name: str, method: str, url: str, body: str | None) -> Any:
    """Answer of a daemon to one request. name: of the request, for errors. body: JSON text. Raises: as `ask_over`."""
    try:
        async with session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers={"Content-Type": "application/json"} if body is not None else None,
            timeout=aiohttp.ClientTimeout(total=WAIT_SECONDS, sock_connect=CONNECT_SECONDS),
            allow_redirects=False,
        ) as response:
            text = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise EngineTimeout(f"{name}: the daemon did not answer; the outcome is unknown") from error
    if response.status not in (200, 202):
        raise refusal_of(response, text, name)
    try:
        return json.loads(text)
    except ValueError:
        raise _stranger(name, response.status) from None


async def bounded_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Whole body of an answer. most: bytes. Raises: ValueError for a longer one; aiohttp.ClientError."""
    found = bytearray()
    # `read(n)` of aiohttp returns what has arrived, which need not be all
    async for part in response.content.iter_any():
        found += part
        if len(found) > most:
            raise ValueError(f"the answer is longer than {most:,} bytes")
    return bytes(found)


def refusal_of(response: aiohttp.ClientResponse, text: bytes, name: str = "tap") -> Exception:
    """Error of an answer that is not 200. text: its body. name: of the request."""
    if response.status == 429:
        return TooManyRequests(_seconds(response.headers.get("Retry-After")))
    try:
        answer = json.loads(text)
        reason, detail = answer["reason"], str(answer["detail"])
    except (ValueError, TypeError, KeyError):
        return _stranger(name, response.status)
    if reason in _NO_PLACE:
        return EngineUnavailable(
            f"{name}: the daemon does not have this operation, so it may be of an earlier version. Next: update the "
            "daemon, or run the command with its configuration on its machine"
        )
    return _error(reason, detail)


def _stranger(name: str, status: int) -> BridgeError:
    """Error of an answer that no daemon has sent."""
    if status >= 500:
        return EngineTimeout(f"{name}: HTTP {status}, not from the daemon; the outcome is unknown")
    return EngineUnavailable(f"{name}: HTTP {status}, not from a daemon; is this the address of its ops port?")


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and header.isdecimal() else 1.0


def _text(value: Any) -> str:
    """Value of a query."""
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    if isinstance(value, tuple):
        words = [str(each) for each in value]
        return json.dumps(words) if any("," in each or each[:1] in ("", "[") for each in words) else ",".join(words)
    return str(value)


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


def _error(reason: Any, detail: str) -> Exception:
    """Make the error that the daemon reported, which leads to the same text and exit code."""
    if reason == "unknown_name":
        return LookupError(detail)
    kinds = [errors.BridgeError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.reason == reason and kind is not errors.ConfigError:
            return kind(detail)
    return BridgeError(detail)
