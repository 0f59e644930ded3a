"""Parsing of stored and received messages, including those nested deeper than protobuf reads.

Earlier versions stored failures nested so deeply, and workers in other languages send them. Levels that are too deep
are removed from the bytes before the bytes are parsed.
"""

from __future__ import annotations

from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from bridge.sqlite_engine.model.failures import MAX_LEVELS, bound, bound_event, bound_events

MAX_NESTING = 60
"""Depth of nested messages that is kept, besides failures."""

_FAILURE = pb.TaskFailureDetails.DESCRIPTOR
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}


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
