"""Spans in the wire format of OTLP (https://opentelemetry.io/docs/specs/otlp/), and ids derived from names. Pure.

The bridge makes spans for every message and every step of a workflow. Span objects of OpenTelemetry's SDK cost about
50 microseconds each; bytes with prepared attributes cost a few.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = range(1, 6)
"""Kinds of spans."""

SCOPE = "durable-bridge"
"""Name of the tracer, and the default service name."""

_FIXED = struct.Struct("<Q").pack
_SHORT = [bytes((number,)) for number in range(128)]
_KINDS = [b""] + [b"\x30" + _SHORT[kind] for kind in range(1, 6)]
_ERROR = b"\x7a\x02\x18\x02"
"""Status with the code ERROR and without a text, which could contain payload."""


def _varint(number: int) -> bytes:
    if number < 128:
        return _SHORT[number]
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _field(tag: bytes, content: bytes) -> bytes:
    """Field with a length."""
    return tag + _varint(len(content)) + content


def attribute(key: str, value: str | int) -> bytes:
    """Attribute of a span. A text that is not valid Unicode loses its lone surrogates."""
    if isinstance(value, str):
        inner = _field(b"\x0a", value.encode("utf-8", "replace"))
    else:
        inner = b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    return _field(b"\x4a", _field(b"\x0a", key.encode()) + _field(b"\x12", inner))


known_attribute = lru_cache(2048)(attribute)
"""`attribute` with a cache, for values that recur: names of the configuration and of code."""


@lru_cache(2048)
def name_field(name: str) -> bytes:
    """Name of a span, encoded."""
    return _field(b"\x2a", name.encode("utf-8", "replace"))


def link(trace_id: bytes, span_id: bytes) -> bytes:
    """Link to another span."""
    return _field(b"\x6a", b"\x0a\x10" + trace_id + b"\x12\x08" + span_id)


def span(
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes | None,
    name: str,
    kind: int,
    start: int,
    end: int,
    attributes: bytes,
    *,
    links: bytes = b"",
    state: str | None = None,
    error: bool = False,
) -> bytes:
    """Span as a member of OTLP's ScopeSpans: spans of one scope are simply concatenated.

    Times are nanoseconds since the Unix epoch. A span that ends before its start, because the clock
    was set back, ends at its start.
    """
    body = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span_id,
            b"" if state is None else _field(b"\x1a", state.encode()),
            b"" if parent_id is None else b"\x22\x08" + parent_id,
            name_field(name),
            _KINDS[kind],
            b"\x39",
            _FIXED(start),
            b"\x41",
            _FIXED(max(start, end)),
            attributes,
            links,
            _ERROR if error else b"",
        )
    )
    return _field(b"\x12", body)


def export_request(resource: bytes, version: str, spans: bytes) -> bytes:
    """ExportTraceServiceRequest with the spans. resource: a serialized Resource message."""
    scope = _field(b"\x0a", SCOPE.encode()) + _field(b"\x12", version.encode())
    scope_spans = _field(b"\x0a", scope) + spans
    return _field(b"\x0a", _field(b"\x0a", resource) + _field(b"\x12", scope_spans))


def span_id_of(execution: str) -> bytes:
    """Span id of an execution."""
    return hashlib.blake2b(execution.encode(), digest_size=8, person=b"span").digest()


def part_of(span_id: bytes, kind: int, number: int = 0) -> bytes:
    """Span id of a part of an execution. span_id: of the execution. kind: from 1 to 255. number: below 2**48.

    The same part always has the same id, and different parts of one execution have different ones.
    """
    part = (kind << 56) | (number * _ODD & _PARTS)
    return (int.from_bytes(span_id) ^ part).to_bytes(8)


_PARTS = 2**56 - 1
_ODD = 0x9E3779B97F4A7D
"""Odd, so that multiplication by it modulo 2**56 gives each number another product."""


def trace_id_of(execution: str) -> bytes:
    """Trace id of an execution that nothing with a trace has started: the execution's id, where that has the form."""
    try:
        found = bytes.fromhex(execution)
    except ValueError:
        found = b""
    if len(found) == 16 and any(found):
        return found
    return hashlib.blake2b(execution.encode(), digest_size=16, person=b"trace").digest()
