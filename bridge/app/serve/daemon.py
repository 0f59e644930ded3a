"""Daemon: sources, workers and the ops port of one process, from start to drained stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from bridge.app.candidate import candidate_rules, load_candidate
from bridge.app.check.capabilities import refusals
from bridge.app.codecs import build_registries
from bridge.app.composition import (
    build_broker,
    build_domains,
    build_engine,
    build_source,
    build_targets,
    limits_of,
    load_workflows,
)
from bridge.app.operations.operation import Reload
from bridge.app.reload.stats import Reloads
from bridge.app.serve import waiting
from bridge.app.serve.admission import build_admission, build_budgets, listen
from bridge.app.serve.canary import Canary
from bridge.app.serve.dead_letters import DeadLetterCounter
from bridge.app.serve.decisions.pauses import pause_watch
from bridge.app.serve.decisions.temporary_limits import TemporaryLimitWatch
from bridge.app.serve.endless_tasks import EndlessTasks
from bridge.app.serve.engine_ports import EnginePorts
from bridge.app.serve.failures import FailureLog, known_orchestrations, report_omitted
from bridge.app.serve.jobs import JobFigures
from bridge.app.serve.lifecycle import Lifecycle, ends_options
from bridge.app.serve.ops_port import OpsPort
from bridge.app.serve.replays import Replays
from bridge.app.serve.shadow import Shadows
from bridge.app.serve.system_workflows import SystemWorkflows
from bridge.app.serve.topics import check_topics
from bridge.app.serve.views.instances import InstanceFigures
from bridge.app.serve.views.lineage import recorder
from bridge.app.serve.views.status import DaemonStatus, daemon_id
from bridge.app.serve.views.watch import Watch
from bridge.app.serve.worker_processes import build_processes
from bridge.app.serve.workers import Workers, build_monitors
from bridge.app.tracing import build_metrics_export, build_tracing, span_options
from bridge.brokers.base import Broker
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import ConfigError, EngineMisconfigured, EngineOutage, Problem
from bridge.core.states import DaemonState, Outcome
from bridge.engines.base import Engine, watch_finishes
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.entities.source_entities import EnginePaces
from bridge.engines.worker.finishes import Finishes
from bridge.engines.workflows import Workflows
from bridge.jobs.kind import JobKind
from bridge.ops.control import Control
from bridge.ops.logging import Level
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.decisions import DecisionListeners
from bridge.pipeline.lanes import OrderingDomain
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.route_limits import Admission, RouteLimit
from bridge.pipeline.limits.running_instances import RunningInstances
from bridge.pipeline.publishing import Publishing
from bridge.pipeline.rule_set import RuleSet
from bridge.pipeline.source import SourcePipeline
from bridge.pipeline.tracing import PublishTracing
from bridge.quarantine.orphaned import OrphanedQuarantine
from bridge.sqlite_engine.model.instance import Finish
from bridge.system.tasks import cancelled, closed

log = structlog.get_logger("bridge.daemon")

EVENTS_SECONDS = 2.0
"""Longest time of a stop for lifecycle events that are in memory."""


class Daemon:
    """One process of the bridge. Call `start`, then `wait`, then `stop`.

    intake: consume the sources.
    worker: run the workflows.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        intake: bool = True,
        worker: bool = True,
        engines: Mapping[str, Engine] | None = None,
        brokers: Mapping[str, Broker] | None = None,
        workflows: Workflows | None = None,
        log_levels: Mapping[str, Level] | None = None,
        on_published: Callable[[Mapping[str, Any]], None] | None = None,
        kinds: Sequence[JobKind] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Compile everything and open nothing. Requires a running event loop. Raises: ConfigError.

        engines: replacements for the configured engines, under the same names. Schema registries and worker processes
        are not used then: JSON replaces Avro and Protobuf.
        brokers: replacements for the configured brokers, under the same names.
        workflows: replacement for the workflows of the configured modules. They run in this process.
        log_levels: as for `serve`.
        on_published: receives each publish request of a workflow that a broker has accepted.
        kinds: further kinds of jobs, on every engine.
        now: clock of these engines.
        """
        config = loaded.config
        self.loaded = loaded
        self.is_intake = intake
        self.runs_worker = worker
        self.workflows = workflows or (load_workflows(loaded) if worker else Workflows())
        self.tracing = build_tracing(loaded)
        spans = None if self.tracing is None else span_options(loaded, self.tracing)
        self.engines: Mapping[str, Engine] = engines or {
            name: build_engine(loaded, name, host=intake, tracing=spans, ends=ends_options(config.events, name))
            for name in config.engines
        }
        self.brokers: Mapping[str, Broker] = brokers or {name: build_broker(loaded, name) for name in config.brokers}
        self.registries = build_registries(loaded) if engines is None else None
        self.breakers = {name: Breaker(name, partial(self._probe, engine)) for name, engine in self.engines.items()}
        self.candidate = load_candidate(loaded) if intake else None
        self.totals = {name: waiting.totals(loaded, name) for name in self.engines}
        self._ports = EnginePorts(
            loaded, self.engines, self.breakers, now, self.totals, self.candidate, traces=self.tracing
        )
        self.targets, self.early = self._ports.targets, self._ports.early
        self._build_sources()
        self._build_workers(now, on_published, kinds)
        levels = log_levels or {}
        endpoint = None if self.tracing is None else self.tracing.endpoint
        self.workers = Workers(
            self.engines,
            self.workflows,
            self.own,
            self.monitors,
            lambda engine, users: (
                build_processes(loaded, engine, users, self.monitors[engine.name], levels, endpoint)
                if workflows is None and engines is None
                else None
            ),
        )
        self._build_views(keeps_files=engines is None)
        self.channel: Control | None = None
        self._reload: Reload | None = None
        self._tasks = EndlessTasks(self._running)
        self._opened: list[Broker | Engine] = []
        self._reports: list[asyncio.Task[None]] = []

    def _build_sources(self) -> None:
        """Compile the rules, and create the sources with their limits. Raises: ConfigError."""
        loaded, intake = self.loaded, self.is_intake
        self.admission = build_admission(loaded, self.engines) if intake else Admission({}, ())
        self.limits = list(self.admission.limits.values())
        """Limits of routes, as metrics have them."""
        self.budgets, costs = build_budgets(loaded) if intake else ({}, {})
        self.domains = dict(build_domains(loaded))
        self.decisions = DecisionListeners()
        """Listeners of the settled deliveries of all sources."""
        self.shadows = Shadows(lambda: self.loaded, self.decisions, self.registries)
        self.canary = Canary(daemon_id(os.getpid()), self.engines, self.targets, self.decisions)
        self.canary.use(loaded, self.candidate, candidate_rules(loaded, self.candidate, self.targets, self.registries))
        self.replays = Replays(loaded, self.engines, self.brokers)
        self.sources: list[SourcePipeline] = [
            self.build_source(loaded, name, self.domains, self.admission.limits, costs)
            for name in (loaded.config.sources if intake else ())
        ]
        for source in self.sources:
            self.replays.add(source)
        self.pauses = pause_watch(loaded, self.sources, self.engines)
        self.temporary = TemporaryLimitWatch(self.engines, lambda: self.loaded, self.change_limits)
        self.orphaned = OrphanedQuarantine(loaded, self.engines if intake else {})
        self.engine_of = self._engines_of_routes()

    def _build_workers(
        self,
        now: Callable[[], datetime],
        on_published: Callable[[Mapping[str, Any]], None] | None,
        kinds: Sequence[JobKind],
    ) -> None:
        """Create the publishing, the bridge's own workflows, and what observes the ends of instances."""
        loaded, loop = self.loaded, asyncio.get_running_loop()
        self.publishing = Publishing(
            build_targets(loaded, self.brokers, self.registries),
            loop,
            on_published,
            None if self.tracing is None else PublishTracing(self.tracing),
        )
        all_kinds = {name: [kind, *kinds] for name, kind in self.replays.kinds.items()}
        self.own = SystemWorkflows(
            loaded, self.engines, self.brokers, self.publishing, now, loop, self._ports.keys, self.totals, all_kinds,
            self._read_decisions,
        )  # fmt: skip
        self.monitors = build_monitors(self.engines)
        self.failures = {name: FailureLog(name, loop, loaded.config.ops.log.failures) for name in self.engines}
        known = known_orchestrations(loaded, self.workflows)
        self.finishes = {
            name: Finishes(known, partial(self._failed, name), traces=self.tracing is not None)
            for name in self.failures
        }

    def _build_views(self, *, keeps_files: bool) -> None:
        """Create what shows the state of the daemon: figures, lifecycle events, metrics, status, ops port.

        keeps_files: keep the read dead letters in files.
        """
        loaded, config = self.loaded, self.loaded.config
        self.figures = InstanceFigures(
            self.engines,
            self.finishes,
            self.monitors,
            lambda: self.workers.running,
            self.sources,
            self.engine_of,
            config.ops.unready_on,
        )
        self.jobs = JobFigures(self.engines, self.own.job_entities)
        self.lifecycle = (
            None
            if config.events is None
            else Lifecycle(config.events, daemon_id(os.getpid()), self.publishing, self.jobs)
        )
        """Lifecycle events; None where none are configured."""
        self.dead_letters = (
            DeadLetterCounter(
                loaded,
                self.brokers,
                self.engines,
                keeps_files=keeps_files,
                on_count=_nothing if self.lifecycle is None else self.lifecycle.observe_causes,
                written=self._written,
            )
            if self.is_intake
            else None
        )
        self.reloads = Reloads(loaded.version)
        self.watch = Watch(
            self.sources,
            self.engines,
            self.breakers,
            self.publishing,
            self.monitors,
            self.own.waiting_entities.values,
            lambda: dict(self.own.dead_letters.written),
            self.figures,
            self.jobs,
            omitted=lambda name: self.failures[name].omitted,
            limits=self.limits,
            budgets=tuple(self.budgets.values()),
            orphaned=self.orphaned.readings,
            canary=self.canary,
            stuck=self.workers.stuck if self.runs_worker else None,
            processes=self.workers.processes.get,
            answers=self._ports.answer_results,
            refused=self._refused,
            traces=self.tracing,
            dead_letters=self.dead_letters,
            stuck_after=config.ops.stuck_after,
            reloads=self.reloads,
            events=None if self.lifecycle is None else self.lifecycle.events,
            on_readiness=_nothing if self.lifecycle is None else self.lifecycle.observe_sources,
        )
        self._early_message_counter = waiting.WaitingCounter(self.engines, self.own.waiting_entities, self._stored)
        self.status = DaemonStatus(
            loaded,
            self.watch,
            self.engines,
            self.breakers,
            self._early_message_counter,
            self.totals,
            self.jobs,
            "worker" if not self.is_intake else "serve" if self.runs_worker else "serve --no-worker",
            self.dead_letters,
            self.reloads,
            self.temporary.document,
        )
        port = OpsPort(
            loaded,
            self.engines,
            self.sources,
            self.status,
            self.watch,
            self.decisions,
            current=lambda: self.loaded,
            reload=lambda: self._reload,
            candidate=lambda: self.candidate,
            held=self.workers.load,
            is_intake=self.is_intake,
        )
        self.web, self.routes, self.streams = port.web, port.routes, port.streams

    def refusals(self, loaded: Loaded, names: Iterable[str]) -> list[Problem]:
        """Problems with the rules of a configuration that these engines cannot keep, as far as they are known."""
        return refusals(loaded, {name: self.engines[name].client.lacking for name in names})

    async def _probe(self, engine: Engine) -> None:
        """Check that an engine answers, and can keep the rules in use. Raises: EngineOutage."""
        await engine.probe()
        if refused := self.refusals(self.loaded, [engine.name]):
            raise EngineMisconfigured("; ".join(problem.what for problem in refused))

    def _read_decisions(self) -> None:
        """Apply decisions of people soon: a worker of this process has processed one."""
        self.pauses.read_soon()
        self.temporary.read_soon()

    def reload_by(self, reload: Reload) -> None:
        """Serve reloads of the configuration in the API."""
        self._reload = reload

    def control_by(self, channel: Control) -> None:
        """Show the control channel of this process: its path in the ready file, its refused connections in metrics."""
        self.channel = channel

    @property
    def url(self) -> str:
        """URL of health and metrics."""
        return self.web.url

    async def ready(self) -> None:
        """Return when the daemon is ready for the first time."""
        await self.watch.was_ready.wait()

    async def start(self) -> None:
        """Open all parts and start working.

        Raises: BridgeError when a part cannot be opened; no part stays open then.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop(0.0)
            raise

    async def _start(self) -> None:
        try:
            await self.web.start()
        except ConfigError:
            # The port of a second daemon is taken too; the engine file names the process that has both
            for engine in self.engines.values():
                if isinstance(engine, EmbeddedEngine):
                    await engine.start()
                    self._opened.append(engine)
            raise
        await self._open()
        if self.runs_worker:
            await self.workers.start()
        await self.pauses.read()
        listen(self.admission, self.engines)
        self.admission.start()
        if self.is_intake:
            await self.temporary.read()
        for source in self.sources:
            await self.start_source(source)
        await self.figures.refresh()
        self.watch.enter(DaemonState.RUNNING)
        self._start_reports()
        if self.watch.health().ready:
            self.watch.was_ready.set()
        else:
            log.info(f"started, not ready yet, health at {self.url}/readyz", action="start", url=self.url)

    async def _open(self) -> None:
        """Open the engines and brokers. An engine that does not answer holds its work; other problems are raised."""
        for engine in self.engines.values():
            await engine.start()
            self._opened.append(engine)
            if self.tracing is not None and isinstance(engine, EmbeddedEngine) and engine.spans is not None:
                self.tracing.add_store(engine.spans)
            if self.lifecycle is not None:
                self.lifecycle.add_engine(engine)
            finishes = self.finishes[engine.name]
            if not watch_finishes(engine, finishes.add):
                self.monitors[engine.name].report_ends(finishes.add_one)
            write = log.info if engine.durable else log.warning
            write(f"engine {engine.name}: {engine.description}", action="start", engine=engine.name)
        if self.tracing is not None:
            self.tracing.start()
        for broker in self.brokers.values():
            await broker.start()
            self._opened.append(broker)
        if self.lifecycle is not None:
            self.lifecycle.start()
        await check_topics(self.loaded, self.brokers, intake=bool(self.sources), worker=self.runs_worker)
        for name, engine in self.engines.items():
            try:
                await engine.probe()
            except EngineOutage as error:
                log.warning(f"engine {name} does not answer", action="hold", engine=name, detail=str(error))
                self.breakers[name].trip(error)
            if refused := self.refusals(self.loaded, [name]):
                raise ConfigError(refused)

    def _start_reports(self) -> None:
        """Start the tasks that read, count and report beside the messages."""
        reports: dict[str, Coroutine[Any, Any, None]] = {
            "readiness": self.watch.report(),
            "early message counter": self._early_message_counter.run(),
            "orphaned quarantine": self.orphaned.run(),
            "pauses of sources": self.pauses.run(),
            "instance counts": self.figures.run(),
            "replay queues": self.replays.watch.run(),
            "omitted failures": report_omitted(self.failures.values()),
        }
        if self.is_intake:
            reports |= {"candidate": self.canary.run(), "temporary limits": self.temporary.run()}
        if self.dead_letters is not None:
            reports["open dead letters"] = self.dead_letters.run()
        if (exported := build_metrics_export(self.loaded, self.watch.families)) is not None:
            reports["metrics by OTLP"] = exported.run()
        self._reports = [asyncio.create_task(task, name=name) for name, task in reports.items()]

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set. Raises: the exception that ended a task of the daemon, which is a bug."""
        await self._tasks.wait(stop)

    def _running(self) -> set[asyncio.Task[None]]:
        return {*(task for source in self.sources for task in source.tasks), *self.admission.tasks}

    # -- parts that a reload changes

    def build_limits(self) -> Sequence[RunningInstances]:
        """Use the limits of the configuration and the temporary ones of people. Sources take them by `use_limits`.

        Return the running instances that nothing counts any more; the caller stops them.
        """
        temporary = self.temporary.limits(self.loaded)
        left = self.admission.take_over(build_admission(self.loaded, self.engines, self.admission, temporary))
        listen(self.admission, self.engines)
        self.admission.start()
        self.limits[:] = self.admission.limits.values()
        self._tasks.changed()
        return left

    async def change_limits(self) -> None:
        """Apply changed temporary limits to all sources."""
        left = self.build_limits()
        for source in self.sources:
            source.use_limits(limits_of(self.loaded, source.settings.name, self.admission.limits))
        await closed(*(each.stop() for each in left))

    def use(self, loaded: Loaded, candidate: Loaded | None) -> Mapping[str, int]:
        """Use another configuration of the same engines, brokers and workflows for all that does not run messages.

        Return numbers of open dead letters that no source has any more, by broker and topic.
        """
        self.loaded, self.candidate = loaded, candidate
        self.engine_of.clear()
        self.engine_of.update(self._engines_of_routes())
        self.own.use(loaded)
        self.replays.use(loaded)
        self.orphaned.use(loaded)
        self.status.use(loaded)
        return {} if self.dead_letters is None else self.dead_letters.use(loaded)

    def build_source(
        self,
        loaded: Loaded,
        name: str,
        domains: Mapping[str, OrderingDomain],
        limits: Mapping[str, RouteLimit],
        costs: Mapping[str, int],
        ledger: Ledger | None = None,
        rules: RuleSet | None = None,
    ) -> SourcePipeline:
        """Create the pipeline of a source, not started.

        limits: of all routes that have some. costs: actions of each route.
        ledger, rules: see `bridge.app.composition.build_source`.
        Raises: ConfigError.
        """
        engine = state_engine(loaded, name)
        source = build_source(
            loaded,
            name,
            self.brokers,
            self.targets,
            limits=limits,
            budgets=self.budgets,
            costs=costs,
            domains=domains,
            quarantine_store=waiting.quarantine_store(loaded, name, self.engines, self.totals),
            paces=EnginePaces(self.engines[engine], name),
            registries=self.registries,
            record=recorder(loaded, name, self.engines[engine]),
            tracer=self.tracing,
            replays=self.replays.stores[engine],
            replay_reports=self.replays.reports,
            decisions=self.decisions,
            chooser=self.canary.rules,
            ledger=ledger,
            rules=rules,
        )
        self.canary.watch(source)
        return source

    def _engines_of_routes(self) -> dict[str, str]:
        """Engine of each route, also of the candidate."""
        further = () if self.candidate is None else self.candidate.config.routes
        return {route.name: route.engine for route in (*further, *self.loaded.config.routes)}

    async def start_source(self, source: SourcePipeline, *, patient: bool = False) -> None:
        """Start consuming a source. patient: wait for its broker. Raises: BrokerUnavailable."""
        await source.start(patient=patient)
        self._tasks.changed()
        settings = source.settings
        log.info(
            f"consuming {', '.join(settings.subscribe.topics)}",
            action="consume",
            source=settings.name,
            broker=source.broker.name,
            group=settings.subscribe.group,
        )

    def add_source(self, source: SourcePipeline) -> None:
        """Add a pipeline that is not started, in place of the one of the same source."""
        name = source.settings.name
        self.remove_source(name)
        self.sources.append(source)
        self.watch.add(source)
        self.replays.add(source)
        self.pauses.add(state_engine(self.loaded, name), source)

    def remove_source(self, name: str) -> None:
        """Remove the pipeline of a source, which is to be drained."""
        self.sources[:] = [each for each in self.sources if each.settings.name != name]
        self.watch.remove(name)
        self.replays.remove(name)
        self.pauses.remove(name)
        self._tasks.changed()

    async def stop(self, deadline: float) -> bool:
        """Drain within `deadline` seconds and close everything. False when a worker does not stop. Idempotent.

        A failure to close one part is logged, and the other parts are closed.
        """
        end = time.monotonic() + deadline
        self.watch.enter(DaemonState.DRAINING)
        await cancelled(*self._reports)
        await closed(self.shadows.close())

        def left() -> float:
            return max(0.0, end - time.monotonic())

        await closed(*(source.drain(left() * 0.6) for source in self.sources))
        self.own.stop_jobs()
        [stopped] = await closed(self.workers.stop(left))
        await closed(self.admission.stop())
        await closed(*(breaker.stop() for breaker in self.breakers.values()))
        if self.tracing is not None:
            # Before the engines: they keep the spans that are not sent
            await closed(asyncio.to_thread(self.tracing.stop, 5.0))
        if self.lifecycle is not None:
            await closed(self.lifecycle.stop(min(EVENTS_SECONDS, max(0.1, left()))))
        await closed(self.replays.stop())
        for part in reversed(self._opened):
            await closed(part.stop())
        self._opened.clear()
        for failures in self.failures.values():
            failures.report(last=True)
        await closed(*(registry.close() for registry in (self.registries or {}).values()))
        await closed(self.web.stop())
        return stopped is True

    def _written(self) -> int:
        """Number of dead letters that this daemon has written."""
        own = self.own.dead_letters.written.copy()
        return own.total() + sum(source.ledger.dead_letters.total() for source in self.sources)

    def _refused(self) -> dict[str, Mapping[str, int]]:
        """Refused connections by port and cause."""
        return {"ops": self.web.refused} | ({} if self.channel is None else {"control": self.channel.refused})

    def _failed(self, engine: str, end: Finish) -> None:
        """Log and count a failure, from any thread."""
        self.failures[engine].add(end)
        if self.lifecycle is not None:
            self.lifecycle.failed(engine, end)
        self.canary.ended(engine, end)

    def _stored(self) -> int:
        stored = (Outcome.EARLY, Outcome.QUARANTINED)
        return sum(source.ledger.outcomes[outcome] for source in self.sources for outcome in stored)


def _nothing(_: object) -> None:
    """Listener where there is none."""
