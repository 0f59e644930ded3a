"""Status of all daemons of a configuration: each is asked through its control socket, or its ops port."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp

from bridge.app import state
from bridge.app.operations.client import FIND_SECONDS
from bridge.app.remote import TOKEN_HINT, Address, not_trusted
from bridge.app.serve.status import daemon_id
from bridge.config.source import Loaded
from bridge.ops.api import PREFIX, STATUS
from bridge.ops.control import DIRECTORY, near, sockets
from bridge.ops.status import Document, merge
from bridge.system.processes import is_stopped

_LARGEST = 64 * 1024 * 1024
"""Bytes of the longest answer that is read."""


async def of_all_daemons(loaded: Loaded, own: Document) -> Document:
    """Status of a daemon and of all others that it knows. own: its own status.

    The others on this machine are asked. Those that are only registered on the engine did not answer.
    """
    [me] = own["daemons"]
    asked: list[tuple[str, str, Document | Exception]] = [
        (me["id"], "", own),
        *(each for each in await answers_of_sockets(loaded) if each[0] != me["id"]),
    ]
    names = {name for name, _, _ in asked}
    for peer in me["peers"]:
        if peer["id"] not in names:
            why = ValueError(f"it is not on the machine of {me['id']}, or has ended; it was registered at {peer['at']}")
            asked.append((peer["id"], "bridge status --url https://HOST:8099", why))
    return merged(asked)


async def answers_of_sockets(loaded: Loaded) -> list[tuple[str, str, Document | Exception]]:
    """Name, next command, and answer or error, of each daemon with a control socket in the state directory."""
    paths = sockets(state.state_directory(loaded) / DIRECTORY)
    answers = await asyncio.gather(*(ask(path) for path in paths))
    found: list[tuple[str, str, Document | Exception]] = []
    for path, answer in zip(paths, answers, strict=True):
        if not isinstance(answer, ConnectionRefusedError):  # left by a killed daemon
            pid = path.name.partition("-")[0]
            command = f"ps -p {pid} -o stat,etime,args"
            if isinstance(answer, TimeoutError) and is_stopped(pid):
                answer, command = (
                    ValueError(f"no answer within {FIND_SECONDS:g} s; process {pid} is frozen by a signal"),
                    f"kill -CONT {pid}",
                )
            found.append((daemon_id(int(pid)) if pid.isdecimal() else path.name, command, answer))
    return found


def merged(asked: Iterable[tuple[str, str, Document | Exception]]) -> Document:
    """Merge answers. asked: name, next command, and answer or error, of each daemon."""
    documents, silent = [], []
    for name, command, answer in asked:
        if isinstance(answer, Exception):
            silent.append({"id": name, "answered": False, "detail": _reason(answer), "next": command})
        else:
            documents.append(answer)
    return merge(documents, silent)


async def ask(place: Address | Path) -> Document | Exception:
    """Answer of one daemon, or the reason for none. place: address, or socket of a daemon on this machine."""
    try:
        async with asyncio.timeout(FIND_SECONDS):
            if isinstance(place, Address):
                return await _get(place.url, place.connector, place.headers)
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


async def _get(base: str, connector: aiohttp.BaseConnector, headers: Mapping[str, str]) -> Document:
    """Raises: OSError, ClientError; ValueError for an answer that is no status."""
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False) as session,
        session.get(f"{base}{PREFIX}{STATUS}", allow_redirects=False) as response,
    ):
        text = await response.content.read(_LARGEST)
        if response.status in (401, 403):
            raise ValueError(f"HTTP {response.status}: the daemon does not accept the token. {TOKEN_HINT}")
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
