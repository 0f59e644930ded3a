"""Candidate of a daemon: rule sets of its sources, counts, and the decision to fall back that all daemons share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import structlog

from bridge.app.candidate import record_engine
from bridge.config.model.bridge import RulesConfig
from bridge.config.model.types import format_share
from bridge.config.source import Loaded
from bridge.core.canary import TAG, CanaryCounts, CanaryRecord
from bridge.core.commands import Decision, OnExisting, ScheduleOrchestration, SignalEntity
from bridge.core.errors import EngineError, EngineOutage
from bridge.core.states import Outcome
from bridge.engines.base import Engine
from bridge.engines.entities.canary import CanaryStore
from bridge.ops.health import PartReading
from bridge.pipeline.canary import CanaryRules, TaggedRoutes
from bridge.pipeline.decisions import DecisionListeners, SettledDelivery
from bridge.pipeline.lanes import domain_key
from bridge.pipeline.rule_set import RuleSet
from bridge.pipeline.settings import EnginePort
from bridge.pipeline.source import SourcePipeline
from bridge.sqlite_engine.model.instance import Finish

log = structlog.get_logger("bridge.canary")

READ_SECONDS = 2.0
"""Seconds between two reports of counts and reads of the record: all daemons apply a change within five seconds."""
MOST_FAILURES = 1000
"""Failed instances that wait for the read of their tags. Further ones are not counted."""


class Canary:
    """Candidate of one daemon, which a reload may exchange, add or remove.

    Until its record was read, the present rules decide about everything.
    """

    def __init__(
        self,
        daemon: str,
        engines: Mapping[str, Engine],
        targets: Mapping[str, EnginePort],
        decisions: DecisionListeners,
    ) -> None:
        """Create the part without a candidate.

        daemon: its name. targets: engines as the rules call them.
        """
        self._daemon = daemon
        self._engines = engines
        self._targets = targets
        self._decisions = decisions
        self._loop = asyncio.get_running_loop()
        self._choosers: dict[str, CanaryRules] = {}
        self._failed: asyncio.Queue[tuple[str, str]] = asyncio.Queue(MOST_FAILURES)
        self._changed = asyncio.Event()
        self._unlisten: Callable[[], None] = lambda: None
        self._begin("", None, RulesConfig())

    def _begin(self, version: str, store: CanaryStore | None, config: RulesConfig) -> None:
        """Forget all about an earlier candidate."""
        self.version = version
        """Version of the candidate; empty without one."""
        self._store = store
        self._config = config
        self._rules: Mapping[str, RuleSet] = {}
        self._record: CanaryRecord | None = None
        self._counts = CanaryCounts()
        """Counts of this daemon in this round."""
        self._sent = CanaryCounts()
        self.outcomes: Counter[str] = Counter()
        """Messages of the candidate in this process, by outcome; `failed_instance` for instances."""

    def use(self, loaded: Loaded, candidate: Loaded | None, rules: Mapping[str, RuleSet]) -> None:
        """Use the candidate of a configuration in all sources, between two messages.

        candidate: None without one. rules: its rule sets, by source.
        """
        self._unlisten()
        if candidate is None:
            self._begin("", None, loaded.config.rules)
        else:
            if candidate.version != self.version:
                store = CanaryStore(self._engines[record_engine(loaded)], candidate.version)
                self._begin(candidate.version, store, loaded.config.rules)
            self._config, self._rules = loaded.config.rules, rules
            self._unlisten = self._decisions.add(self._observe)
        self._choosers = {name: chooser for name, chooser in self._choosers.items() if name in loaded.config.sources}
        for name, chooser in self._choosers.items():
            self._assign(name, chooser)
        self._changed.set()

    def rules(self, source: str, present: RuleSet) -> CanaryRules:
        """Create the chooser between the rule sets of a source."""
        chooser = self._choosers[source] = CanaryRules(present)
        self._assign(source, chooser)
        return chooser

    def _assign(self, source: str, chooser: CanaryRules) -> None:
        """Give the candidate to a source, or take it away."""
        rules = self._rules.get(source)
        if rules is not None:
            tagged = replace(rules, routes=TaggedRoutes(rules.routes, self.version))
            chooser.use(tagged, self._config.share, partial(self._follow, self.version))
            chooser.activate(self._record is not None and self._record.fallback is None)
        elif chooser.candidate is not None:
            chooser.leave()

    def watch(self, source: SourcePipeline) -> None:
        """Use the lanes of a source to know which keys have messages in flight."""
        lanes, shared = source.lanes, source.domain is not None
        self._choosers[source.settings.name].observe(
            lambda: [(lane.key, lane.items[-1].rules) for lane in lanes if lane.key is not None],
            lambda key: lanes.has(domain_key(key) if shared else key),
        )

    async def _follow(self, version: str, decision: Decision) -> bool | None:
        """True if a candidate has started the first existing instance that a decision addresses; None without one.

        version: of the candidate.
        Raises: EngineError.
        """
        for step in decision.steps:
            command = step.command
            if isinstance(command, SignalEntity):
                continue
            if isinstance(command, ScheduleOrchestration) and command.on_existing is not OnExisting.RAISE:
                continue
            for engine in (step.engine, *step.others):
                try:
                    tags = await self._engines[engine].client.find_tags(command.instance_id)
                except EngineOutage as error:
                    self._targets[engine].breaker.trip(error)
                    raise
                if tags is not None:
                    return tags.get(TAG) == version
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
        if not self.version or end.outcome == "compensated" or end.parent is not None:
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
            self._changed.clear()
            store = self._store
            try:
                await self._count_failed()
                if store is not None:
                    await self._report(store)
                    record = await store.read()
                    if store is self._store:
                        self._apply(record)
            except EngineError as error:
                log.debug("the record of the candidate is not read", action="hold", detail=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._store is None else READ_SECONDS):
                    await self._changed.wait()

    async def _report(self, store: CanaryStore) -> None:
        record, counts = self._record, self._counts
        if record is None or record.fallback is not None or counts == self._sent:
            return
        await store.count(
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
        if store is self._store:
            self._sent = counts

    def _apply(self, record: CanaryRecord) -> None:
        """Use the candidate, or the present rules alone, as the record says."""
        before, self._record = self._record, record
        if before is None:
            self._counts += record.counts.get(self._daemon, CanaryCounts())  # of the same candidate, before a reload
        elif before.round != record.round:
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
        """State of the candidate; empty without one."""
        record = self._record
        if not self.version:
            return []
        if record is None:
            text = "its record is not read yet; the present rules decide"
            return [PartReading("candidate", self.version, None, text)]
        text = self._sentence(record)
        return [PartReading("candidate", self.version, None if record.fallback is None else text, text)]
