"""Status of the daemons of a configuration, or of daemons by their addresses, or of engines and brokers alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from bridge.app import state
from bridge.app.composition import build_broker, build_engine, subscribe_options
from bridge.app.operations.client import FIND_SECONDS
from bridge.app.remote import TOKEN_NEXT, DaemonAddress
from bridge.app.serve.jobs import open_jobs
from bridge.app.serve.views.all_daemons import TokenRefused, answers_of_sockets, merged, socket_of, status_of
from bridge.app.serve.views.status import counts_document, waiting_document
from bridge.brokers.base import BacklogBroker
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.core.states import EngineState
from bridge.engines.base import Engine, instance_counts
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobStore
from bridge.ops.status import StatusDocument, problems
from bridge.system.clock import time_of
from bridge.waiting.totals import WaitingTotals

DIRECT_SECONDS = 15.0
"""Seconds for an engine or a broker that is asked directly."""


async def by_address(places: Sequence[DaemonAddress]) -> StatusDocument:
    """Status of the daemons behind these addresses of ops ports. One address: of all daemons that its daemon knows.

    Raises: InvalidCommand for an unreadable `ca`.
    """
    answers = await asyncio.gather(*(status_of(place, of_all=len(places) == 1) for place in places))
    found = zip(places, answers, strict=True)
    return merged((place.url, _next(place, answer), answer) for place, answer in found)


def _next(place: DaemonAddress, answer: StatusDocument | Exception) -> str:
    return TOKEN_NEXT if isinstance(answer, TokenRefused) else f"curl --max-time 5 {place.url}/healthz"


async def by_configuration(loaded: Loaded) -> StatusDocument:
    """Status of the daemons with a control socket in the state directory, and of those that they can ask.

    Without a daemon, of engines and brokers.
    """
    found = merged(await answers_of_sockets(loaded))
    if not found["answered"]:
        return await _directly(loaded, found["daemons"])
    here = {each["id"] for each in found["daemons"]}
    # A daemon of an earlier version knows no addresses
    known = [peer for each in found["daemons"] if each["answered"] for peer in each.get("peers", ())]
    if not any(peer.get("url") and peer["id"] not in here for peer in known):
        return found
    socket = socket_of(loaded, next(each["id"] for each in found["daemons"] if each["answered"]))
    of_all = ValueError() if socket is None else await status_of(socket, of_all=True)
    return found if isinstance(of_all, Exception) else of_all


def is_reachable(document: StatusDocument) -> bool:
    """True when a daemon, an engine or a broker has answered."""
    engines, sources = document["engines"], document["sources"]
    return bool(
        document["answered"]
        or any(each["state"] == EngineState.UP or each["counts"] is not None for each in engines)
        or any(each["lag"] is not None for each in sources)
    )


# -- without a daemon


async def _directly(loaded: Loaded, silent: Sequence[StatusDocument]) -> StatusDocument:
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


def _part(name: str, detail: str) -> StatusDocument:
    return {"name": name, "state": None, "since": None, "seconds": None, "detail": detail, "daemons": []}


def _source(name: str, lag: int | None, detail: str) -> StatusDocument:
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


async def _engine(loaded: Loaded, name: str, limit: float) -> StatusDocument:
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
