"""Metrics by OTLP: a receiver finds the figures of `/metrics`."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.test_tracing import CONFIG, FLOWS
from tests.kit.daemon import running
from tests.kit.otlp import OtlpReceiver, attributes
from tests.kit.waiting import eventually


async def test_the_figures_of_a_scrape_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        async with running(tmp_path, CONFIG, FLOWS) as it:
            assert it.daemon.tracing is None
            await it.publish("orders", {"id": 1})
            await it.publish("orders", {"no": "id"})
            await it.settled(2)
            text = (await it.daemon.watch.scrape()).decode()

            def executed() -> float:
                found = receiver.metrics.get("bridge_outcomes")
                return sum(
                    point.as_double
                    for point in ([] if found is None else found.sum.data_points)
                    if attributes(point)["outcome"] == "executed"
                )

            await eventually(lambda: executed() == 1.0)
    sent = receiver.metrics
    families = {family.name: family for family in text_string_to_metric_families(text) if family.samples}
    assert families.keys() <= sent.keys()
    for name, family in families.items():
        kind = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}[family.type]
        assert sent[name].WhichOneof("data") == kind
    counter = sent["bridge_received"].sum
    assert counter.is_monotonic
    [point] = counter.data_points
    assert (point.as_double, attributes(point)) == (2.0, {"source": "orders"})
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
    [histogram] = sent["bridge_processing_seconds"].histogram.data_points
    assert (histogram.count, sum(histogram.bucket_counts)) == (2, 2)
    assert len(histogram.bucket_counts) == len(histogram.explicit_bounds) + 1
    assert histogram.sum > 0


async def test_nothing_is_sent_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        async with running(tmp_path, CONFIG, FLOWS) as it:
            await it.publish("orders", {"id": 1})
            await eventually(lambda: receiver.named("process orders"))
    assert receiver.metrics == {}
