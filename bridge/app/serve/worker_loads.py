"""Work items that the workers of this process have."""

from __future__ import annotations

from collections import Counter

from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.system_names import JOB_STEP
from bridge.engines.worker.contained_worker import RunningWorker
from bridge.engines.workflows import Workflows
from bridge.engines.workload import KINDS, PUBLISHING, Workload


class WorkerLoads:
    """Work items of the workers of a process, without steps of jobs: further workers do not make a job faster."""

    def __init__(self) -> None:
        self._workers: list[tuple[str, bool, RunningWorker]] = []

    def add(self, engine: str, workflows: Workflows, worker: RunningWorker) -> None:
        """Count the work of a worker. workflows: those that it runs."""
        if JOB_STEP not in workflows.activities:
            self._workers.append((engine, PUBLISH_ACTIVITY in workflows.activities, worker))

    def of(self, engine: str) -> Workload | None:
        """Work items of the workers of an engine; None where this process has no worker."""
        if not self._workers:
            return None
        held: Counter[str] = Counter()
        for name, publishes, worker in self._workers:
            if name == engine:
                for kind, number in zip(KINDS, worker.unfinished, strict=True):
                    held[PUBLISHING if publishes else kind] += number
        return Workload(held=held)
