"""Status of the daemons of a configuration, or of daemons by their addresses, or of engines and brokers alone."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bridge.app import state
from bridge.app.composition import build_broker, build_engine, subscribe_options
from bridge.app.operations.client import FIND_SECONDS
from bridge.app.remote import TOKEN_HINT, Address, not_trusted
from bridge.app.serve.control import STATUS, sockets
from bridge.app.serve.jobs import open_jobs
from bridge.app.serve.status import counts_document, daemon_id, time_of, waiting_document
from bridge.brokers.base import BacklogBroker
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.core.states import EngineState
from bridge.engines.base import Engine, instance_counts
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobStore
from bridge.ops.api import PREFIX
from bridge.ops.control import near
from bridge.ops.status import Document, merge, problems
from bridge.system.processes import is_stopped
from bridge.waiting.totals import WaitingTotals

_LARGEST = 64 * 1024 * 1024
"""Bytes of the longest answer that is read."""
DIRECT_SECONDS = 15.0
"""Seconds for an engine or a broker that is asked directly."""


async def by_address(places: Sequence[Address]) -> Document:
    """Status of the daemons behind these addresses of ops ports. Raises: InvalidCommand for an unreadable `ca`."""
    answers = await asyncio.gather(*(_ask(place) for place in places))
    found = zip(places, answers, strict=True)
    return _merged((place.url, f"curl --max-time 5 {place.url}/healthz", answer) for place, answer in found)


async def by_configuration(loaded: Loaded) -> Document:
    """Status of the daemons whose control sockets are in the state directory; without one, of engines and brokers."""
    found = sockets(state.state_directory(loaded) / "control")
    answers = await asyncio.gather(*(_ask(path) for path in found))
    asked = []
    for path, answer in zip(found, answers, strict=True):
        if not isinstance(answer, ConnectionRefusedError):  # left by a killed daemon
            pid = path.name.partition("-")[0]
            command = f"ps -p {pid} -o stat,etime,args"
            if isinstance(answer, TimeoutError) and is_stopped(pid):
                answer, command = (
                    ValueError(f"no answer within {FIND_SECONDS:g} s; process {pid} is frozen by a signal"),
                    f"kill -CONT {pid}",
                )
            asked.append((daemon_id(int(pid)) if pid.isdecimal() else path.name, command, answer))
    merged = _merged(asked)
    return merged if merged["answered"] else await _directly(loaded, merged["daemons"])


def is_reachable(document: Document) -> bool:
    """True when a daemon, an engine or a broker has answered."""
    engines, sources = document["engines"], document["sources"]
    return bool(
        document["answered"]
        or any(each["state"] == EngineState.UP or each["counts"] is not None for each in engines)
        or any(each["lag"] is not None for each in sources)
    )


def _merged(asked: Any) -> Document:
    """Merge answers. asked: name, next command, and answer or error, of each daemon."""
    documents, silent = [], []
    for name, command, answer in asked:
        if isinstance(answer, Exception):
            silent.append({"id": name, "answered": False, "detail": _reason(answer), "next": command})
        else:
            documents.append(answer)
    return merge(documents, silent)


async def _ask(place: Address | Path) -> Document | Exception:
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


# -- without a daemon


async def _directly(loaded: Loaded, silent: Sequence[Document]) -> Document:
    """Facts that engines and brokers tell without a daemon. silent: `daemons` entries of those that do not answer."""
    seconds = FIND_SECONDS if silent else DIRECT_SECONDS
    engines, sources = await asyncio.gather(
        asyncio.gather(*(_engine(loaded, name, seconds) for name in loaded.config.engines)),
        asyncio.gather(*(_backlogs(loaded, name, seconds) for name in loaded.config.brokers)),
    )
    lags: dict[str, tuple[int | None, str]] = {name: lag for each in sources for name, lag in each.items()}
    text = "no daemon of this configuration runs on this machine"
    document = {
        "time": time_of(time.time()),
        "asked": len(silent),
        "answered": 0,
        "daemons": [*silent],
        "engines": engines,
        "sources": [_source(name, *lags[name]) for name in loaded.config.sources],
        "components": [],
        "limits": [],
        "targets": {},
    }
    nobody = [] if silent else [{"subject": "daemon", "text": text, "next": "bridge serve"}]
    return document | {"problems": nobody + problems(document)}


def _part(name: str, detail: str) -> Document:
    return {"name": name, "state": None, "since": None, "seconds": None, "detail": detail, "daemons": []}


def _source(name: str, lag: int | None, detail: str) -> Document:
    unknown = ("oldest_seconds", "received_per_second", "settled_per_second", "in_flight", "retrying", "received")
    return _part(name, detail) | {
        "partitions": None,
        "held_by": [],
        "lag": lag,
        **dict.fromkeys((*unknown, "abandoned", "outcomes", "dead_letters")),
        "dead_letters_open": None,
        "dead_letters_counted": None,
        "routes": {},
    }


async def _engine(loaded: Loaded, name: str, limit: float) -> Document:
    engine, totals = build_engine(loaded, name, host=False), WaitingTotals(0, 0)
    detail, up, counts = "", False, None
    jobs: list[JobRecord] = []
    try:
        async with asyncio.timeout(limit):
            counts = await instance_counts(engine)
            await engine.start()
            await engine.probe()
            up = True
            await totals.count(engine)
            jobs = await JobStore(engine).records()
    except (BridgeError, TimeoutError) as error:
        detail = str(error) or f"no answer within {limit:g} s"
    finally:
        await _stopped(engine)
    return _part(name, detail) | {
        "state": EngineState.UP if up else EngineState.AWAY,
        "id": state.fingerprint(loaded, name),
        "place": engine.description,
        "durable": engine.durable,
        "counts": counts_document(counts),
        "jobs": open_jobs(jobs),
        "worker_processes": [],
        **waiting_document(totals.counted, time.time()),
    }


async def _stopped(engine: Engine) -> None:
    try:
        await engine.stop()
    except BridgeError:
        return


async def _backlogs(loaded: Loaded, name: str, limit: float) -> Mapping[str, tuple[int | None, str]]:
    """Records behind, and the reason where they are not known, of the sources of one broker."""
    sources = [source for source, config in loaded.config.sources.items() if config.broker == name]
    if not sources:
        return {}
    broker = build_broker(loaded, name)
    if not isinstance(broker, BacklogBroker):
        return dict.fromkeys(
            sources, (None, "a Service Bus lag is known only to a daemon that receives; start `bridge serve`")
        )
    found: dict[str, tuple[int | None, str]] = {}
    try:
        async with asyncio.timeout(limit):
            await broker.start_reading()
            for source in sources:
                found[source] = (sum((await broker.backlog(subscribe_options(loaded, source))).values()), "")
    except (BridgeError, TimeoutError) as error:
        detail = str(error) or f"no answer within {limit:g} s"
        found = dict.fromkeys(sources, (None, detail)) | found
    finally:
        await broker.stop()
    return found
