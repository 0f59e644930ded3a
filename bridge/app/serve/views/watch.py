"""Views of the daemon's state in the terms of health and metrics."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog
from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from bridge import __version__
from bridge.app.serve.canary import Canary
from bridge.app.serve.jobs import JobFigures
from bridge.app.serve.views.instances import InstanceFigures
from bridge.brokers.base import (
    AgingSubscription,
    LockingSubscription,
    ObservedSubscription,
    StallingSubscription,
    StoppableSubscription,
)
from bridge.core.histogram import Histogram
from bridge.core.states import ComponentState, DaemonState
from bridge.core.words import plural
from bridge.engines.base import Engine, EngineUsage, JoinedProcess, MeasuredEngine
from bridge.engines.embedded.processes.supervisor import ProcessView, WorkerProcesses
from bridge.engines.lineage_index import LineageIndex
from bridge.engines.worker.compatibility import CompatibilityMonitor, IncompatibleInstance
from bridge.ops.health import Check, Health, PartReading, Readiness, SourceReading
from bridge.ops.metric_stats import DeadLetterStats, EventStats, ReloadStats, TraceStats, WaitingStats
from bridge.ops.metrics import Metrics
from bridge.ops.status import NamedRates, Rates, StatusDocument
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.flow_control import PERSON
from bridge.pipeline.limits.action_budget import ActionBudget
from bridge.pipeline.limits.per_value import ValueShares
from bridge.pipeline.limits.route_limits import RouteLimit
from bridge.pipeline.publishing import Publishing
from bridge.pipeline.source import SourcePipeline
from bridge.system.clock import SYSTEM
from bridge.workflow.messages import REPEATS

log = structlog.get_logger("bridge.watch")

_CHECK_SECONDS = 5.0
"""Seconds between two checks of readiness."""
_FIRST_CHECK_SECONDS = 0.02
"""Seconds after the first check until the second one, while the daemon was never ready. Each pause is half as long
again, up to a second."""


class SourceView:
    """Source pipeline as `bridge.ops.metrics.SourceStats`."""

    def __init__(self, source: SourcePipeline, stuck_after: float) -> None:
        """Create a view. stuck_after: seconds after which a partition without progress is reported."""
        self._source = source
        self._stuck_after = stuck_after
        self._ledger = source.ledger
        self._rates = Rates()
        self._by_route = NamedRates()

    @property
    def name(self) -> str:
        return self._source.settings.name

    @property
    def received(self) -> int:
        return self._ledger.received

    @property
    def outcomes(self) -> Mapping[str, int]:
        return self._ledger.outcomes

    @property
    def dead_letters(self) -> Mapping[str, int]:
        return self._ledger.dead_letters

    @property
    def unreadable(self) -> Mapping[tuple[str, int, str], int]:
        return self._ledger.unreadable

    @property
    def abandoned(self) -> Mapping[str, int]:
        return self._ledger.abandoned

    @property
    def commands(self) -> Mapping[tuple[str, str], int]:
        return self._ledger.commands

    @property
    def retries(self) -> int:
        return self._ledger.retries

    @property
    def bugs(self) -> int:
        return self._ledger.bugs

    @property
    def in_flight(self) -> int:
        return self._ledger.in_flight

    @property
    def in_flight_bytes(self) -> int:
        return self._ledger.in_flight_bytes

    @property
    def unloaded(self) -> int:
        return self._source.unloading.count

    @property
    def queued(self) -> int:
        return self._ledger.in_flight - self._source.at_work

    @property
    def locks_lost(self) -> int:
        return self._ledger.locks_lost

    @property
    def seeks(self) -> int:
        return self._ledger.seeks

    @property
    def held(self) -> bool:
        return bool(self._source.gate.pause_reasons.keys() - {PERSON})

    @property
    def waiting_for_engines(self) -> Mapping[str, int]:
        return self._source.waiting_for_engines

    @property
    def probing(self) -> bool:
        return self._source.dead_letter_limit.active

    @property
    def dead_letter_pauses(self) -> Mapping[str, float]:
        return self._source.dead_letter_limit.pauses

    @property
    def quarantined_keys(self) -> int:
        stage = self._source.stage
        return 0 if stage is None else stage.key_count

    @property
    def shares(self) -> ValueShares | None:
        return self._source.shares

    @property
    def processing(self) -> Histogram:
        return self._ledger.processing

    @property
    def end_to_end(self) -> Histogram:
        return self._ledger.end_to_end

    def partitions(self) -> Iterator[tuple[str, int, int, int | None]]:
        """Topic, number, uncommitted records and lag of each assigned partition; lag None while unknown."""
        lag = self._source.subscription.lag() if self._source.subscription else {}
        for partition in self._source.assignment:
            behind = lag.get((partition.topic, partition.number))
            yield partition.topic, partition.number, partition.gap, behind

    def ages(self) -> Iterator[tuple[str, int, float]]:
        """Topic, number, and age in seconds of the oldest unprocessed record; 0 without one.

        Partitions where it is not known are left out.
        """
        subscription: object = self._source.subscription
        if not isinstance(subscription, AgingSubscription):
            return
        oldest, now = subscription.oldest(), time.time()
        for topic, number, _, lag in self.partitions():
            since = oldest.get((topic, number))
            if since is not None:
                yield topic, number, max(0.0, now - since)
            elif lag == 0:
                yield topic, number, 0.0

    @property
    def rebalances(self) -> int:
        return self._observed.rebalances if self._observed else 0

    @property
    def skipped(self) -> int:
        return self._observed.skipped if self._observed else 0

    @property
    def gaps(self) -> Mapping[str, int]:
        return self._observed.gaps if self._observed else {}

    @property
    def commits(self) -> tuple[int, float]:
        return self._observed.commits if self._observed else (0, 0.0)

    @property
    def reconnects(self) -> int:
        return self._locking.reconnects if self._locking else 0

    @property
    def renewals(self) -> int:
        return self._locking.renewals if self._locking else 0

    @property
    def _locking(self) -> LockingSubscription | None:
        subscription: object = self._source.subscription
        return subscription if isinstance(subscription, LockingSubscription) else None

    @property
    def _observed(self) -> ObservedSubscription | None:
        subscription: object = self._source.subscription
        return subscription if isinstance(subscription, ObservedSubscription) else None

    def sample(self, now: float) -> None:
        """Keep the counts of this moment for the rates of the next minute. now: monotonic seconds."""
        self._rates.sample(now, *self._progress)
        self._by_route.sample(now, self._executed)

    @property
    def _executed(self) -> Mapping[str, int]:
        """Executed commands by route."""
        found: Counter[str] = Counter()
        for (route, _), count in list(self._ledger.commands.items()):
            found[route] += count
        return found

    @property
    def _progress(self) -> tuple[int, int]:
        return self._ledger.received, sum(self._ledger.outcomes.values())

    def figures(self) -> dict[str, object]:
        """Figures of the source for its status, as JSON types."""
        partitions = list(self.partitions())
        lags = [lag for _, _, _, lag in partitions if lag is not None]
        now = time.monotonic()
        received, settled = self._rates.per_second(now, *self._progress)
        return {
            "partitions": len(partitions),
            "held_by": sorted(self.reading().holds),
            "lag": sum(lags) if lags else None,
            "oldest_seconds": max((round(seconds, 1) for _, _, seconds in self.ages()), default=None),
            "received_per_second": received,
            "settled_per_second": settled,
            "in_flight": self._ledger.in_flight,
            "retrying": self._source.retrying,
            "received": self._ledger.received,
            "abandoned": sum(self._ledger.abandoned.values()),
            "outcomes": {str(outcome): count for outcome, count in self._ledger.outcomes.items()},
            "dead_letters": {str(reason): count for reason, count in self._ledger.dead_letters.items()},
            "routes": self._by_route.document(now, "executed", self._executed),
        }

    def reading(self) -> SourceReading:
        """Source state for the readiness check."""
        ledger = self._ledger
        holds = dict(self._source.gate.pause_reasons)
        paused = holds.pop(PERSON, None)
        for name, queue in self._source.engine_queues.items():
            holds[f"engine {name}"] = f"{queue.detail}; its routes wait, others continue"
        subscription: object = self._source.subscription
        if isinstance(subscription, StoppableSubscription):
            holds |= subscription.stopped()
        if isinstance(subscription, StallingSubscription) and not holds and paused is None:
            holds |= subscription.stalled(self._stuck_after)
        behind = sum(lag or 0 for _, _, _, lag in self.partitions())
        settled = sum(ledger.outcomes.values()) + sum(ledger.abandoned.values())
        died = next((task for task in self._source.tasks if task.done()), None)
        dead = f"{died.get_name()} ended" if died is not None else None
        throttled = {
            limit.route: reason for limit in self._source.route_limits.values() if (reason := limit.reason) is not None
        }
        for route, share in self._source.budgets.items():
            if (reason := share.reason) is not None:
                throttled[route] = "; ".join(filter(None, (throttled.get(route), reason)))
        probing = self._source.dead_letter_limit.reason
        waiting = max(ledger.in_flight, behind)
        return SourceReading(self.name, settled, waiting, holds, probing, dead, throttled, paused)


@dataclass(frozen=True, slots=True)
class EngineView:
    """Engine as `bridge.ops.metrics.EngineStats`."""

    name: str
    up: bool
    durable: bool
    incompatible: Mapping[str, int]
    unknown: Mapping[str, int]
    faults: Mapping[str, int]
    stuck: int
    usage: EngineUsage | None
    lineage: LineageIndex | None
    instances: Mapping[tuple[str, str], int]
    finished: Mapping[tuple[str, str], int]
    failures_omitted: int
    requests: Mapping[tuple[str, str], Histogram]
    actions: Mapping[tuple[str, str], int]
    worker_processes: Mapping[str, int]
    worker_ends: Mapping[str, int]
    worker_items: int


class Watch:
    """State of a daemon for its ops port."""

    def __init__(
        self,
        sources: Sequence[SourcePipeline],
        engines: Mapping[str, Engine],
        breakers: Mapping[str, Breaker],
        publishing: Publishing,
        monitors: Mapping[str, CompatibilityMonitor],
        waiting: Callable[[], Iterable[WaitingStats]],
        late_dead_letters: Callable[[], Mapping[tuple[str, str], int]],
        figures: InstanceFigures,
        jobs: JobFigures,
        *,
        omitted: Callable[[str], int],
        limits: Sequence[RouteLimit],
        budgets: Sequence[ActionBudget],
        orphaned: Callable[[], Iterable[PartReading]],
        stuck: Callable[[str], Sequence[str]] | None,
        processes: Callable[[str], WorkerProcesses | None],
        answers: Callable[[], Mapping[str, Mapping[str, int]]],
        refused: Callable[[], Mapping[str, Mapping[str, int]]],
        traces: TraceStats | None,
        dead_letters: DeadLetterStats | None,
        canary: Canary,
        stuck_after: float,
        reloads: ReloadStats,
        events: EventStats | None,
        on_readiness: Callable[[Readiness], None],
    ) -> None:
        self.phase = DaemonState.STARTING
        self.was_ready = asyncio.Event()
        """Set when a check has found the daemon ready."""
        self._stuck_after = stuck_after
        self._publishing = publishing
        self._published = NamedRates()
        self._sources = [SourceView(source, stuck_after) for source in sources]
        self._engines = engines
        self._breakers = breakers
        self._monitors = monitors
        self._figures = figures
        self._jobs = jobs
        self._omitted = omitted
        self._orphaned = orphaned
        self._canary = canary
        self._on_readiness = on_readiness
        self._stuck = stuck
        self._processes = processes
        self._health = Health(stuck_after)
        self._since: dict[tuple[str, str], tuple[ComponentState, float]] = {}
        """State of each component, and the wall time at which it was first seen."""
        self._metrics = Metrics(
            lambda: self._sources,
            self._engine_views,
            publishing,
            REPEATS.counts,
            limits,
            waiting,
            late_dead_letters,
            SYSTEM.counted,
            answers,
            refused,
            figures.workflows,
            jobs=jobs,
            traces=traces,
            dead_letters=dead_letters,
            candidate=lambda: (canary.version, canary.outcomes),
            budgets=budgets,
            readiness=self.health,
            process=ProcessCollector(registry=None),
            version=__version__,
            reloads=reloads,
            events=events,
        )

    def health(self) -> Readiness:
        """Readiness for `/readyz`."""
        parts = [
            PartReading(
                "engine",
                name,
                str(self._breakers[name].error) if self._breakers[name].error else None,
                engine.description,
            )
            for name, engine in self._engines.items()
        ]
        parts += [
            PartReading("workflows", name, None if not monitor.open else _changed(monitor.open))
            for name, monitor in self._monitors.items()
        ]
        for name in self._engines:
            detail = summary(self._processes(name), self.joined(name))
            if self._stuck is not None:
                parts.append(PartReading("worker", name, "; ".join(self._stuck(name)) or None, detail))
            elif detail:
                parts.append(PartReading("worker", name, None, detail))
        parts += self._orphaned()
        parts += self._canary.readings()
        parts += self._figures.readings()
        readings = [source.reading() for source in self._sources] if self.phase is DaemonState.RUNNING else []
        readiness = self._health.assess(readings, parts, time.monotonic(), self.phase)
        now, before = time.time(), self._since
        self._since = {}
        for check in readiness.checks:
            component = (check.kind, check.name)
            state, since = before.get(component, (None, now))
            self._since[component] = (check.state, since if state == check.state else now)
        return readiness

    def since(self, check: Check) -> float:
        """Wall time at which a component was first seen in its state, in seconds since the Unix epoch."""
        return self._since[check.kind, check.name][1]

    @property
    def sources(self) -> Sequence[SourceView]:
        """Sources of this process."""
        return self._sources

    def targets(self) -> StatusDocument:
        """Publications by target: accepted, and their rate."""
        return self._published.document(time.monotonic(), "published", self._publishing.published.copy())

    def enter(self, phase: DaemonState) -> None:
        """Enter another phase of the daemon."""
        self.phase = phase

    def add(self, source: SourcePipeline) -> None:
        """Observe a further source."""
        self._sources = [*self._sources, SourceView(source, self._stuck_after)]

    def remove(self, name: str) -> None:
        """Observe a source no longer."""
        self._sources = [each for each in self._sources if each.name != name]

    async def report(self) -> None:
        """Check readiness every few seconds, and log changes: a stuck source is found without a request."""
        unready: dict[tuple[str, str], ComponentState] = {}
        first = _FIRST_CHECK_SECONDS
        while True:
            readiness = self.health()
            self._on_readiness(readiness)
            for source in self._sources:
                source.sample(time.monotonic())
            self._published.sample(time.monotonic(), self._publishing.published.copy())
            if readiness.ready:
                self.was_ready.set()
            for check in readiness.checks:
                component = (check.kind, check.name)
                state = None if check.ready else check.state
                if state == unready.get(component):
                    continue
                if state is None:
                    del unready[component]
                    log.info(f"{check.kind} {check.name} is ready again", action="readiness", state=check.state)
                else:
                    unready[component] = state
                    what = f"{check.kind} {check.name} is {state}"
                    log_change = log.error if check.kind == "worker" else log.warning
                    log_change(what, action="readiness", state=state, detail=check.detail)
            await asyncio.sleep(_CHECK_SECONDS if self.was_ready.is_set() else first)
            first = min(1.0, first * 1.5)

    async def families(self) -> Sequence[Metric]:
        """Metrics for other formats."""
        return await self._metrics.families()

    async def scrape(self, *, openmetrics: bool = False) -> bytes:
        """Metrics text for `/metrics`."""
        await asyncio.gather(self._figures.refresh(), self._jobs.refresh())
        return await self._metrics.scrape(openmetrics=openmetrics)

    def _engine_views(self) -> Iterator[EngineView]:
        for name, engine in self._engines.items():
            monitor = self._monitors[name]
            up = self._breakers[name].error is None
            stuck = 0 if self._stuck is None else len(self._stuck(name))
            usage = _usage(engine)
            figures = self._figures
            yield EngineView(
                name,
                up,
                engine.durable,
                dict(monitor.counts),
                dict(monitor.unknown),
                engine.faults,
                stuck,
                usage,
                engine.lineage,
                figures.instances(name),
                figures.finishes[name].finished.copy(),
                self._omitted(name),
                _requests(engine),
                figures.actions(name),
                *_process_figures(self._processes(name)),
            )

    def processes(self, engine: str) -> Sequence[ProcessView]:
        """Worker processes of an engine; empty where its workflows run in this process."""
        found = self._processes(engine)
        return () if found is None else found.views()

    def joined(self, engine: str) -> Sequence[JoinedProcess]:
        """Processes of other workers that have joined an engine of this process."""
        usage = _usage(self._engines[engine])
        return () if usage is None else usage.joined


def _usage(engine: Engine) -> EngineUsage | None:
    return engine.usage if isinstance(engine, MeasuredEngine) else None


def _process_figures(processes: WorkerProcesses | None) -> tuple[Mapping[str, int], Mapping[str, int], int]:
    """Worker processes by state, their unexpected ends by cause, and the work items that they hold."""
    if processes is None:
        return {}, {}, 0
    views = processes.views()
    return Counter(str(view.state) for view in views), processes.ends.copy(), sum(view.in_flight for view in views)


def summary(processes: WorkerProcesses | None, joined: Sequence[JoinedProcess]) -> str:
    """Worker processes, and joined ones, in one line; empty without any."""
    parts = []
    if processes is not None:
        views = processes.views()
        parts.append(
            f"{plural(len(views), 'process', 'processes')}: "
            + ", ".join(
                f"{view.pid} {view.state}" + (f" ({view.detail})" if view.detail and not view.runs else "")
                for view in views
            )
        )
    if joined:
        parts.append(f"{len(joined)} joined: " + ", ".join(f"{each.pid} ({_held(each)})" for each in joined))
    return "; ".join(parts)


def _held(process: JoinedProcess) -> str:
    return f"version {process.version}, {process.in_flight} work items, {process.sessions} sessions"


def _requests(engine: Engine) -> Mapping[tuple[str, str], Histogram]:
    try:
        return dict(engine.client.requests)
    except RuntimeError:  # the engine is not started
        return {}


def _changed(found: Sequence[IncompatibleInstance]) -> str:
    """State, cause and next step for instances that no longer fit their code."""
    first = ", ".join(f"{one.orchestration} {one.instance_id}" for one in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f"failed because their code was changed while they ran: {first}{more}; nothing was compensated. Restore the "
        "previous code, then run `bridge instances rewind ID`"
    )
