"""Setup of the SDK's workers, and their stop within a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import (
    ActivityWorkItemFilter,
    ConcurrencyOptions,
    EntityWorkItemFilter,
    OrchestrationWorkItemFilter,
    TaskHubGrpcWorker,
    WorkItemFilters,
)

from bridge.core.errors import is_final_failure
from bridge.core.system_names import PREFIX
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.contained_worker import ContainedWorker, RunningWorker
from bridge.engines.workflows import Workflows

if TYPE_CHECKING:
    from bridge.config.model.engines import WorkerConfig

_NOBODY = "bridge.nobody"
"""Placeholder name that no work has, because an engine might read an empty filter list as "accept everything"."""


def threads(config: WorkerConfig, workflows: Workflows) -> int:
    """Number of activity threads. Publishing activities have separate threads; a hanging broker blocks only those."""
    return config.publish_threads if workflows.publishers else config.threads


def concurrency(config: WorkerConfig, workflows: Workflows) -> ConcurrencyOptions:
    return ConcurrencyOptions(
        maximum_concurrent_activity_work_items=config.max_activities,
        maximum_concurrent_orchestration_work_items=config.max_orchestrations,
        maximum_concurrent_entity_work_items=config.max_entities,
        maximum_thread_pool_workers=threads(config, workflows),
    )


class MonitoredWorker(ContainedWorker):
    """Worker of the SDK with a monitor that inspects responses before they are sent."""

    monitor: CompatibilityMonitor | None = None
    """Monitor that gets the instances that no longer fit their code."""

    known: Workflows | None = None
    """Names that the workers of this process register, and external ones; None when the names are not all known."""

    versions: Collection[str] = ()
    """Versions of the orchestrations that this worker runs; empty for all."""

    def add_workflows(
        self,
        workflows: Workflows,
        monitor: CompatibilityMonitor | None = None,
        stuck_after: float | None = None,
        versions: Sequence[str] = (),
    ) -> Self:
        """Register the workflows, with filters for their names: the worker then gets no unknown work. Returns itself.

        stuck_after: seconds after which work that waits behind busy threads counts as stuck; None disables the check.
        versions: versions of the orchestrations that this worker runs, and of the activities that they call; empty for
        all. The bridge's own orchestrations have no version.
        """
        self.monitor = monitor
        self.versions = versions
        self.stuck_after = stuck_after
        self.known = workflows
        for orchestrator in workflows.orchestrators.values():
            self.add_orchestrator(orchestrator)
        for activity in workflows.activities.values():
            self.add_activity(activity)
        for entity in workflows.entities.values():
            self.add_entity(entity)
        if workflows.publishers:
            self.use_work_item_filters(
                WorkItemFilters(
                    [OrchestrationWorkItemFilter(_NOBODY)],
                    [ActivityWorkItemFilter(name) for name in workflows.activities],
                    [EntityWorkItemFilter(_NOBODY)],
                )
            )
        elif versions:
            self.use_work_item_filters(
                WorkItemFilters(
                    [
                        OrchestrationWorkItemFilter(name, own_versions(name, versions))
                        for name in workflows.orchestrators
                    ],
                    [ActivityWorkItemFilter(name, own_versions(name, versions)) for name in workflows.activities],
                    [EntityWorkItemFilter(name) for name in workflows.entities],
                )
            )
        else:
            self.use_work_item_filters()
        return self

    def inspect_turn(self, request: Any, response: pb.OrchestratorResponse) -> None:
        if self.versions:
            _inherit_version(request, response)
        if self.monitor is not None:
            self.monitor.inspect_turn(request, response, self.known)

    def inspect_activity(self, response: pb.ActivityResponse) -> None:
        """Mark final failures as non-retriable, for orchestrators of SDKs that respect the mark."""
        if is_final_failure(response.failureDetails.errorType):
            response.failureDetails.isNonRetriable = True


def own_versions(name: str, versions: Sequence[str]) -> list[str]:
    """Versions in the filter of a name; empty for all."""
    return [] if name.startswith(PREFIX) else [*versions]


def _inherit_version(request: Any, response: pb.OrchestratorResponse) -> None:
    """Give the children that a turn starts without a version the version of their parent.

    Without one, no worker of this version would run them.
    """
    starts = [
        action.createSubOrchestration
        for action in response.actions
        if action.HasField("createSubOrchestration")
        and not action.createSubOrchestration.HasField("version")
        and not action.createSubOrchestration.name.startswith(PREFIX)
    ]
    if not starts:
        return
    events = chain(request.pastEvents, request.newEvents)
    started = next((event.executionStarted for event in events if event.HasField("executionStarted")), None)
    if started is not None and started.HasField("version"):
        for start in starts:
            start.version.CopyFrom(started.version)


async def stop_worker(worker: TaskHubGrpcWorker | RunningWorker, deadline: float) -> bool:
    """Stop the worker; return False when running work kept it from stopping within `deadline` seconds.

    The SDK waits for running activities without a limit. After the deadline the wait continues in a daemon thread,
    which does not keep the process alive. The worker's own threads do keep it alive: exit hard after flushing.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[BaseException | None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not stopped.done():
            stopped.set_result(error)

    def stop() -> None:
        error: Any = None
        try:
            worker.stop()
        except Exception as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(finish, error)
        except RuntimeError:
            return  # the loop was closed: no caller waits any more

    threading.Thread(target=stop, name="bridge-stop-worker", daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            error = await stopped
    except TimeoutError:
        return False
    if error is not None:
        raise error
    return True
