"""Candidate of a daemon: rule sets of its sources, counts, and the decision to fall back that all daemons share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from bridge.app.candidate import record_engine
from bridge.app.composition import build_rule_set
from bridge.config.model.types import format_share
from bridge.config.source import Loaded
from bridge.core.canary import TAG, CanaryCounts, CanaryRecord
from bridge.core.commands import Decision, OnExisting, ScheduleOrchestration, SignalEntity
from bridge.core.errors import EngineError, EngineOutage
from bridge.core.states import Outcome
from bridge.engines.base import Engine
from bridge.engines.canary import CanaryStore
from bridge.ops.health import PartReading
from bridge.pipeline.canary import CanaryRules, TaggedRoutes
from bridge.pipeline.decisions import DecisionListeners, SettledDelivery
from bridge.pipeline.lanes import domain_key
from bridge.pipeline.rule_set import CurrentRules, RuleSet
from bridge.pipeline.settings import EnginePort
from bridge.pipeline.source import SourcePipeline
from bridge.sqlite_engine.model.instance import Finish

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry

log = structlog.get_logger("bridge.canary")

READ_SECONDS = 2.0
"""Seconds between two reports of counts and reads of the record: all daemons apply a change within five seconds."""
MOST_FAILURES = 1000
"""Failed instances that wait for the read of their tags. Further ones are not counted."""


class Canary:
    """Candidate of one daemon.

    Until its record was read, the present rules decide about everything.
    """

    def __init__(
        self,
        loaded: Loaded,
        candidate: Loaded,
        daemon: str,
        engines: Mapping[str, Engine],
        targets: Mapping[str, EnginePort],
        registries: Mapping[str, Registry] | None,
        decisions: DecisionListeners,
    ) -> None:
        """Prepare the candidate.

        daemon: its name. targets: engines as the rules call them. registries: schema registries of the daemon.
        """
        self._daemon = daemon
        self.version = candidate.version
        self._config = loaded.config.rules
        self._candidate = candidate
        self._engines = engines
        self._targets = targets
        self._registries = registries
        self._store = CanaryStore(engines[record_engine(loaded)], self.version)
        self._choosers: dict[str, CanaryRules] = {}
        self._record: CanaryRecord | None = None
        self._counts = CanaryCounts()
        """Counts of this daemon in this round."""
        self._sent = CanaryCounts()
        self._failed: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MOST_FAILURES)
        self.outcomes: Counter[str] = Counter()
        """Messages of the candidate in this process, by outcome; `failed_instance` for instances."""
        self._loop = asyncio.get_running_loop()
        decisions.add(self._observe)

    def rules(self, source: str, present: RuleSet) -> CurrentRules:
        """Chooser between the rule sets of a source. Raises: ConfigError."""
        if source not in self._candidate.config.sources:
            return CurrentRules(present)
        new = build_rule_set(self._candidate, source, self._targets, self._registries)
        routes = TaggedRoutes(new.routes, self.version)
        chooser = CanaryRules(present, replace(new, routes=routes), self._config.share, self._follow)
        self._choosers[source] = chooser
        if self._record is not None:
            chooser.activate(self._record.fallback is None)
        return chooser

    def watch(self, source: SourcePipeline) -> None:
        """Use the lanes of a source to know which keys have messages in flight."""
        chooser = self._choosers.get(source.settings.name)
        if chooser is None:
            return
        lanes, shared = source.lanes, source.domain is not None
        chooser.observe(
            lambda: [(lane.key, lane.items[-1].rules) for lane in lanes if lane.key is not None],
            lambda key: lanes.has(domain_key(key) if shared else key),
        )

    async def _follow(self, decision: Decision) -> bool | None:
        """True if the candidate has started the first existing instance that a decision addresses; None without one.

        Raises: EngineError.
        """
        for step in decision.steps:
            command = step.command
            if isinstance(command, SignalEntity):
                continue
            if isinstance(command, ScheduleOrchestration) and command.on_existing is not OnExisting.RAISE:
                continue
            try:
                tags = await self._engines[step.engine].client.find_tags(command.instance_id)
            except EngineOutage as error:
                self._targets[step.engine].breaker.trip(error)
                raise
            if tags is not None:
                return tags.get(TAG) == self.version
        return None

    # -- counts

    def _observe(self, settled: SettledDelivery) -> None:
        """Count a settled delivery of the candidate."""
        if settled.rules != self.version:
            return
        dead = settled.outcome is Outcome.DEAD_LETTERED
        # Later messages of a quarantined key have no reason of their own
        dead = dead or (settled.outcome is Outcome.QUARANTINED and settled.reason is not None)
        self.outcomes[settled.outcome.value] += 1
        self._counts += CanaryCounts(1, int(dead))

    def ended(self, engine: str, end: Finish) -> None:
        """Note a failed instance, from any thread."""
        if end.outcome == "compensated" or end.parent is not None:
            return
        try:
            self._loop.call_soon_threadsafe(self._note, engine, end.instance_id)
        except RuntimeError:  # the loop is closed
            return

    def _note(self, engine: str, instance_id: str) -> None:
        if not self._failed.full():
            self._failed.put_nowait((engine, instance_id))

    async def _count_failed(self) -> None:
        """Count the failed instances that the candidate has started. Raises: EngineError."""
        while not self._failed.empty():
            engine, instance_id = self._failed.get_nowait()
            tags = await self._engines[engine].client.find_tags(instance_id)
            if tags is not None and tags.get(TAG) == self.version:
                self.outcomes["failed_instance"] += 1
                self._counts += CanaryCounts(failed=1)

    # -- record

    async def run(self) -> None:
        """Report counts and apply the record, until cancelled."""
        while True:
            try:
                await self._count_failed()
                await self._report()
                self._apply(await self._store.read())
            except EngineError as error:
                log.debug("the record of the candidate is not read", action="hold", detail=str(error))
            await asyncio.sleep(READ_SECONDS)

    async def _report(self) -> None:
        record, counts = self._record, self._counts
        if record is None or record.fallback is not None or counts == self._sent:
            return
        await self._store.count(
            {
                "round": record.round,
                "daemon": self._daemon,
                "messages": counts.messages,
                "dead_letters": counts.dead_letters,
                "failed": counts.failed,
                "after": self._config.fallback.after,
                "failures": self._config.fallback.failures,
                "at": time.time(),
            }
        )
        self._sent = counts

    def _apply(self, record: CanaryRecord) -> None:
        """Use the candidate, or the present rules alone, as the record says."""
        before, self._record = self._record, record
        if before is not None and before.round != record.round:
            self._counts = self._sent = CanaryCounts()
        for chooser in self._choosers.values():
            chooser.activate(record.fallback is None)
        if (fallback := record.fallback) is not None and (before is None or before.fallback is None):
            log.error(self._sentence(record), action="fallback", candidate=self.version, by=fallback.by)
        elif fallback is None and (before is None or before.fallback is not None):
            log.warning(self._sentence(record), action="canary", candidate=self.version, share=self._config.share)

    def _sentence(self, record: CanaryRecord) -> str:
        total, fallback = record.total, record.fallback
        if fallback is not None:
            why = fallback.reason or "no reason given"
            return f"candidate {self.version} was ended by {fallback.by}: {why}; `bridge canary resume` tries it again"
        share = format_share(self._config.share)
        counts = f"{total.messages} messages, {total.failures} failures"
        return f"candidate {self.version} decides about {share} of the ordering keys: {counts}"

    def readings(self) -> list[PartReading]:
        """State of the candidate."""
        record = self._record
        if record is None:
            text = "its record is not read yet; the present rules decide"
            return [PartReading("candidate", self.version, None, text)]
        text = self._sentence(record)
        return [PartReading("candidate", self.version, None if record.fallback is None else text, text)]
