"""Workers of a daemon for all its engines: those in its process, and worker processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog

from bridge.app.serve.system_workflows import SystemWorkflows
from bridge.app.worker_process import user_workflows
from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.system_names import JOB_STEP
from bridge.core.words import plural
from bridge.engines.base import Engine
from bridge.engines.embedded.processes.supervisor import WorkerProcesses
from bridge.engines.remote.capabilities import Capability
from bridge.engines.worker.compatibility import CompatibilityMonitor, IncompatibleInstance, UnknownName
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.engines.workload import KINDS, PUBLISHING, Workload
from bridge.system.tasks import closed
from bridge.workflow import DataConverter

log = structlog.get_logger("bridge.daemon")

START_SECONDS = 30.0
"""Longest wait for the first start of the worker processes."""


class Workers:
    """Workers of one daemon.

    running: workers by engine, with its name. processes: worker processes by engine.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        workflows: Workflows,
        own: SystemWorkflows,
        monitors: Mapping[str, CompatibilityMonitor],
        build_processes: Callable[[Engine, Workflows], WorkerProcesses | None],
    ) -> None:
        """Create the workers, not started.

        workflows: those of the user. own: those of the bridge itself, which run in this process.
        build_processes: creates the worker processes of an engine for the user's workflows; None for none.
        """
        self._engines = engines
        self._workflows = workflows
        self._own = own
        self._monitors = monitors
        self._build_processes = build_processes
        self.running: list[tuple[str, RunningWorker]] = []
        self.processes: dict[str, WorkerProcesses] = {}
        self._loads: list[tuple[str, bool, RunningWorker]] = []

    async def start(self) -> None:
        """Start all workers. Raises: EngineError."""
        users = user_workflows(self._workflows)
        for name, engine in self._engines.items():
            here = users
            processes = self._build_processes(engine, users)
            if processes is not None:
                here = Workflows(external=self._workflows.external)
                processes.start()
                self.processes[name] = processes
                self._add(name, users, processes)
            groups: Sequence[Workflows] = self._own.groups(here, name)
            if Capability.PROTOCOL in engine.client.lacking:
                # Such an engine gives work to any worker
                groups = [groups[0].joined(groups[1:])]
            for group in groups:
                worker = engine.worker(group, DataConverter(), self._monitors[name])
                worker.start()
                self._add(name, group, worker)
        known = self._workflows
        log.info(
            f"running {plural(len(known.orchestrators), 'orchestration')}, "
            f"{plural(len(known.activities), 'activity')}, "
            f"{plural(len(known.entities), 'entity')}"
            + "".join(f" in {plural(len(each.views()), 'process', 'processes')}" for each in self.processes.values()),
            action="worker",
        )
        for processes in self.processes.values():
            # A process that cannot start makes the daemon unready, with the reason
            await asyncio.to_thread(processes.has_started.wait, START_SECONDS)

    def _add(self, engine: str, workflows: Workflows, worker: RunningWorker) -> None:
        self.running.append((engine, worker))
        if JOB_STEP not in workflows.activities:
            self._loads.append((engine, PUBLISH_ACTIVITY in workflows.activities, worker))

    async def stop(self, left: Callable[[], float]) -> bool:
        """Stop all workers. left: seconds that are left. Returns False when a worker did not stop."""
        stopped = await closed(*(stop_worker(worker, max(0.1, left() * 0.8)) for _, worker in self.running))
        for processes in self.processes.values():
            processes.kill()
        self.running.clear()
        return all(clean is True for clean in stopped)

    def stuck(self, engine: str) -> list[str]:
        """Descriptions of the thread pools of an engine's workers that cannot work."""
        return [reason for name, worker in self.running if name == engine for reason in worker.stuck()]

    def load(self, engine: str) -> Workload | None:
        """Work items of the workers of an engine; None where this process has no worker.

        Steps of jobs do not count: further workers do not make a job faster.
        """
        if not self._loads:
            return None
        held: Counter[str] = Counter()
        for name, publishes, worker in self._loads:
            if name == engine:
                for kind, number in zip(KINDS, worker.unfinished, strict=True):
                    held[PUBLISHING if publishes else kind] += number
        return Workload(held=held)


def build_monitors(engines: Iterable[str]) -> dict[str, CompatibilityMonitor]:
    """Monitors of the workers of each engine, which log instances that changed code or wrong names break."""
    return {
        name: CompatibilityMonitor(partial(_log_incompatible, name), partial(_log_unknown_name, name))
        for name in engines
    }


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
