"""Status of this process as the document of `bridge.ops.status`."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge import __version__
from bridge.app import state
from bridge.app.reload.stats import Reloads
from bridge.app.serve.dead_letters import DeadLetterCounter
from bridge.app.serve.jobs import JobFigures
from bridge.app.serve.views.watch import Watch
from bridge.app.serve.waiting import WaitingCounter
from bridge.config.source import Loaded
from bridge.core.errors import EngineError, EngineOutage
from bridge.core.states import EngineState, ProcessState
from bridge.engines.base import Engine, InstanceCounts, instance_counts
from bridge.ops.health import Check
from bridge.ops.status import OVERDUE_SECONDS, StatusDocument, merge
from bridge.pipeline.breaker import Breaker
from bridge.system.clock import time_of
from bridge.waiting.totals import WaitingCount, WaitingTotals

ENGINE_SECONDS = 2.0
"""Seconds for the facts that an engine has. Later, the status has the last known ones."""
_KEPT = 1.0
"""Seconds for which one answer serves all requests."""


class DaemonStatus:
    """Status of one process. Requests at the same time share one answer."""

    def __init__(
        self,
        loaded: Loaded,
        watch: Watch,
        engines: Mapping[str, Engine],
        breakers: Mapping[str, Breaker],
        counter: WaitingCounter,
        totals: Mapping[str, WaitingTotals],
        jobs: JobFigures,
        command: str,
        dead_letters: DeadLetterCounter | None,
        reloads: Reloads,
        limits: Callable[[], list[StatusDocument]],
    ) -> None:
        """Create the status of this process.

        totals: waiting messages by engine.
        command: the command that runs this process, as of `bridge`.
        dead_letters: open dead letters; None where no source is consumed.
        reloads: reloads of this process.
        limits: returns the temporary limits of routes.
        """
        self._loaded = loaded
        self._watch = watch
        self._engines = engines
        self._breakers = breakers
        self._counter = counter
        self._totals = totals
        self._jobs = jobs
        self._command = command
        self._dead_letters = dead_letters
        self._reloads = reloads
        self._peers: Callable[[], Sequence[Mapping[str, Any]]] = tuple
        self._limits = limits
        self._id = daemon_id(os.getpid())
        self._started = time.time()
        self._counts: dict[str, InstanceCounts | None] = {}
        self._making: asyncio.Task[StatusDocument] | None = None
        self._made = -math.inf
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def use(self, loaded: Loaded) -> None:
        """Show another configuration from now on."""
        self._loaded = loaded
        self._made = -math.inf

    def show_peers(self, peers: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Show the other daemons that an engine knows. peers: as `bridge.app.serve.reload.daemons.Peers.others`."""
        self._peers = peers

    def peers(self) -> list[StatusDocument]:
        """Other daemons that an engine knows, as JSON types."""
        return [{**each, "at": time_of(each["at"])} for each in self._peers()]

    async def document(self) -> StatusDocument:
        """Status of this process as JSON types."""
        making = self._making
        behind = self._dead_letters is not None and self._dead_letters.is_behind
        if making is None or (making.done() and (behind or time.monotonic() - self._made > _KEPT)):
            making = self._making = asyncio.create_task(self._make())
        return await asyncio.shield(making)

    async def _make(self) -> StatusDocument:
        up = [check.name for check in self._watch.health().checks if check.state == EngineState.UP]
        counting = () if self._dead_letters is None else (self._dead_letters.refresh(),)
        await asyncio.gather(*counting, *(self._ask(name) for name in self._engines if name in up))
        readiness, now = self._watch.health(), time.time()
        checks = {(check.kind, check.name): check for check in readiness.checks}
        # Before the first pause: another look at the readiness may have other components
        parts = {place: self._part(check, now) for place, check in checks.items()}
        engines = [self._engine(name, parts["engine", name], now) for name in self._engines]
        sources = []
        for source in self._watch.sources:
            if (part := parts.get(("source", source.name))) is not None:
                sources.append(part | source.figures() | self._open(source.name))
                await asyncio.sleep(0)  # a source may have thousands of partitions
        others = [part | {"kind": kind} for (kind, _), part in parts.items() if kind not in ("source", "engine")]
        daemon = {
            "id": self._id,
            "answered": True,
            "version": __version__,
            "command": self._command,
            "phase": str(readiness.phase),
            "ready": readiness.ready,
            "started": time_of(self._started),
            "seconds": round(now - self._started, 1),
            "config": {
                "version": self._reloads.version,
                "since": time_of(self._reloads.since),
                "reload_refused": self._reloads.detail or None,
            },
            "peers": self.peers(),
        }
        made: StatusDocument = {
            "time": time_of(now),
            "daemons": [daemon],
            "engines": engines,
            "sources": sources,
            "components": others,
        }
        made["limits"] = self._limits()
        made["targets"] = self._watch.targets()
        self._made = time.monotonic()
        return merge([made])

    def _open(self, source: str) -> StatusDocument:
        counter = self._dead_letters
        if counter is None or counter.counted is None:
            return {"dead_letters_open": None, "dead_letters_counted": None}
        return {"dead_letters_open": counter.document(source), "dead_letters_counted": time_of(counter.counted)}

    async def _ask(self, name: str) -> None:
        """Ask an engine for its facts."""
        running = self._refreshing.get(name)
        if running is None or running.done():
            running = self._refreshing[name] = asyncio.create_task(self._refresh(name))
        await asyncio.wait([running], timeout=ENGINE_SECONDS)

    async def _refresh(self, name: str) -> None:
        engine = self._engines[name]
        try:
            # Without commands, nothing else notices an outage
            await engine.probe()
            self._counts[name] = await instance_counts(engine)
            await self._counter.refresh(name)
            await self._jobs.refresh_engine(name)
        except EngineOutage as error:
            self._breakers[name].trip(error)
        except EngineError:
            return  # the last known facts remain

    def _part(self, check: Check, now: float) -> StatusDocument:
        since = self._watch.since(check)
        return {
            "name": check.name,
            "state": str(check.state),
            "since": time_of(since),
            "seconds": round(max(0.0, now - since), 1),
            "detail": check.detail,
            "daemons": [{"daemon": self._id, "state": str(check.state), "detail": check.detail}],
        }

    def _engine(self, name: str, part: StatusDocument, now: float) -> StatusDocument:
        engine = self._engines[name]
        if part["state"] == EngineState.UP:
            part["detail"] = part["daemons"][0]["detail"] = ""  # its place
        return part | {
            "id": state.fingerprint(self._loaded, name),
            "place": engine.description,
            "durable": engine.durable,
            "counts": counts_document(self._counts.get(name)),
            "jobs": self._jobs.document(name),
            "worker_processes": [
                {
                    "daemon": self._id,
                    "pid": view.pid,
                    "state": str(view.state),
                    "restarts": view.restarts,
                    "detail": view.detail,
                    "sessions": view.sessions,
                    "in_flight": view.in_flight,
                }
                for view in self._watch.processes(name)
            ]
            + [
                {
                    "daemon": self._id,
                    "pid": each.pid,
                    "state": str(ProcessState.JOINED),
                    "restarts": 0,
                    "detail": f"version {each.version}",
                    "sessions": each.sessions,
                    "in_flight": each.in_flight,
                }
                for each in self._watch.joined(name)
            ],
            **waiting_document(self._totals[name].counted, now),
        }


def daemon_id(pid: int) -> str:
    """Name of a daemon: its host and process id."""
    return f"{socket.gethostname()}/{pid}"


def waiting_document(count: WaitingCount, now: float) -> StatusDocument:
    """Early and quarantined messages of an engine as JSON types; null before the first count."""
    if not count.at:
        return {"counted": None, "early": None, "quarantined": None}
    return {
        "counted": time_of(count.at),
        "early": {"messages": count.early, "oldest_seconds": _age(count.early_since, now)},
        "quarantined": [
            {
                "source": source,
                "keys": each.keys,
                "messages": each.messages,
                "oldest_seconds": _age(each.since, now),
                "manual": len(each.manual),
                "manual_seconds": _age(min(each.manual, default=None), now),
                "overdue": sum(now - since > OVERDUE_SECONDS for since in each.manual),
            }
            for source, each in sorted(count.quarantined.items())
        ],
    }


def counts_document(counts: InstanceCounts | None) -> StatusDocument | None:
    """Instances of an engine as JSON types; None when it does not count them."""
    if counts is None:
        return None

    def rows(name: str, word: str, given: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
        return [
            {name: first, word: second, "count": count} for (first, second), count in sorted(given.items()) if count
        ]

    return {
        "instances": rows("orchestration", "status", counts.instances),
        "ended_today": rows("orchestration", "status", counts.ended_today),
        "sagas": rows("saga", "outcome", counts.sagas),
        "sagas_today": rows("saga", "outcome", counts.sagas_today),
        "failed": {name: count for name, count in counts.failed.items() if count},
        "failed_today": {name: count for name, count in counts.failed_today.items() if count},
        "versions": rows("orchestration", "version", counts.versions),
    }


def _age(since: float | None, now: float) -> float | None:
    return None if since is None or math.isinf(since) else round(max(0.0, now - since), 1)
