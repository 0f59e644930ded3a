"""Size limits of failures, which are cut when they arrive and never refused. Everything accepted can be read again.

The outer two levels keep their messages up to a generous limit, because a rewind recognises by them which step's
failure ended an instance. The failure of a step is cut a little shorter than that of an orchestrator, which repeats it
behind a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

MAX_LEVELS = 32
"""Largest depth of nested failures. Protobuf reads at most 100 nested messages."""

MAX_TYPE = 1024
"""Characters of an error's type."""

MAX_MESSAGE = 64 * 1024
"""Characters of the message of a step's failure, and of its cause."""

PREFIX = 2 * 1024
"""Additional characters of the message of an orchestrator's own failure."""

MAX_CAUSE_MESSAGE = 4 * 1024
"""Characters of the message of a deeper cause."""

MAX_STACK = 32 * 1024
"""Characters of a stack trace. The stack trace of a deeper cause has the limit of its message."""

MAX_PROPERTIES = 16 * 1024
"""Bytes of an error's properties."""

MARK = "truncated"
"""Name of the property that marks a failure that was cut."""

_TRUNCATED = "\n... truncated ...\n"

EVENTS = frozenset(
    field.name
    for field in pb.HistoryEvent.DESCRIPTOR.fields
    if field.message_type is not None and "failureDetails" in field.message_type.fields_by_name
)
"""History events that contain a failure."""


def bound(failure: pb.TaskFailureDetails, *, own: bool = False) -> pb.TaskFailureDetails:
    """Cut the failure in place, and return it. Idempotent. own: True for the failure of an orchestrator."""
    each = failure
    for level in range(MAX_LEVELS):
        longest = MAX_CAUSE_MESSAGE if level > 1 else MAX_MESSAGE + PREFIX if own and level == 0 else MAX_MESSAGE
        _cut(each, longest, MAX_CAUSE_MESSAGE if level > 1 else MAX_STACK)
        if not each.HasField("innerFailure"):
            return failure
        if level < MAX_LEVELS - 1:
            each = each.innerFailure
    each.ClearField("innerFailure")
    _mark(each)
    return failure


def _cut(failure: pb.TaskFailureDetails, longest: int, stack: int) -> None:
    """Cut one level of a failure, without its cause."""
    if len(failure.errorType) > MAX_TYPE:
        failure.errorType = failure.errorType[:MAX_TYPE]
        _mark(failure)
    if len(failure.errorMessage) > longest:
        failure.errorMessage = _ends(failure.errorMessage, longest)
        _mark(failure)
    if len(failure.stackTrace.value) > stack:
        failure.stackTrace.value = _ends(failure.stackTrace.value, stack)
        _mark(failure)
    if failure.properties and not _fits(failure):
        failure.ClearField("properties")
        _mark(failure)


def _ends(text: str, longest: int) -> str:
    """First and last lines of a text, within the limit in characters."""
    half = (longest - len(_TRUNCATED)) // 2
    first, last = text[:half], text[-half:]
    # Cut at whole lines where there are some; half a stack frame only confuses.
    first = first[: first.rfind("\n")] if "\n" in first[half // 2 :] else first
    last = last[last.find("\n") + 1 :] if "\n" in last[: half // 2] else last
    return f"{first}{_TRUNCATED}{last}"


def _fits(failure: pb.TaskFailureDetails) -> bool:
    """False for properties that are too large or too deeply nested."""
    size = 0
    for name, value in failure.properties.items():
        if value.WhichOneof("kind") in ("struct_value", "list_value") and not _is_flat(value):
            return False
        size += len(name.encode()) + int(value.ByteSize())
    return size <= MAX_PROPERTIES


def _is_flat(value: Any, levels: int = 8) -> bool:
    """True when lists and structures are nested no deeper than `levels`."""
    nested = [value]
    for _ in range(levels):
        nested = [
            each
            for outer in nested
            for each in (
                outer.list_value.values if outer.HasField("list_value") else outer.struct_value.fields.values()
            )
            if each.HasField("list_value") or each.HasField("struct_value")
        ]
        if not nested:
            return True
    return False


def _mark(failure: pb.TaskFailureDetails) -> None:
    failure.properties[MARK].bool_value = True


def bound_event(event: pb.HistoryEvent) -> None:
    """Cut the failure of a history event in place, if it has one."""
    kind = event.WhichOneof("eventType")
    if kind in EVENTS:
        holder = getattr(event, str(kind))
        if holder.HasField("failureDetails"):
            bound(holder.failureDetails, own=kind == "executionCompleted")


def bound_events(events: Iterable[pb.HistoryEvent]) -> None:
    for event in events:
        bound_event(event)


def bound_turn(response: pb.OrchestratorResponse) -> None:
    """Cut all failures of an orchestrator's response in place."""
    for action in response.actions:
        kind = action.WhichOneof("orchestratorActionType")
        if kind == "completeOrchestration":
            completion = action.completeOrchestration
            bound_events(completion.carryoverEvents)
            if completion.HasField("failureDetails"):
                bound(completion.failureDetails, own=True)
        elif kind == "rewindOrchestration":
            bound_events(action.rewindOrchestration.newHistory)
