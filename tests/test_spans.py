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
    export_request,
    link,
    part_of,
    span,
    span_id_of,
    trace_id_of,
)


def ids(size: int) -> some.SearchStrategy[bytes]:
    """Ids of a length in bytes."""
    return some.binary(min_size=size, max_size=size)


TEXTS = some.text(max_size=300)


@given(
    trace=ids(16),
    own=ids(8),
    parent=some.none() | ids(8),
    name=TEXTS.filter(bool),
    kind=some.integers(1, 5),
    start=some.integers(1, 2**63),
    length=some.integers(-1000, 2**60),
    texts=some.dictionaries(TEXTS.filter(bool), TEXTS | some.integers(0, 2**63 - 1), max_size=5),
    linked=some.none() | some.tuples(ids(16), ids(8)),
    state=some.none() | TEXTS.filter(bool),
    error=some.booleans(),
)
def test_a_span_is_read_as_it_was_written(
    trace: bytes,
    own: bytes,
    parent: bytes | None,
    name: str,
    kind: int,
    start: int,
    length: int,
    texts: dict[str, str | int],
    linked: tuple[bytes, bytes] | None,
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
        trace_id=trace,
        span_id=own,
        name=name,
        kind=kind,  # type: ignore[arg-type]  # an enum's value
        start_time_unix_nano=start,
        end_time_unix_nano=start + max(0, length),
    )
    if parent is not None:
        expected.parent_span_id = parent
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
        expected.links.add(trace_id=linked[0], span_id=linked[1])
    assert read == expected


def test_spans_of_one_scope_are_concatenated() -> None:
    resource = Resource()
    resource.attributes.add(key="service.name").value.string_value = "shop"
    spans = b"".join(span(b"t" * 16, bytes((n,)) * 8, None, f"s{n}", CONSUMER, 1, 2, b"") for n in range(1, 4))
    request = ExportTraceServiceRequest.FromString(export_request(resource.SerializeToString(), "1.2", spans))
    [found] = request.resource_spans
    assert found.resource == resource
    [scope] = found.scope_spans
    assert (scope.scope.name, scope.scope.version) == (SCOPE, "1.2")
    assert [each.name for each in scope.spans] == ["s1", "s2", "s3"]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_lone_surrogates_are_replaced(text: str) -> None:
    [read] = ScopeSpans.FromString(span(b"t" * 16, b"s" * 8, None, text, 1, 1, 1, attribute("k", text))).spans
    assert "?" in read.name
    assert "?" in read.attributes[0].value.string_value


def test_ids_of_parts_are_stable_and_distinct() -> None:
    executions = [span_id_of(f"execution-{number}") for number in range(20)]
    ids = {part_of(own, kind, number) for own in executions for kind in range(1, 7) for number in range(200)}
    assert len(ids | set(executions)) == 20 * 6 * 200 + 20
    assert part_of(span_id_of("e"), 2, 7) == part_of(span_id_of("e"), 2, 7)
    assert {len(each) for each in ids} == {8}


@given(numbers=some.sets(some.integers(0, 2**48), min_size=2, max_size=50))
def test_no_two_parts_of_an_execution_share_an_id(numbers: set[int]) -> None:
    assert len({part_of(b"execution"[:8], 3, number) for number in numbers}) == len(numbers)


def test_the_trace_of_an_execution_is_its_id_where_that_has_the_form() -> None:
    assert trace_id_of("0af7651916cd43dd8448eb211c80319c").hex() == "0af7651916cd43dd8448eb211c80319c"
    for other in ("0" * 32, "short", "x" * 32):
        assert len(trace_id_of(other)) == 16
        assert any(trace_id_of(other))
