"""Status of all daemons of a configuration: each is asked on its control socket, or on its ops port."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bridge.app import state
from bridge.app.operations.client import FIND_SECONDS, bounded_body
from bridge.app.remote import DaemonAddress, not_trusted
from bridge.app.serve.views.peers import Peer, PeerClient
from bridge.app.serve.views.status import daemon_id
from bridge.config.source import Loaded
from bridge.ops.api import PREFIX, STATUS
from bridge.ops.control import DIRECTORY, near, sockets
from bridge.ops.status import LATE, MISSED, StatusDocument, merge
from bridge.system.processes import is_stopped

PAGE_SECONDS = 0.1
"""Seconds that a page waits for the answers of other daemons."""
_KEPT = 2.0
"""Seconds for which one answer of another daemon serves all pages."""
_LARGEST = 64 * 1024 * 1024
"""Bytes of the longest answer that is read."""


_FAILURES = (OSError, aiohttp.ClientError, ValueError, LookupError, TypeError, AttributeError)
"""Failures to get a status. TimeoutError is an OSError."""


class TokenRefused(ValueError):
    """A daemon does not accept the token of a request for its status."""


Asked = tuple[str, str, "StatusDocument | Exception"]
"""Name of a daemon, next command, and its answer or the reason for none."""


async def answers_of_sockets(loaded: Loaded) -> list[Asked]:
    """Answers of the daemons with a control socket in the state directory."""
    paths = sockets(state.state_directory(loaded) / DIRECTORY)
    answers = await asyncio.gather(*(status_of(path) for path in paths))
    found = (_asked(path, answer) for path, answer in zip(paths, answers, strict=True))
    return [each for each in found if each is not None]


def socket_of(loaded: Loaded, daemon: str) -> Path | None:
    """Control socket of a daemon in the state directory; None when there is none."""
    found = sockets(state.state_directory(loaded) / DIRECTORY)
    return next((path for path in found if _id_of(path) == daemon), None)


def _asked(path: Path, answer: StatusDocument | Exception, waited: float = FIND_SECONDS) -> Asked | None:
    """Answer of the daemon behind a socket; None for a socket that a killed daemon has left. waited: seconds."""
    if isinstance(answer, ConnectionRefusedError):
        return None
    pid = pid_of(path)
    command = f"ps -p {pid} -o stat,etime,args"
    if isinstance(answer, TimeoutError) and is_stopped(pid):
        answer = ValueError(f"no answer within {waited:g} s; process {pid} is frozen by a signal")
        command = f"kill -CONT {pid}"
    return _id_of(path), command, answer


def _id_of(path: Path) -> str:
    pid = pid_of(path)
    return daemon_id(int(pid)) if pid.isdecimal() else path.name


def pid_of(path: Path) -> str:
    """Process id of the daemon that listens at a control socket."""
    return path.name.partition("-")[0]


class OtherDaemons:
    """Last answers of the other daemons of a configuration, for pages and the API.

    Those with a control socket in the state directory are asked there, others at the addresses that they have
    registered on the engine. Every daemon answers for itself only, with facts that each caller may read: an answer
    serves all callers.
    """

    def __init__(
        self,
        own: str,
        registered: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
        client: PeerClient | None = None,
    ) -> None:
        """Know no answers yet.

        own: id of this daemon. registered: returns the other daemons that its engine knows, as its status has them.
        client: asks them; None: this daemon has no keys for it.
        """
        self._own = own
        self._registered = registered
        self._client = client
        self._asking: dict[Path | Peer, asyncio.Task[StatusDocument | Exception]] = {}
        self._known: dict[Path | Peer, tuple[float, StatusDocument | Exception]] = {}
        """Answers with the monotonic times of their arrival."""

    async def status(self, loaded: Loaded, own: StatusDocument) -> StatusDocument:
        """Status of all daemons, for a page: of a daemon that does not answer at once, the last known one.

        own: status of this daemon.
        """
        return await self._status(loaded, own, PAGE_SECONDS, _KEPT)

    async def new_status(self, loaded: Loaded, own: StatusDocument) -> StatusDocument:
        """Status of all daemons, which are asked now. own: status of this daemon."""
        return await self._status(loaded, own, FIND_SECONDS + 1.0, 0.0)

    async def ask_registered(
        self, loaded: Loaded, name: str, given: Mapping[str, Any], seconds: float
    ) -> tuple[list[Any], int]:
        """Answers of the daemons without a socket here to a question, and the number of those that do not answer."""
        here = {_id_of(path) for path in self._sockets(loaded)}
        elsewhere = [each for each in self._registered() if each["id"] not in here]

        async def ask_one(peer: Peer | None) -> Any:
            if peer is None or self._client is None:
                raise ConnectionError("it cannot be asked")
            async with asyncio.timeout(seconds):
                return await self._client.ask(peer, name, given)

        answers = await asyncio.gather(*(ask_one(self._peer(each)) for each in elsewhere), return_exceptions=True)
        silent = sum(
            isinstance(answer, Exception) and not _has_ended(each, answer)
            for each, answer in zip(elsewhere, answers, strict=True)
        )
        return [answer for answer in answers if not isinstance(answer, BaseException)], silent

    async def _status(self, loaded: Loaded, own: StatusDocument, seconds: float, kept: float) -> StatusDocument:
        """Status of all daemons. seconds: longest wait for answers. kept: age up to which an answer is not renewed."""
        paths, registered = self._sockets(loaded), self._registered()
        here = {_id_of(path) for path in paths}
        peers = {each["id"]: peer for each in registered if (peer := self._peer(each)) and each["id"] not in here}
        places: list[Path | Peer] = [*paths, *peers.values()]
        for place in self._known.keys() - {*places}:
            del self._known[place]  # the daemon has ended
        asking = [task for place in places if (task := self._ask(place, kept)) is not None]
        if asking:
            await asyncio.wait(asking, timeout=seconds)
        found = [
            (self._own, "", own),
            *(_asked(path, self._answer(path), min(seconds, FIND_SECONDS)) for path in paths),
        ]
        names = {each[0] for each in found if each is not None}
        found += [
            self._of_registered(each, None if (peer := peers.get(each["id"])) is None else self._answer(peer))
            for each in registered
            if each["id"] not in names
        ]
        return merged(each for each in found if each is not None)

    def _sockets(self, loaded: Loaded) -> list[Path]:
        found = sockets(state.state_directory(loaded) / DIRECTORY)
        return [path for path in found if _id_of(path) != self._own]

    def _peer(self, registered: Mapping[str, Any]) -> Peer | None:
        """Registered daemon as one that can be asked."""
        if self._client is None or registered["url"] is None:
            return None
        return Peer(registered["id"], registered["url"])

    def _ask(self, place: Path | Peer, kept: float) -> asyncio.Task[StatusDocument | Exception] | None:
        """Request to a daemon that is under way; None while its last answer is not older than `kept` seconds."""
        task = self._asking.get(place)
        if task is not None and not task.done():
            return task
        if place in self._known and time.monotonic() - self._known[place][0] < kept:
            return None
        if isinstance(place, Path) and is_stopped(pid_of(place)):
            return None
        asked = status_of(place) if isinstance(place, Path) else self._ask_peer(place)
        task = self._asking[place] = asyncio.create_task(asked)
        task.add_done_callback(lambda done: self._keep(place, done))
        return task

    async def _ask_peer(self, peer: Peer) -> StatusDocument | Exception:
        assert self._client is not None
        try:
            async with asyncio.timeout(FIND_SECONDS):
                found = await self._client.ask(peer, STATUS, {})
            if [each["id"] for each in found["daemons"]] != [peer.id]:
                return ValueError("it answers for another daemon")
            merge([found])  # fails where a member is missing or of another type
        except _FAILURES as error:
            return _failure(error, "set `ops.http.peers.tls.ca`, or `server_name`")
        status: StatusDocument = found
        return status

    def _keep(self, place: Path | Peer, done: asyncio.Task[StatusDocument | Exception]) -> None:
        del self._asking[place]
        if not done.cancelled():
            self._known[place] = time.monotonic(), done.result()

    def _answer(self, place: Path | Peer) -> StatusDocument | Exception:
        if isinstance(place, Path) and is_stopped(pid_of(place)):
            return TimeoutError()
        at, answer = self._known.get(place, (-math.inf, TimeoutError()))
        return answer if time.monotonic() - at < FIND_SECONDS + _KEPT else ValueError("it has not answered yet")

    def _of_registered(self, each: Mapping[str, Any], answer: StatusDocument | Exception | None) -> Asked | None:
        """Answer of a registered daemon; None for one that has ended. answer: None where it was not asked."""
        name, url = each["id"], each["url"]
        if answer is not None and not isinstance(answer, Exception):
            return name, "", answer
        if _has_ended(each, answer):
            return None
        known = "has not renewed its registration since" if each["missed"] >= LATE else "was registered at"
        known = f"it {known} {each['at']}"
        # A writer to the engine chooses the address: a proposed command sends no token there
        probe = f"curl --max-time 5 {url}/healthz"
        if answer is not None:
            return name, probe, ValueError(f"{url}: {_reason(answer)}; {known}")
        if url is not None:
            why = f"this daemon has no `ops.http.access.sessions.keys` to ask it at {url}; {known}"
            return name, probe, ValueError(why)
        why = f"it is not on the machine of {self._own}, or has ended; {known}"
        return name, "bridge status --url https://HOST:8099", ValueError(why)


def _has_ended(registered: Mapping[str, Any], answer: Exception | None) -> bool:
    """True for a daemon that does not renew its registration; one that may be frozen stays."""
    return registered["missed"] >= MISSED and not isinstance(answer, TimeoutError)


def merged(asked: Iterable[tuple[str, str, StatusDocument | Exception]]) -> StatusDocument:
    """Merge answers. asked: name, next command, and answer or error, of each daemon."""
    documents, silent = [], []
    for name, command, answer in asked:
        if isinstance(answer, Exception):
            silent.append({"id": name, "answered": False, "detail": _reason(answer), "next": command})
        else:
            documents.append(answer)
    return merge(documents, silent)


async def status_of(place: DaemonAddress | Path, *, of_all: bool = False) -> StatusDocument | Exception:
    """Answer of one daemon, or the reason for none. place: address, or socket of a daemon on this machine.

    of_all: the daemon answers for all daemons that it knows, and waits for one that is frozen.
    """
    query = "?daemons=all" if of_all else ""
    try:
        async with asyncio.timeout(2 * FIND_SECONDS if of_all else FIND_SECONDS):
            if isinstance(place, DaemonAddress):
                return await _get(place.url, place.connector, place.headers, query)
            with near(place) as short:
                return await _get("http://localhost", aiohttp.UnixConnector(short), {}, query)
    except _FAILURES as error:
        return _failure(error)


def _failure(error: Exception, *remedy: str) -> Exception:
    """Reason why a daemon gave no status. remedy: next step for a certificate that is not trusted, if not the usual."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return ValueError(not_trusted(error, *remedy))
        case aiohttp.ClientConnectorError():
            return error.os_error
        case OSError() | aiohttp.ClientError() | ValueError():
            return error
        case _:
            return ValueError("the answer is not a status of this version")


async def _get(base: str, connector: aiohttp.BaseConnector, headers: Mapping[str, str], query: str) -> StatusDocument:
    """Raises: OSError, ClientError; TokenRefused; ValueError for an answer that is no status."""
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session,
        session.get(f"{base}{PREFIX}{STATUS}{query}", allow_redirects=False) as response,
    ):
        text = await bounded_body(response, _LARGEST)
        if response.status in (401, 403):
            raise TokenRefused(f"HTTP {response.status}: the daemon does not accept the token")
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}; is this the ops port of a daemon of this version?")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("the answer is not a status; is this the ops port of a daemon of this version?")
        merge([found])  # fails where a member is missing or of another type
        return found


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {FIND_SECONDS:g} s; it may be frozen"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return f"cannot connect: {os.strerror(error.errno).lower()}"
    return " ".join(str(error).split())[:300] or type(error).__name__
