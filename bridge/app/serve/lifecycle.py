"""Lifecycle events of a daemon: observers of sources, causes of dead letters and jobs, and the ends of instances."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from bridge.app.lifecycle.facts import SOURCE_TROUBLES, of_cause, of_end, of_job, of_reload, of_source
from bridge.app.lifecycle.publisher import LifecycleEvents
from bridge.app.reload.changes import ChangeKind, Changes
from bridge.app.serve.dead_letters import Causes
from bridge.app.serve.jobs import JobFigures
from bridge.config.model.bridge import EventsConfig
from bridge.core.lifecycle import EventKind, LifecycleEvent
from bridge.core.states import SourceState
from bridge.dead_letters.rows import Facts, Summary
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.ops.health import Check, Readiness
from bridge.pipeline.publishing import Publishing
from bridge.sqlite_engine.model.instance import Finish
from bridge.sqlite_engine.options import EndsOptions
from bridge.system.tasks import cancelled

Add = Callable[[LifecycleEvent], None]

RECENT = 3600.0
"""Seconds before its start from which a daemon announces durable facts again: the daemon before it may have been
killed between a fact and its event.
"""

LASTING = 2.0
"""Seconds for which a source has a state before its event. A pause by a person has none."""

PERIOD = 5.0

_INSTANCES = frozenset({EventKind.INSTANCE_FAILED, EventKind.INSTANCE_COMPENSATED})

CauseKey = tuple[str, str, str, str]
"""Broker, topic, source and fingerprint."""


class SourceObserver:
    """Observer of the states of sources in one daemon."""

    def __init__(self, daemon: str, add: Add, now: Callable[[], float] = time.time) -> None:
        """Create the observer. daemon: its name. now: seconds since the Unix epoch."""
        self._daemon = daemon
        self._add = add
        self._now = now
        self._since: dict[str, tuple[str, float]] = {}
        self._announced: dict[str, str] = {}
        """Announced state of each source that has not recovered."""

    def observe(self, readiness: Readiness) -> None:
        """Compare the states with those of the last call."""
        checks = {check.name: check for check in readiness.checks if check.kind == "source"}
        for name in self._since.keys() - checks.keys():
            del self._since[name]
            self._announced.pop(name, None)
        now = self._now()
        for name, check in checks.items():
            state, since = self._since.get(name, ("", now))
            if state != check.state:
                state, since = check.state, now
                self._since[name] = state, since
            self._judge(check, since, now)

    def _judge(self, check: Check, since: float, now: float) -> None:
        announced = self._announced.get(check.name)
        if check.state in SOURCE_TROUBLES:
            lasts = now - since >= LASTING or check.state is SourceState.PAUSED
            if lasts and announced != check.state:
                self._announced[check.name] = check.state
                self._add(of_source(self._daemon, check, since))
        elif announced is not None:
            del self._announced[check.name]
            self._add(of_source(self._daemon, check, since, announced))


class CauseObserver:
    """Observer of the causes of open dead letters. All daemons see the same ones, and make the same events."""

    def __init__(self, add: Add, now: Callable[[], float] = time.time) -> None:
        self._add = add
        self._now = now
        self._oldest = now() - RECENT
        self._known: set[CauseKey] | None = None

    def observe(self, causes: Causes) -> None:
        """Compare the causes of open dead letters with those of the last count."""
        found: dict[CauseKey, tuple[Facts, Summary]] = {}
        for place, each in causes.items():
            for facts, summary in each.items():
                key = (place.broker, place.topic, facts.source or "", facts.fingerprint)
                if key in found:
                    found[key][1].join(summary)
                else:
                    found[key] = (facts, replace(summary))
        for key, (facts, summary) in found.items():
            is_new = (summary.first or 0) >= self._oldest if self._known is None else key not in self._known
            if is_new:
                self._add(of_cause(key[0], key[1], facts, summary, self._now()))
        self._known = {*found}


class JobObserver:
    """Observer of the jobs of a daemon's engines. All daemons see the same ones, and make the same events."""

    def __init__(self, jobs: JobFigures, add: Add, now: Callable[[], float] = time.time) -> None:
        self._jobs = jobs
        self._add = add
        self._now = now
        self._oldest = now() - RECENT
        self._announced: set[str] = set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._jobs.refresh()
            self.observe()
            await asyncio.sleep(PERIOD)

    def observe(self) -> None:
        """Announce the jobs that have ended or were stopped since the last call."""
        seen: set[str] = set()
        for engine, record in self._jobs.records():
            event = of_job(engine, record, self._now())
            if event is None:
                continue
            seen.add(event.id)
            if event.id not in self._announced and event.time >= self._oldest:
                self._add(event)
        # Of a removed record nothing is left to announce
        self._announced = seen


def ends_options(config: EventsConfig | None, engine: str) -> EndsOptions | None:
    """Settings of the ends that an embedded engine keeps; None where no event announces them."""
    if config is None or not _INSTANCES.intersection(config.kinds):
        return None
    kinds = config.kinds

    def describe(end: Finish, at: int) -> str | None:
        event = of_end(engine, end, at / 1_000_000)
        return event.to_text() if event is not None and event.kind in kinds else None

    return EndsOptions(describe, config.backlog)


class Lifecycle:
    """Events of one daemon: their publisher, and the observers that feed it."""

    def __init__(self, config: EventsConfig, daemon: str, publishing: Publishing, jobs: JobFigures) -> None:
        """Create all parts, in the event loop. daemon: its name."""
        self.events = LifecycleEvents(publishing.publish, config.target, config.kinds, config.buffer)
        self._daemon = daemon
        self._keeping: set[str] = set()
        """Engines that keep the ends of their instances."""
        self._sources = SourceObserver(daemon, self.events.add)
        self._causes = CauseObserver(self.events.add)
        self._jobs = JobObserver(jobs, self.events.add)
        self._task: asyncio.Task[None] | None = None

    def add_engine(self, engine: Engine) -> None:
        """Publish the ends that an engine keeps, where it keeps some. Call it after the start of the engine."""
        if isinstance(engine, EmbeddedEngine) and engine.ends is not None:
            self._keeping.add(engine.name)
            self.events.add_store(engine.ends)

    def failed(self, engine: str, end: Finish) -> None:
        """Announce a failure on an engine that keeps no ends, from any thread."""
        if engine not in self._keeping and (event := of_end(engine, end, time.time())) is not None:
            self.events.add(event)

    def observe_sources(self, readiness: Readiness) -> None:
        """Take the states of the sources."""
        self._sources.observe(readiness)

    def observe_causes(self, causes: Causes) -> None:
        """Take the causes of open dead letters."""
        self._causes.observe(causes)

    def reloaded(self, before: str, version: str, by: str, changes: Changes) -> None:
        """Announce a reload. before, version: versions of the configuration."""
        unchanged = (ChangeKind.UNCHANGED,)
        sources = {each.source: str(each.change) for each in changes.sources if each.change not in unchanged}
        routes = {each.route: str(each.change) for each in changes.routes}
        self.events.add(of_reload(self._daemon, before, version, by, time.time(), sources=sources, routes=routes))

    def refused(self, version: str, by: str, problems: Sequence[str]) -> None:
        """Announce a refused reload. version: of the configuration that stays."""
        self.events.add(of_reload(self._daemon, version, version, by, time.time(), problems=problems))

    def start(self) -> None:
        """Start to publish, and to look at jobs."""
        self.events.start()
        if self.events.wants(EventKind.JOB_STOPPED, EventKind.JOB_FINISHED):
            self._task = asyncio.create_task(self._jobs.run(), name="ends of jobs")

    async def stop(self, seconds: float) -> None:
        """Publish the events in memory within `seconds`, and stop. Idempotent."""
        if self._task is not None:
            await cancelled(self._task)
            self._task = None
        await self.events.stop(seconds)
