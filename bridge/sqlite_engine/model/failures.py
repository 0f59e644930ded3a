"""Size limits of failures, which are cut when they arrive and never refused. Everything accepted can be read again.

The outer two levels keep their messages up to a generous limit, because a rewind recognises by them which step's
failure ended an instance. The failure of a step is cut a little shorter than that of an orchestrator, which repeats it
behind a prefix.

Earlier versions stored failures nested deeper than protobuf reads, and workers in other languages send them. `parse`
removes the levels that are too deep from the bytes of any message before it parses them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

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

MAX_VALUE_NESTING = 8
"""Depth of lists and structures in one property of an error."""

MARK = "truncated"
"""Name of the property that marks a failure that was cut."""

_TRUNCATED = "\n... truncated ...\n"

MAX_NESTING = 60
"""Depth of nested messages that is kept, besides failures."""

_FAILURE = pb.TaskFailureDetails.DESCRIPTOR
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}

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
        _shorten(each, longest, MAX_CAUSE_MESSAGE if level > 1 else MAX_STACK)
        if not each.HasField("innerFailure"):
            return failure
        if level < MAX_LEVELS - 1:
            each = each.innerFailure
    each.ClearField("innerFailure")
    _mark(each)
    return failure


def _shorten(failure: pb.TaskFailureDetails, longest: int, stack: int) -> None:
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


def _is_flat(value: Any) -> bool:
    """True when lists and structures are nested no deeper than MAX_VALUE_NESTING."""
    nested = [value]
    for _ in range(MAX_VALUE_NESTING):
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


def parse(kind: Any, data: bytes) -> Any:
    """Parse a message of this class, cut where it is nested too deeply. Raises: DecodeError."""
    try:
        return kind.FromString(data)
    except DecodeError:
        return kind.FromString(_cut(data, kind.DESCRIPTOR))


def read_event(data: bytes) -> pb.HistoryEvent:
    """Parse a stored HistoryEvent. Raises: DecodeError."""
    event: pb.HistoryEvent = parse(pb.HistoryEvent, data)
    bound_event(event)
    return event


def read_events(data: bytes) -> list[pb.HistoryEvent]:
    """Events of a stored HistoryChunk. Raises: DecodeError."""
    chunk = parse(pb.HistoryChunk, data)
    bound_events(chunk.events)
    return list(chunk.events)


def read_failure(data: bytes) -> pb.TaskFailureDetails:
    """Parse the stored failure of an instance. Raises: DecodeError."""
    return bound(parse(pb.TaskFailureDetails, data), own=True)


def _cut(data: bytes, kind: Descriptor, nesting: int = 0, failures: int = 0) -> bytes:
    """Remove the levels that are nested too deeply. The recursion is no deeper than the kept levels."""
    out: list[bytes] = []
    at, kept = 0, 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in _FIXED:
            at += _FIXED[wire]
        elif wire == _LENGTH_DELIMITED:
            content = at
            size, content = _varint(data, at)
            at = content + size
            field = kind.fields_by_number.get(number)
            inner = None if field is None else field.message_type
            if inner is not None and at <= len(data):
                out.append(data[kept:start])
                kept = at
                deeper = failures + (inner is _FAILURE)
                # One level more than is kept; the cut is then noticed and marked.
                if deeper <= MAX_LEVELS + 1 and nesting - deeper < MAX_NESTING:
                    part = _cut(data[content:at], inner, nesting + 1, deeper)
                    out += (_encoded(tag), _encoded(len(part)), part)
        else:
            raise DecodeError("A group, or no message at all")
    if at > len(data):
        raise DecodeError("The message is cut off")
    out.append(data[kept:])
    return b"".join(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Value of a varint, and the position behind it. Raises: DecodeError."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise DecodeError("A number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
