"""Setup of the SDK's workers, and their stop within a deadline."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Self

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import (
    ActivityWorkItemFilter,
    ConcurrencyOptions,
    EntityWorkItemFilter,
    OrchestrationWorkItemFilter,
    TaskHubGrpcWorker,
    WorkItemFilters,
)

from bridge.config.model.engines import WorkerConfig
from bridge.core.errors import is_final_failure
from bridge.engines.worker.compatibility import CompatibilityMonitor
from bridge.engines.worker.contained_worker import ContainedWorker, RunningWorker
from bridge.engines.worker.failures import presentable
from bridge.engines.workflows import Workflows

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


class _WithoutStops(logging.Filter):
    """Filter that drops the warning with which the SDK's worker reports that its own `stop` cancelled the stream."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (text.startswith("Error in work item stream") and "CANCELLED" in text)


class _Printable(logging.Filter):
    """Filter that replaces exceptions that cannot be printed, or whose text is too long.

    The SDK logs exceptions of entities unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, BaseException):
            record.msg = presentable(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            shown = presentable(record.exc_info[1])
            record.exc_info = (type(shown), shown, shown.__traceback__)
        return True


_PRINTABLE = _Printable()
_WITHOUT_STOPS = _WithoutStops()


def quiet_logger(name: str) -> logging.Logger:
    """Create a logger for the SDK at level WARNING, because its clients and workers log every call at INFO."""
    logger = logging.getLogger(f"bridge.sdk.{name}")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_PRINTABLE)
    logger.addFilter(_WITHOUT_STOPS)
    return logger


class MonitoredWorker(ContainedWorker):
    """Worker of the SDK with a monitor that inspects responses before they are sent."""

    monitor: CompatibilityMonitor | None = None
    """Monitor that gets the instances that no longer fit their code."""

    known: Workflows | None = None
    """Names that the workers of this process register, and external ones; None when the names are not all known."""

    def add_workflows(
        self, workflows: Workflows, monitor: CompatibilityMonitor | None = None, stuck_after: float | None = None
    ) -> Self:
        """Register the workflows, with filters for their names: the worker then gets no unknown work. Returns itself.

        stuck_after: seconds after which work that waits behind busy threads counts as stuck; None disables the check.
        """
        self.monitor = monitor
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
        else:
            self.use_work_item_filters()
        return self

    def inspect_turn(self, request: Any, response: pb.OrchestratorResponse) -> None:
        if self.monitor is not None:
            self.monitor.inspect_turn(request, response, self.known)

    def inspect_activity(self, response: pb.ActivityResponse) -> None:
        """Mark final failures as non-retriable, for orchestrators of SDKs that respect the mark."""
        if is_final_failure(response.failureDetails.errorType):
            response.failureDetails.isNonRetriable = True


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
