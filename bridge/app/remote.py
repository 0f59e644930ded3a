"""Operations of a daemon elsewhere, over its ops port: no configuration, no credentials of engine and broker."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from bridge.app.operations.client import FIND_SECONDS, Call, ask_over, each_of, while_alive
from bridge.app.operations.operation import Operation
from bridge.core.errors import BridgeError, EngineTimeout, EngineUnavailable, InvalidCommand
from bridge.ops.access import Unauthenticated
from bridge.ops.api import TooManyRequests
from bridge.ops.audit import Denied
from bridge.system.addresses import is_loopback

TOKEN_NEXT = "set BRIDGE_TOKEN, or name a file with --token-file"  # noqa: S105 - a sentence
TOKEN_HINT = f"Next: {TOKEN_NEXT}"


TlsError = aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError
"""Failed TLS handshakes."""


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """Address of the ops port of a daemon.

    url: without a slash at its end.
    token: of `bridge tokens new`, or of the identity provider.
    ca: file with the certificates of the authorities to trust; None: those of the system.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    @property
    def connector(self) -> aiohttp.TCPConnector:
        """New connector, which verifies the certificate of the daemon. Raises: InvalidCommand."""
        if not self.url.startswith("https:"):
            return aiohttp.TCPConnector()
        try:
            return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=self.ca))
        except (OSError, ssl.SSLError) as error:
            raise InvalidCommand(f"{self.ca} has no readable certificates: {error.strerror or error}") from None


def address(url: str, token: str | None, ca: Path | None) -> DaemonAddress:
    """Check an address. Raises: InvalidCommand."""
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.user or parsed.query_string:
        raise InvalidCommand(f"{url!r} is not an address like https://bridge.example:8099")
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidCommand("the token has characters that no token has")
    if token is not None and parsed.scheme == "http" and not is_loopback(parsed.host):
        raise InvalidCommand(f"{url}: a token is sent over https only, or to this machine")
    return DaemonAddress(url.rstrip("/"), token, ca)


async def operate(place: DaemonAddress, engine: str | None, calls: Sequence[Call]) -> list[Any]:
    """Run operations one after the other by the daemon behind an address; return their results.

    Raises: as `bridge.app.serve.control.operate`; Unauthenticated, Denied.
    """
    return [result async for result in _results(place, engine, calls)]


async def operate_each(place: DaemonAddress, engine: str | None, calls: Sequence[Call]) -> list[Any]:
    """Run operations as `operate` does, and return their results or errors. An outage ends the list."""
    return await each_of(partial(_results, place, engine), calls)


def _operations() -> Mapping[str, Operation[Any]]:
    """All operations by name. Their import takes long, and `bridge status` uses none."""
    from bridge.app.operations.table import BY_NAME

    return BY_NAME


async def _results(place: DaemonAddress, engine: str | None, calls: Sequence[Call]) -> AsyncIterator[Any]:
    async with aiohttp.ClientSession(connector=place.connector, headers=place.headers, trust_env=False) as session:
        for name, given in calls:
            yield await _patient(session, place, _operations()[name], {"engine": engine, **given})


async def _patient(session: aiohttp.ClientSession, place: DaemonAddress, operation: Operation[Any], given: Any) -> Any:
    """Answer to one operation. Waits where the daemon limits the rate of requests, and while it lives."""
    while True:
        asked = ask_over(session, operation, given, place.url)
        try:
            return await while_alive(asked, partial(_is_alive, session, place), FIND_SECONDS, operation.name, place.url)
        except TooManyRequests as error:
            await asyncio.sleep(error.seconds)
        except (Unauthenticated, Denied, EngineTimeout) as error:
            raise explained(error, place) from error.__cause__


async def _is_alive(session: aiohttp.ClientSession, place: DaemonAddress) -> bool:
    """True when the daemon answers, also with an error."""
    try:
        async with asyncio.timeout(FIND_SECONDS):
            await ask_over(session, _operations()["engines.list"], {}, place.url)
    except (EngineTimeout, TimeoutError):
        return False
    except BridgeError:
        return True
    return True


def explained(error: BridgeError, place: DaemonAddress) -> BridgeError:
    """Error with the next step of the person."""
    match error:
        case Unauthenticated():
            return Unauthenticated(f"{error}. {TOKEN_HINT}")
        case Denied():
            return Denied(f"{error}. Next: use a token with this right (`bridge tokens new` makes one)")
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return EngineUnavailable(f"{place.url}: {not_trusted(cause)}")
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return EngineUnavailable(f"{place.url}: cannot connect ({_why(cause)}); is the daemon running?")
    return error


def not_trusted(error: TlsError, next_: str = "name the certificate of its authority with --ca") -> str:
    """Sentence about a failed TLS handshake, with the next step for a certificate that is not trusted."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found: BaseException = error.certificate_error
        why = getattr(found, "verify_message", None) or found
        return f"the certificate is not trusted ({why}). Next: {next_}"
    return f"no TLS connection ({error.os_error.strerror or error.os_error})"


def _why(cause: Exception) -> str:
    if isinstance(cause, aiohttp.ClientConnectorError):
        return str(cause.os_error.strerror or cause.os_error)
    return "no answer in time"
