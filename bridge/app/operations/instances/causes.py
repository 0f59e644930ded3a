"""Cause of a failed instance: the failure of the activity or child that it did not handle, and its place in code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import FailureDetails, TaskFailedError

from bridge.core.errors import EngineError
from bridge.core.user_code.frames import StackFrame, frames, own_frame
from bridge.engines.client import EngineClient
from bridge.sqlite_engine.model.instance import last_failed

MAX_DEPTH = 10
"""Most children that are followed to the activity that failed."""


@dataclass(frozen=True, slots=True)
class FailureCause:
    """Failure that ended an instance, or failed its saga.

    instance_id: of the instance whose code or activity failed.
    document: the failure, as of `failure`.
    """

    instance_id: str
    document: dict[str, Any]

    @property
    def frames(self) -> Sequence[StackFrame]:
        """Frames of its stack trace, the innermost last; empty for the trace of another language."""
        return frames(self.document["stack_trace"])

    @property
    def frame(self) -> str:
        """Place in the user's code, `FILE:LINE FUNCTION`; empty when it is unknown."""
        found = own_frame(self.frames)
        return "" if found is None else str(found)


async def cause_of(
    client: EngineClient, instance_id: str, own: dict[str, Any] | None, reason: str | None
) -> FailureCause | None:
    """Find the cause of a failure; None without a failure. Reads the history when a task failed.

    own: failure of the instance itself, as of `failure`. reason: reason of the failure of its saga.
    An engine that does not return the history leaves the failure of the instance itself.
    """
    itself = None if own is None else FailureCause(instance_id, own)
    caused = reason == "failed" if own is None else own["type"].endswith(TaskFailedError.__name__)
    if not caused:
        return itself
    try:
        return await _task(client, instance_id, MAX_DEPTH) or itself
    except EngineError:
        return itself


async def _task(client: EngineClient, instance_id: str, depth: int) -> FailureCause | None:
    """Last failure of a task in the history; of a child, the failure of its own task."""
    history = await client.get_protocol_history(instance_id)
    event = last_failed(history)
    if event is None:
        return None
    if event.HasField("taskFailed"):
        return FailureCause(instance_id, _document(event.taskFailed.failureDetails))
    details = event.subOrchestrationInstanceFailed.failureDetails
    number = event.subOrchestrationInstanceFailed.taskScheduledId
    created = (one for one in history if one.HasField("subOrchestrationInstanceCreated"))
    child = next((one for one in created if one.eventId == number), None)
    if child is not None and depth and details.errorType.endswith(TaskFailedError.__name__):
        found = await _task(client, child.subOrchestrationInstanceCreated.instanceId, depth - 1)
        if found is not None:
            return found
    return FailureCause(instance_id, _document(details))


def _document(details: pb.TaskFailureDetails) -> dict[str, Any]:
    found = failure(FailureDetails(details.errorMessage, details.errorType, details.stackTrace.value or None))
    assert found is not None
    return found


def failure(details: FailureDetails | None) -> dict[str, Any] | None:
    """Type, message, stack trace and cause of a failure, as JSON."""
    if details is None:
        return None
    document = {"type": details.error_type, "message": details.message, "stack_trace": details.stack_trace}
    inner = failure(details.inner_failure)
    return document | {"cause": inner} if inner else document
