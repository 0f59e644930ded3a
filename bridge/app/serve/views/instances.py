"""Figures of the instances and workers of a daemon's engines, for metrics and readiness."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from bridge.core.errors import BridgeError
from bridge.core.histogram import Histogram
from bridge.engines.base import Engine, InstanceCounts, instance_counts
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.worker.finishes import Finishes
from bridge.ops.health import PartReading
from bridge.pipeline.source import SourcePipeline

log = structlog.get_logger("bridge.instances")

_PERIOD = 5.0
_HAVE_RUN = ("RUNNING", "COMPLETED")
_KINDS = {
    "ScheduleOrchestration": "start",
    "StartOrRaise": "start",
    "StartFirst": "start",
    "RaiseEvent": "event",
    "Cancel": "event",
    "SignalEntity": "entity",
    "Terminate": "control",
    "Suspend": "control",
    "Resume": "control",
}
"""Kinds of the work that a command causes, by name of its class."""

FAILED_OUTCOMES = {"failed_sagas": ("failed", "compensation_failed"), "failed_compensations": ("compensation_failed",)}
"""Outcomes of sagas that make the daemon unready, by word of `ops.unready_on`."""


@dataclass(frozen=True, slots=True)
class WorkflowFigures:
    """`bridge.ops.metric_stats.WorkflowStats` of one moment."""

    sagas: Mapping[tuple[str, str], int]
    orchestrations: Mapping[tuple[str, str], Histogram]
    activities: Mapping[tuple[str, str], Histogram]
    sessions: int
    replays: int


@dataclass
class InstanceFigures:
    """Figures of the instances of all engines.

    workers: workers of this process with the name of their engine.
    engine_of: engine of each route.
    """

    engines: Mapping[str, Engine]
    finishes: Mapping[str, Finishes]
    monitors: Mapping[str, CompatibilityMonitor]
    workers: Callable[[], Iterable[tuple[str, RunningWorker]]]
    sources: Sequence[SourcePipeline]
    engine_of: Mapping[str, str]
    unready_on: Sequence[str] = ()
    counts: dict[str, InstanceCounts] = field(default_factory=dict)
    """Counts as last read; without engines that do not count their instances."""

    async def refresh(self) -> None:
        """Read the counts of all engines."""
        for name, engine in self.engines.items():
            try:
                found = await instance_counts(engine)
            except (BridgeError, OSError) as error:
                log.debug("instances are not counted", action="counts", engine=name, detail=str(error))
                found = None
            if found is not None:
                self.counts[name] = found

    async def run(self) -> None:
        """Refresh the counts for readiness every few seconds, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_PERIOD)

    def instances(self, engine: str) -> Mapping[tuple[str, str], int]:
        """Existing instances of an engine by orchestration and status, with bounded names."""
        counts = self.counts.get(engine, InstanceCounts()).instances
        have_run = {name for name, status in counts if status in _HAVE_RUN}
        found: Counter[tuple[str, str]] = Counter()
        for (name, status), number in counts.items():
            found[self.finishes[engine].label(name, name in have_run), status.lower()] += number
        return found

    def actions(self, engine: str) -> Mapping[tuple[str, str], int]:
        """Work that messages and orchestrations caused in this process, by route and kind."""
        found: Counter[tuple[str, str]] = Counter()
        for source in self.sources:
            for (route, command), number in list(source.ledger.commands.items()):
                if self.engine_of.get(route) == engine and (kind := _KINDS.get(command)) is not None:
                    found[route, kind] += number
        for kind, number in self.monitors[engine].actions.copy().items():
            found["", kind] += number
        return found

    def workflows(self) -> WorkflowFigures:
        """Figures of all engines together."""
        sagas: Counter[tuple[str, str]] = Counter()
        for finishes in self.finishes.values():
            sagas.update(finishes.sagas.copy())
        stats = [worker.stats for _, worker in self.workers()]
        return WorkflowFigures(
            sagas,
            _added(finishes.seconds for finishes in self.finishes.values()),
            _added(each.activities for each in stats),
            sum(worker.session_count for _, worker in self.workers()),
            sum(each.replays for each in stats),
        )

    def readings(self) -> Sequence[PartReading]:
        """Readiness of the sagas of each engine, where the configuration asks for it."""
        return [PartReading("sagas", name, self._failed(name)) for name in self.counts] if self.unready_on else []

    def _failed(self, engine: str) -> str | None:
        """Failed sagas that still exist, with the next step; None without any."""
        outcomes = {outcome for word in self.unready_on for outcome in FAILED_OUTCOMES[word]}
        found = {key: n for key, n in self.counts[engine].sagas.items() if key[1] in outcomes}
        if not found:
            return None
        first = sorted(found.items())[:5]
        names = ", ".join(f"{number:,} {saga} {outcome}" for (saga, outcome), number in first)
        more = f" and {len(found) - len(first)} more kinds" if len(found) > len(first) else ""
        options = " ".join(f"--outcome {outcome}" for outcome in sorted(outcomes))
        return f"{names}{more}; `bridge instances list {options}` shows them. Rewind, restart or purge them"


def _added(tables: Iterable[Mapping[tuple[str, str], Histogram]]) -> Mapping[tuple[str, str], Histogram]:
    """Histograms of several tables, added up by key."""
    found: dict[tuple[str, str], Histogram] = {}
    for table in tables:
        for key, histogram in list(table.items()):
            found.setdefault(key, Histogram(histogram.bounds)).add(histogram)
    return found
