"""Daemon: sources, workers and the ops port of one process, from start to drained stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog

from bridge.app import configurations
from bridge.app.check.configuration import inspect
from bridge.app.codecs import build_registries, target_codec
from bridge.app.composition import (
    build_broker,
    build_domains,
    build_engine,
    build_source,
    build_tls,
    load_workflows,
    own_packages,
)
from bridge.app.serve import waiting
from bridge.app.serve.admission import build_admission, build_budgets, listen
from bridge.app.serve.control import control
from bridge.app.serve.dead_letters import DeadLetterCounter
from bridge.app.serve.failures import FailureLog, known_orchestrations, report_omitted
from bridge.app.serve.instances import InstanceFigures
from bridge.app.serve.jobs import JobFigures
from bridge.app.serve.lineage import recorder
from bridge.app.serve.pauses import PauseWatch
from bridge.app.serve.readiness import clear_ready, write_ready
from bridge.app.serve.replays import Replays
from bridge.app.serve.status import DaemonStatus
from bridge.app.serve.system_workflows import SystemWorkflows
from bridge.app.serve.topics import check_topics
from bridge.app.serve.watch import Watch
from bridge.app.serve.worker_processes import build_processes
from bridge.app.state import trails
from bridge.app.tracing import build_metrics_export, build_tracing, span_options, within_trace
from bridge.app.worker_process import user_workflows
from bridge.brokers.base import Broker
from bridge.brokers.factory import message_shape
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError, ConfigError, EngineOutage
from bridge.core.states import DaemonState, Outcome
from bridge.engines.base import Engine, watch_finishes
from bridge.engines.commands.answers import AnswerExecutor, AnswerKeys
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.supervisor import WorkerProcesses
from bridge.engines.source_entities import EnginePaces
from bridge.engines.source_seeks import SourceSeeks
from bridge.engines.worker.compatibility import CompatibilityMonitor, IncompatibleInstance, UnknownName
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.worker.finishes import Finishes
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.ops import logging
from bridge.ops.audit import settle
from bridge.ops.control import Control
from bridge.ops.web import Web
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.publishing import Publishing, PublishTarget
from bridge.pipeline.route_limits import NO_LIMITS
from bridge.pipeline.source import SourcePipeline
from bridge.pipeline.tracing import PublishTracing, messaging_system
from bridge.quarantine.orphaned import OrphanedQuarantine, state_engine
from bridge.system.memory import tune_memory
from bridge.workflow import DataConverter

log = structlog.get_logger("bridge.daemon")

START_SECONDS = 30.0
"""Seconds for which the sources wait for the first start of the worker processes."""


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
        log_levels: Mapping[str, logging.Level] | None = None,
        on_published: Callable[[Mapping[str, Any]], None] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Compile everything and open nothing. Requires a running event loop. Raises: ConfigError.

        engines: replacements for the configured engines, under the same names. Schema registries and worker processes
        are not used then: JSON replaces Avro and Protobuf.
        brokers: replacements for the configured brokers, under the same names.
        workflows: replacement for the workflows of the configured modules. They run in this process.
        log_levels: as for `serve`.
        on_published: receives each publish request of a workflow that a broker has accepted.
        now: clock of these engines.
        """
        config = loaded.config
        self.loaded = loaded
        self.workflows = workflows or (load_workflows(loaded) if worker else Workflows())
        self._may_use_processes = workflows is None and engines is None
        self._log_levels = log_levels or {}
        self._processes: dict[str, WorkerProcesses] = {}
        self.tracing = build_tracing(loaded)
        spans = None if self.tracing is None else span_options(loaded, self.tracing)
        self.engines: Mapping[str, Engine] = (
            {name: build_engine(loaded, name, host=intake, tracing=spans) for name in config.engines}
            if engines is None
            else engines
        )
        self.brokers: Mapping[str, Broker] = (
            {name: build_broker(loaded, name) for name in config.brokers} if brokers is None else brokers
        )
        self.breakers = {name: Breaker(name, engine.probe) for name, engine in self.engines.items()}
        loop = asyncio.get_running_loop()
        keys = {
            name: AnswerKeys(engine, loop, config.engines[name].answers.signatures)
            for name, engine in self.engines.items()
        }
        totals = {name: waiting.totals(loaded, name) for name in self.engines}
        inner = {
            name: waiting.target(loaded, engine, self.breakers[name], now, totals[name])
            for name, engine in self.engines.items()
        }
        answers = {
            name: AnswerExecutor(
                engine,
                keys[name],
                inner[name].execute,
                inner[name].store_early,
                config.engines[name].answers.signatures,
                now,
            )
            for name, engine in self.engines.items()
        }
        targets = {
            name: replace(
                target,
                execute=answers[name].execute
                if self.tracing is None or isinstance(self.engines[name], EmbeddedEngine)
                else within_trace(answers[name].execute),
                store_early=target.store_early and answers[name].store_early,
            )
            for name, target in inner.items()
        }
        self.registries = build_registries(loaded) if engines is None else None
        self.admission = build_admission(loaded, self.engines) if intake else NO_LIMITS
        budgets, costs = build_budgets(loaded) if intake else ({}, {})
        domains = build_domains(loaded)
        self.replays = Replays(loaded, self.engines, self.brokers)
        self.sources: list[SourcePipeline] = (
            [
                build_source(
                    loaded,
                    name,
                    self.brokers,
                    targets,
                    limits=self.admission.limits,
                    budgets=budgets,
                    costs=costs,
                    domains=domains,
                    quarantine_store=waiting.quarantine_store(loaded, name, self.engines, totals),
                    paces=EnginePaces(self.engines[state_engine(loaded, name)], name),
                    registries=self.registries,
                    record=recorder(loaded, name, self.engines[state_engine(loaded, name)]),
                    tracer=self.tracing,
                    replays=self.replays.stores[state_engine(loaded, name)],
                    replay_reports=self.replays.reports,
                )
                for name in config.sources
            ]
            if intake
            else []
        )
        for source in self.sources:
            self.replays.add(source)
        self.publishing = Publishing(
            {
                name: PublishTarget(
                    self.brokers[target.broker],
                    target.address,
                    target_codec(loaded, name, self.registries),
                    target.source,
                    target.timeout,
                    message_shape(target),
                    messaging_system(config.brokers[target.broker].type),
                )
                for name, target in config.targets.items()
            },
            loop,
            on_published,
            None if self.tracing is None else PublishTracing(self.tracing),
        )
        kinds = {name: [kind] for name, kind in self.replays.kinds.items()}
        self.own = SystemWorkflows(loaded, self.engines, self.brokers, self.publishing, now, loop, keys, totals, kinds)
        self.monitors = {
            name: CompatibilityMonitor(partial(_log_incompatible, name), partial(_log_unknown_name, name))
            for name in self.engines
        }
        self.failures = {name: FailureLog(name, loop, config.ops.log.failures) for name in self.engines}
        known = known_orchestrations(loaded, self.workflows)
        self.finishes = {
            name: Finishes(known, failures.add, traces=self.tracing is not None)
            for name, failures in self.failures.items()
        }
        self._workers: list[tuple[str, RunningWorker]] = []
        self.figures = InstanceFigures(
            self.engines,
            self.finishes,
            self.monitors,
            lambda: self._workers,
            self.sources,
            {route.name: route.engine for route in config.routes},
            config.ops.unready_on,
        )
        self.orphaned = OrphanedQuarantine(loaded, self.engines if intake else {})
        by_engine: dict[str, list[SourcePipeline]] = {}
        for source in self.sources:
            by_engine.setdefault(state_engine(loaded, source.settings.name), []).append(source)
        self.pauses = PauseWatch(by_engine, {name: SourceSeeks(self.engines[name]) for name in by_engine})
        self.dead_letters = (
            DeadLetterCounter(loaded, self.brokers, self.engines, keeps_files=engines is None) if intake else None
        )
        self.jobs = JobFigures(self.engines, self.own.job_entities)
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
            limits=tuple(self.admission.limits.values()),
            budgets=tuple(budgets.values()),
            orphaned=self.orphaned.readings,
            stuck=self._stuck if worker else None,
            processes=lambda name: self._processes.get(name),
            answers=lambda: {name: dict(checked.results) for name, checked in answers.items()},
            refused=self._refused,
            traces=self.tracing,
            dead_letters=self.dead_letters,
            stuck_after=config.ops.stuck_after,
            config_version=loaded.version,
        )
        http = config.ops.http
        if not intake and "port" not in http.model_fields_set:
            # The default port belongs to the intake process beside this one
            http = http.model_copy(update={"port": 0})
        self.channel: Control | None = None
        self._run_worker = worker
        self._opened: list[Broker | Engine] = []
        self._early_message_counter = waiting.WaitingCounter(self.engines, self.own.waiting_entities, self._stored)
        self._reports: list[asyncio.Task[None]] = []
        command = "worker" if not intake else "serve" if worker else "serve --no-worker"
        self.status = DaemonStatus(
            loaded,
            self.watch,
            self.engines,
            self.breakers,
            self._early_message_counter,
            totals,
            self.jobs,
            command,
            self.dead_letters,
        )
        self.web = Web(http, self.watch.health, self.watch.scrape, build_tls(loaded), self.status.document)

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
        config = self.loaded.config
        try:
            await self.web.start()
        except ConfigError:
            # The port of a second daemon is taken too; the engine file names the process that has both
            for engine in self.engines.values():
                if isinstance(engine, EmbeddedEngine):
                    await engine.start()
                    self._opened.append(engine)
            raise
        for engine in self.engines.values():
            await engine.start()
            self._opened.append(engine)
            if self.tracing is not None and isinstance(engine, EmbeddedEngine) and engine.spans is not None:
                self.tracing.add_store(engine.spans)
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
        await check_topics(self.loaded, self.brokers, intake=bool(self.sources), worker=self._run_worker)
        for name, engine in self.engines.items():
            try:
                await engine.probe()
            except EngineOutage as error:
                log.warning(f"engine {name} does not answer", action="hold", engine=name, detail=str(error))
                self.breakers[name].trip(error)
        if self._run_worker:
            self._start_workers()
            for processes in self._processes.values():
                # A process that cannot start makes the daemon unready, with the reason
                await asyncio.to_thread(processes.has_started.wait, START_SECONDS)
        await self.pauses.read()
        listen(self.admission, self.engines)
        self.admission.start()
        for source in self.sources:
            await source.start()
            log.info(
                f"consuming {', '.join(source.settings.subscribe.topics)}",
                action="consume",
                source=source.settings.name,
                broker=config.sources[source.settings.name].broker,
                group=source.settings.subscribe.group,
            )
        await self.figures.refresh()
        self.watch.phase = DaemonState.RUNNING
        self._reports = [
            asyncio.create_task(self.watch.report(), name="readiness"),
            asyncio.create_task(self._early_message_counter.run(), name="early message counter"),
            asyncio.create_task(self.orphaned.run(), name="orphaned quarantine"),
            asyncio.create_task(self.pauses.run(), name="pauses of sources"),
            asyncio.create_task(self.figures.run(), name="instance counts"),
            asyncio.create_task(self.replays.watch.run(), name="replay queues"),
            asyncio.create_task(report_omitted(self.failures.values()), name="omitted failures"),
        ]
        if self.dead_letters is not None:
            self._reports.append(asyncio.create_task(self.dead_letters.run(), name="open dead letters"))
        exported = build_metrics_export(self.loaded, self.watch.families)
        if exported is not None:
            self._reports.append(asyncio.create_task(exported.run(), name="metrics by OTLP"))
        if self.watch.health().ready:
            self.watch.was_ready.set()
        else:
            log.info(f"started, not ready yet, health at {self.url}/readyz", action="start", url=self.url)

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set. Raises: the exception that ended a task of the daemon, which is a bug."""
        stopped = asyncio.ensure_future(stop.wait())
        tasks = [task for source in self.sources for task in source.tasks]
        tasks += self.admission.tasks
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for task in done:
            if task is not stopped:
                if not task.cancelled():
                    task.result()
                raise BridgeError(f"{task.get_name()} ended unexpectedly")

    async def stop(self, deadline: float) -> bool:
        """Drain within `deadline` seconds and close everything. False when a worker does not stop. Idempotent.

        A failure to close one part is logged, and the other parts are closed.
        """
        end = time.monotonic() + deadline
        self.watch.phase = DaemonState.DRAINING
        for report in self._reports:
            report.cancel()
        await asyncio.gather(*self._reports, return_exceptions=True)

        def left() -> float:
            return max(0.0, end - time.monotonic())

        await _closed(*(source.drain(left() * 0.6) for source in self.sources))
        self.own.stop_jobs()
        stopped = await _closed(*(stop_worker(worker, max(0.1, left() * 0.8)) for _, worker in self._workers))
        for processes in self._processes.values():
            processes.kill()
        await _closed(self.admission.stop())
        await _closed(*(breaker.stop() for breaker in self.breakers.values()))
        if self.tracing is not None:
            # Before the engines: they keep the spans that are not sent
            await _closed(asyncio.to_thread(self.tracing.stop, 5.0))
        await _closed(self.replays.stop())
        for part in reversed(self._opened):
            await _closed(part.stop())
        self._opened.clear()
        for failures in self.failures.values():
            failures.report(last=True)
        await _closed(*(registry.close() for registry in (self.registries or {}).values()))
        await _closed(self.web.stop())
        self._workers.clear()
        return all(clean is True for clean in stopped)

    def _refused(self) -> dict[str, Mapping[str, int]]:
        """Refused connections by port and cause."""
        return {"ops": self.web.refused} | ({} if self.channel is None else {"control": self.channel.refused})

    def _stuck(self, engine: str) -> list[str]:
        """Descriptions of the worker thread pools of an engine that cannot work."""
        return [reason for name, worker in self._workers if name == engine for reason in worker.stuck()]

    def _stored(self) -> int:
        stored = (Outcome.EARLY, Outcome.QUARANTINED)
        return sum(source.ledger.outcomes[outcome] for source in self.sources for outcome in stored)

    def _start_workers(self) -> None:
        users = user_workflows(self.workflows)
        for name, engine in self.engines.items():
            here = users
            processes = (
                build_processes(
                    self.loaded,
                    engine,
                    users,
                    self.monitors[name],
                    self._log_levels,
                    None if self.tracing is None else self.tracing.endpoint,
                )
                if self._may_use_processes
                else None
            )
            if processes is not None:
                here = Workflows(external=self.workflows.external)
                processes.start()
                self._processes[name] = processes
                self._workers.append((name, processes))
            for group in self.own.groups(here, name):
                worker = engine.worker(group, DataConverter(), self.monitors[name])
                worker.start()
                self._workers.append((name, worker))
        log.info(
            f"running {len(self.workflows.orchestrators)} orchestrations, {len(self.workflows.activities)} activities, "
            f"{len(self.workflows.entities)} entities"
            + "".join(f" in {len(each.views())} processes" for each in self._processes.values()),
            action="worker",
        )


def _log_unknown_name(engine: str, found: UnknownName) -> None:
    if found.kind == "target":
        what, remedy = f"cannot publish: {found.detail}", "correct the name in the code, or add it under `targets`"
    else:
        what = f"calls the {found.kind} {found.name[:100]!r}, but no worker registers it"
        remedy = "correct the name, or list it under `workflows.external` where another worker runs it"
    log.error(
        f"{found.orchestration} {found.instance_id} {what}; {remedy}",
        action="unknown_name",
        engine=engine,
        orchestration=found.orchestration,
        instance=found.instance_id,
        kind=found.kind,
    )


def _log_incompatible(engine: str, found: IncompatibleInstance) -> None:
    log.error(
        f"{found.orchestration} {found.instance_id} failed: its code was changed while it ran; nothing was "
        f"compensated. Restore the previous code, then run `bridge instances rewind {found.instance_id}`",
        action="incompatible",
        engine=engine,
        orchestration=found.orchestration,
        instance=found.instance_id,
        detail=found.error,
    )


async def _closed(*closing: Coroutine[Any, Any, Any]) -> list[Any]:
    """Results or exceptions, in order. Exceptions are logged."""
    results = await asyncio.gather(*closing, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            log.error("a component did not close cleanly", action="stop", exc_info=result)
    return results


def serve(
    loaded: Loaded,
    *,
    intake: bool = True,
    worker: bool = True,
    ready_file: Path | None = None,
    log_levels: Mapping[str, logging.Level] | None = None,
) -> int:
    """Run the daemon until SIGTERM, SIGINT or SIGHUP; return the exit code.

    A second SIGTERM or SIGINT ends the process at once.
    ready_file: written when the daemon is ready for the first time, with the process id, the address of the ops port
    and the control socket as JSON; removed before that and at the end.
    log_levels: levels of the log by logger, instead of those of the configuration; `""` is the whole log.
    Raises: ConfigError, before anything is opened; BridgeError when a part cannot be opened.
    """
    wanted = loaded.config.ops.log
    levels = dict(log_levels or {})
    level = levels.pop("", wanted.level)
    logging.configure(level, wanted.format, libraries=wanted.libraries, own=own_packages(loaded), levels=levels)
    if ready_file is not None:
        clear_ready(ready_file)
    found = inspect(loaded, imports=worker)
    if found.errors:
        raise ConfigError([problem for problem in found.problems if problem.severity == "error"])
    for warning in found.problems:
        log.warning(str(warning), action="check")
    tune_memory()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        stopped = runner.run(_serve(loaded, intake, worker, ready_file, dict(log_levels or {})))
    if not stopped:
        _end_at_once(0)
    return 0


def _end_at_once(code: int) -> NoReturn:
    """End the process: a workflow thread that never returns would keep the interpreter running."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(
    loaded: Loaded, intake: bool, worker: bool, ready_file: Path | None, levels: Mapping[str, logging.Level]
) -> bool:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if intake:
        configurations.keep(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop)
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:  # `nohup` ignores it
        # The end of a terminal sends it more than once: a further one forces nothing
        loop.add_signal_handler(hang_up, stop.set)
    daemon = Daemon(loaded, intake=intake, worker=worker, log_levels=levels)
    flush = None if daemon.tracing is None else daemon.tracing.install_provider()
    await daemon.start()
    failure: Exception | None = None
    channel: Control | None = None
    try:
        daemon.channel = channel = await _channel(daemon)
        await _run(daemon, ready_file, stop)
    except Exception as error:
        failure = error
    if ready_file is not None:
        with suppress(BridgeError):
            clear_ready(ready_file)
    if channel is not None:
        await _closed(channel.stop())
    log.info("draining", action="drain", deadline=loaded.config.ops.drain)
    clean = await daemon.stop(loaded.config.ops.drain)
    if flush is not None:
        await _closed(asyncio.to_thread(flush))
    log.info("stopped", action="stop", clean=clean)
    if failure is not None:
        if not clean:
            log.error("ended by a failure", action="crash", exc_info=failure)
            _end_at_once(1)
        raise failure
    return clean


async def _run(daemon: Daemon, ready_file: Path | None, stop: asyncio.Event) -> None:
    """Return when `stop` is set. Report the daemon as ready when it is. Raises: see `Daemon.wait`; BridgeError."""
    ending = asyncio.ensure_future(daemon.wait(stop))
    announcing = asyncio.ensure_future(_announce(daemon, ready_file))
    try:
        await asyncio.wait([ending, announcing], return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await ending
    finally:
        for each in (ending, announcing):
            each.cancel()
        await asyncio.gather(ending, announcing, return_exceptions=True)


async def _announce(daemon: Daemon, ready_file: Path | None) -> None:
    """Write the ready file and the log line when the daemon is ready for the first time. Raises: BridgeError."""
    await daemon.ready()
    if ready_file is not None:
        path = None if daemon.channel is None else str(daemon.channel.path)
        write_ready(ready_file, {"pid": os.getpid(), "http": daemon.url, "control": path})
    log.info(f"ready, health at {daemon.url}/readyz", action="ready", url=daemon.url, config=daemon.loaded.version)


async def _channel(daemon: Daemon) -> Control | None:
    """Start the control channel. None where it has no directory, or where callers cannot be identified.

    Raises: ConfigError when the configured directory cannot be used.
    """
    loaded = daemon.loaded
    if sys.platform != "linux":
        return None
    channel = control(loaded, daemon.engines, status=daemon.status.document, sources=daemon.sources)
    try:
        for trail in trails(loaded):
            trail.narrow()
            settle(trail)
        await channel.start()
    except OSError as error:
        what = f"cannot open the control channel at {channel.path.parent}: {error.strerror}"
        if "state_dir" in loaded.config.ops.model_fields_set:
            raise ConfigError([loaded.locate(("ops", "state_dir"), what)]) from error
        log.warning(f"{what}; set `ops.state_dir` to another directory", action="control")
        return None
    return channel


def _stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        log.warning("second signal: the daemon ends at once", action="stop")
        os._exit(1)
    stop.set()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
