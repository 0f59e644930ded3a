"""Spans as bytes: OpenTelemetry's own classes read what the bridge writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from bridge.system.spans import (
    CONSUMER,
    SCOPE,
    attribute,
    derived_span_id,
    derived_trace_id,
    export_request,
    link,
    span,
)


def hex_of(size: int) -> some.SearchStrategy[str]:
    """Ids of a length in bytes."""
    return some.binary(min_size=size, max_size=size).map(bytes.hex)


TEXTS = some.text(max_size=300)


@given(
    trace=hex_of(16),
    own=hex_of(8),
    parent=some.none() | hex_of(8),
    name=TEXTS.filter(bool),
    kind=some.integers(1, 5),
    start=some.integers(1, 2**63),
    length=some.integers(-1000, 2**60),
    texts=some.dictionaries(TEXTS.filter(bool), TEXTS | some.integers(0, 2**63 - 1), max_size=5),
    linked=some.none() | some.tuples(hex_of(16), hex_of(8)),
    state=some.none() | TEXTS.filter(bool),
    error=some.booleans(),
)
def test_a_span_is_read_as_it_was_written(
    trace: str,
    own: str,
    parent: str | None,
    name: str,
    kind: int,
    start: int,
    length: int,
    texts: dict[str, str | int],
    linked: tuple[str, str] | None,
    state: str | None,
    error: bool,
) -> None:
    written = span(
        trace,
        own,
        parent,
        name,
        kind,
        start,
        start + length,
        b"".join(attribute(key, value) for key, value in texts.items()),
        links=b"" if linked is None else link(*linked),
        state=state,
        error=error,
    )
    [read] = ScopeSpans.FromString(written).spans
    expected = Span(
        trace_id=bytes.fromhex(trace),
        span_id=bytes.fromhex(own),
        name=name,
        kind=kind,  # type: ignore[arg-type]  # an enum's value
        start_time_unix_nano=start,
        end_time_unix_nano=start + max(0, length),
    )
    if parent is not None:
        expected.parent_span_id = bytes.fromhex(parent)
    if state is not None:
        expected.trace_state = state
    if error:
        expected.status.code = Status.STATUS_CODE_ERROR
    for key, value in texts.items():
        found = expected.attributes.add(key=key).value
        if isinstance(value, str):
            found.string_value = value
        else:
            found.int_value = value
    if linked is not None:
        expected.links.add(trace_id=bytes.fromhex(linked[0]), span_id=bytes.fromhex(linked[1]))
    assert read == expected


def test_spans_of_one_scope_are_concatenated() -> None:
    resource = Resource()
    resource.attributes.add(key="service.name").value.string_value = "shop"
    spans = b"".join(span("0" * 31 + "1", f"{n:016x}", None, f"s{n}", CONSUMER, 1, 2, b"") for n in range(1, 4))
    request = ExportTraceServiceRequest.FromString(export_request(resource.SerializeToString(), "1.2", spans))
    [found] = request.resource_spans
    assert found.resource == resource
    [scope] = found.scope_spans
    assert (scope.scope.name, scope.scope.version) == (SCOPE, "1.2")
    assert [each.name for each in scope.spans] == ["s1", "s2", "s3"]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_replaced(text: str) -> None:
    [read] = ScopeSpans.FromString(
        span("0" * 31 + "1", "0" * 15 + "1", None, text, 1, 1, 1, attribute("k", text))
    ).spans
    assert "?" in read.name
    assert "?" in read.attributes[0].value.string_value


def test_derived_ids_are_stable_and_distinct() -> None:
    assert derived_span_id("e", "activity", 3) == derived_span_id("e", "activity", 3)
    ids = {derived_span_id(f"e{n}", kind, m) for n in range(50) for kind in ("activity", "timer") for m in range(20)}
    assert len(ids) == 2000
    assert {len(each) for each in ids} == {16}
    assert len(derived_trace_id("e")) == 32
    assert derived_trace_id("e") != derived_trace_id("f")
