"""Status of all daemons of a configuration: each is asked through its control socket, or its ops port."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp

from bridge.app import state
from bridge.app.operations.client import FIND_SECONDS
from bridge.app.remote import Address, not_trusted
from bridge.app.serve.status import daemon_id
from bridge.config.source import Loaded
from bridge.ops.api import PREFIX, STATUS
from bridge.ops.control import DIRECTORY, near, sockets
from bridge.ops.status import Document, merge
from bridge.system.processes import is_stopped

PAGE_SECONDS = 0.1
"""Seconds that a page waits for the answers of other daemons."""
_KEPT = 2.0
"""Seconds for which one answer of another daemon serves all pages."""
_LARGEST = 64 * 1024 * 1024
"""Bytes of the longest answer that is read."""


class TokenRefused(ValueError):
    """A daemon does not accept the token of a request for its status."""


async def of_all_daemons(loaded: Loaded, own: Document) -> Document:
    """Status of a daemon and of all others that it knows. own: its own status.

    The others on this machine are asked. Those that are only registered on the engine did not answer.
    """
    return _with_own(own, await answers_of_sockets(loaded))


Asked = tuple[str, str, "Document | Exception"]
"""Name of a daemon, next command, and its answer or the reason for none."""


def _with_own(own: Document, others: Iterable[Asked]) -> Document:
    """Merge the status of a daemon, of others, and of those that are only registered on its engine."""
    [me] = own["daemons"]
    asked: list[Asked] = [(me["id"], "", own), *(each for each in others if each[0] != me["id"])]
    names = {name for name, _, _ in asked}
    for peer in me["peers"]:
        if peer["id"] not in names:
            why = ValueError(f"it is not on the machine of {me['id']}, or has ended; it was registered at {peer['at']}")
            asked.append((peer["id"], "bridge status --url https://HOST:8099", why))
    return merged(asked)


async def answers_of_sockets(loaded: Loaded) -> list[Asked]:
    """Answers of the daemons with a control socket in the state directory."""
    paths = sockets(state.state_directory(loaded) / DIRECTORY)
    answers = await asyncio.gather(*(ask(path) for path in paths))
    found = (_asked(path, answer) for path, answer in zip(paths, answers, strict=True))
    return [each for each in found if each is not None]


def _asked(path: Path, answer: Document | Exception, waited: float = FIND_SECONDS) -> Asked | None:
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


def _id_in(own: Document) -> str:
    found: str = own["daemons"][0]["id"]
    return found


def pid_of(path: Path) -> str:
    """Process id of the daemon that listens at a control socket."""
    return path.name.partition("-")[0]


class OtherDaemons:
    """Last answers of the other daemons on this machine, for pages, which must not wait for a frozen one."""

    def __init__(self) -> None:
        self._asking: dict[Path, asyncio.Task[Document | Exception]] = {}
        self._known: dict[Path, tuple[float, Document | Exception]] = {}
        """Answers with the monotonic times of their arrival."""

    async def status(self, loaded: Loaded, own: Document) -> Document:
        """Status of all daemons, see `of_all_daemons`; of a daemon that does not answer at once, the last known one.

        own: status of this daemon.
        """
        paths = [path for path in sockets(state.state_directory(loaded) / DIRECTORY) if _id_of(path) != _id_in(own)]
        for path in self._known.keys() - {*paths}:
            del self._known[path]  # the daemon has ended
        asking = [task for path in paths if (task := self._ask(path)) is not None]
        if asking:
            await asyncio.wait(asking, timeout=PAGE_SECONDS)
        found = (_asked(path, self._answer(path), PAGE_SECONDS) for path in paths)
        return _with_own(own, [each for each in found if each is not None])

    def _ask(self, path: Path) -> asyncio.Task[Document | Exception] | None:
        """Request to a daemon that is under way; None while its last answer is new."""
        task = self._asking.get(path)
        if task is not None and not task.done():
            return task
        if path in self._known and time.monotonic() - self._known[path][0] < _KEPT:
            return None
        if is_stopped(pid_of(path)):
            return None
        task = self._asking[path] = asyncio.create_task(ask(path))
        task.add_done_callback(lambda done: self._keep(path, done))
        return task

    def _keep(self, path: Path, done: asyncio.Task[Document | Exception]) -> None:
        del self._asking[path]
        if not done.cancelled():
            self._known[path] = time.monotonic(), done.result()

    def _answer(self, path: Path) -> Document | Exception:
        if is_stopped(pid_of(path)):
            return TimeoutError()
        at, answer = self._known.get(path, (-math.inf, TimeoutError()))
        return answer if time.monotonic() - at < FIND_SECONDS + _KEPT else ValueError("it has not answered yet")


def merged(asked: Iterable[tuple[str, str, Document | Exception]]) -> Document:
    """Merge answers. asked: name, next command, and answer or error, of each daemon."""
    documents, silent = [], []
    for name, command, answer in asked:
        if isinstance(answer, Exception):
            silent.append({"id": name, "answered": False, "detail": _reason(answer), "next": command})
        else:
            documents.append(answer)
    return merge(documents, silent)


async def ask(place: Address | Path, *, of_all: bool = False) -> Document | Exception:
    """Answer of one daemon, or the reason for none. place: address, or socket of a daemon on this machine.

    of_all: the daemon answers for all daemons that it knows, and waits for one that is frozen.
    """
    try:
        async with asyncio.timeout(2 * FIND_SECONDS if of_all else FIND_SECONDS):
            if isinstance(place, Address):
                return await _get(place.url, place.connector, place.headers, "?daemons=all" if of_all else "")
            with near(place) as short:
                return await _get("http://localhost", aiohttp.UnixConnector(short), {})
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        return ValueError(not_trusted(error))
    except aiohttp.ClientConnectorError as error:
        return error.os_error
    except (OSError, aiohttp.ClientError, ValueError) as error:  # TimeoutError is an OSError
        return error
    except (LookupError, TypeError, AttributeError):
        return ValueError("the answer is not a status of this version")


async def _get(base: str, connector: aiohttp.BaseConnector, headers: Mapping[str, str], query: str = "") -> Document:
    """Raises: OSError, ClientError; TokenRefused; ValueError for an answer that is no status."""
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session,
        session.get(f"{base}{PREFIX}{STATUS}{query}", allow_redirects=False) as response,
    ):
        text = await response.content.read(_LARGEST)
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
