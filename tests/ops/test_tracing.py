"""Export of spans: what is sent, what waits, what is dropped, and who decides about samples."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.testing import capture_logs

from bridge.app.composition import load_config
from bridge.app.tracing import build_tracing
from bridge.core.errors import ConfigError
from bridge.ops.tracing import Tracing, build, url_of, wanted
from bridge.system.otel_context import current_ids, current_span_id, in_trace
from bridge.system.spans import CONSUMER, span
from tests.kit.otlp import OtlpReceiver
from tests.kit.waiting import eventually_blocking

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED, UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-01", f"00-{TRACE}-b7ad6b7169203331-00"

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
ops: {tracing: TRACING}
"""


def made(number: int) -> bytes:
    return span(b"t" * 16, number.to_bytes(8), None, f"s{number}", CONSUMER, 1, 2, b"")


def tracing_of(receiver: OtlpReceiver, sample: float | None = 1.0, max_buffered: int = 100) -> Tracing:
    return build(f"{receiver.url}/v1/traces", sample, "1.0", max_buffered=max_buffered, max_age=60.0)


def test_spans_in_memory_are_bounded_and_sent_when_the_receiver_is_back() -> None:
    with OtlpReceiver() as receiver, capture_logs() as logs:
        receiver.status = 503
        tracing = tracing_of(receiver)
        tracing.start()
        for number in range(1, 251):
            tracing.emit(made(number))
        eventually_blocking(lambda: tracing.away)
        assert tracing.away == "HTTP status 503"
        assert tracing.waiting["memory"] == 100
        assert tracing.losses == {"buffer": 150}
        receiver.status = 200
        eventually_blocking(lambda: tracing.sent == 100)
        assert (tracing.away, tracing.waiting["memory"]) == (None, 0)
        tracing.stop(5.0)
    assert sorted(span.name for span in receiver.spans()) == sorted(f"s{number}" for number in range(1, 101))
    events = [line["event"] for line in logs]
    assert [event.partition(" to http")[0] for event in events] == ["traces cannot be sent", "traces are sent"]


def test_nobody_listens() -> None:
    with OtlpReceiver() as receiver:
        pass
    tracing = tracing_of(receiver)
    tracing.start()
    tracing.emit(made(1))
    eventually_blocking(lambda: tracing.away)
    assert tracing.away == "ConnectionError"
    tracing.stop(10.0)


def test_refused_spans_are_dropped_and_counted() -> None:
    with OtlpReceiver() as receiver:
        receiver.status = 400
        tracing = tracing_of(receiver)
        tracing.start()
        tracing.emit(made(1))
        eventually_blocking(lambda: tracing.losses.get("refused") == 1)
        assert (tracing.away, tracing.waiting["memory"], tracing.sent) == (None, 0, 0)
        tracing.stop(5.0)


def test_the_last_spans_are_sent_at_the_stop() -> None:
    with OtlpReceiver() as receiver:
        tracing = tracing_of(receiver)
        tracing.start()
        tracing.emit(made(7))
        tracing.stop(10.0)
        assert [span.name for span in receiver.spans()] == ["s7"]


@pytest.mark.parametrize(
    ("sampler", "parent", "expected"),
    [
        (ParentBasedTraceIdRatio(0.0), None, False),
        (ParentBasedTraceIdRatio(0.0), SAMPLED, True),
        (ParentBasedTraceIdRatio(1.0), None, True),
        (ParentBasedTraceIdRatio(1.0), UNSAMPLED, False),
        (TraceIdRatioBased(0.0), SAMPLED, False),
        (TraceIdRatioBased(1.0), UNSAMPLED, True),
        (ALWAYS_OFF, SAMPLED, False),
    ],
)
def test_a_sampler_decides_as_in_the_sdk(sampler: Any, parent: str | None, expected: bool) -> None:
    with OtlpReceiver() as receiver:
        tracing = tracing_of(receiver)
        other = Tracing(tracing._receiver, sampler, tracing.resource, "1", max_buffered=1000, max_age=60.0)
    assert other.samples(TRACE, parent, "process orders") is expected


@pytest.mark.parametrize(
    ("endpoint", "environment", "expected"),
    [
        (None, {}, None),
        ("http://c:4318/", {}, "http://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://c/x"),
        ("http://c:4318", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/x"}, "http://c:4318/v1/traces"),
        ("http://c:4318", {"OTEL_SDK_DISABLED": "True"}, None),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "none"}, None),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "console"}, None),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "otlp"}, "http://c:4318/v1/traces"),
    ],
)
def test_the_receiver_by_settings_and_environment(
    endpoint: str | None, environment: dict[str, str], expected: str | None
) -> None:
    assert wanted(endpoint, environment) == expected


def test_the_receiver_of_metrics() -> None:
    assert url_of("metrics", None, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m"}) == "http://m"
    assert url_of("metrics", "http://c", {}) == "http://c/v1/metrics"


def test_a_configuration_that_needs_the_extra_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "bridge.yaml"
    for settings, field in (("{enabled: true}", "enabled"), ('{endpoint: "http://c:4318"}', "endpoint")):
        path.write_text(CONFIG.replace("TRACING", settings))
        with pytest.raises(ConfigError) as caught:
            build_tracing(load_config([path]))
        [problem] = caught.value.problems
        assert problem.path == f"ops.tracing.{field}"
        assert "'opentelemetry-sdk" in str(problem)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    path.write_text(CONFIG.replace("TRACING", "{}"))
    assert build_tracing(load_config([path])) is None


def test_traces_that_are_turned_off_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("TRACING", "{enabled: false}"))
    assert build_tracing(load_config([tmp_path / "bridge.yaml"])) is None


def test_user_code_finds_the_span_that_it_runs_in() -> None:
    from bridge.core.trace_context import TraceContext

    assert current_ids() is None
    with in_trace(TraceContext(SAMPLED, "shop=1")):
        assert current_ids() == (TRACE, "b7ad6b7169203331")
        assert current_span_id(TRACE) == "b7ad6b7169203331"
        assert current_span_id("1" * 32) is None
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        assert carrier == {"traceparent": SAMPLED, "tracestate": "shop=1"}
    assert current_ids() is None
