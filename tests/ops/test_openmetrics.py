"""OpenMetrics 1.0 of /metrics, read by the parser of the library, with the traces of durations as exemplars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest
from prometheus_client import ProcessCollector
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.samples import Sample

from bridge.config.model.bridge import HttpConfig
from bridge.core.histogram import Histogram
from bridge.core.states import DaemonState, EngineState
from bridge.ops.health import Check, Readiness
from bridge.ops.metrics import CONTENT_TYPE, OPENMETRICS, Metrics, chosen_type
from bridge.ops.web import Web
from tests.kit.openmetrics import families
from tests.ops.test_metrics import Engine, Limit, Stats, Workflows

TRACE = "0af7651916cd43dd8448eb211c80319c"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""Accept header of Prometheus 3."""


def parsed(text: bytes) -> dict[str, list[Sample]]:
    return {family.name: list(family.samples) for family in families(text.decode())}


def exemplars(samples: Iterable[Sample]) -> dict[str, tuple[dict[str, str], float]]:
    return {each.labels["le"]: (each.exemplar.labels, each.exemplar.value) for each in samples if each.exemplar}


def everything(stats: Stats) -> Metrics:
    workflows = Workflows(
        orchestrations={("order", "completed"): Histogram()}, activities={("charge", "failed"): Histogram()}
    )
    return Metrics(
        lambda: [stats, Stats("payments")],
        lambda: [Engine(requests={("start", "ok"): Histogram()})],
        limits=[Limit()],
        answers=lambda: {"default": {"accepted": 1}},
        workflows=lambda: workflows,
        readiness=lambda: Readiness(DaemonState.RUNNING, (Check("engine", "default", EngineState.UP),)),
        process=ProcessCollector(registry=None),
        version="1",
        config='a"b\\c',
    )


def test_every_metric_is_valid_openmetrics_and_has_the_same_value_as_in_the_plain_format() -> None:
    stats = Stats(outcomes={"executed": 5}, dead_letters={"decode_error": 2}, commits=(4, 0.5))
    stats.processing.observe(0.002)
    metrics = everything(stats)
    text = metrics.render(openmetrics=True)
    assert text.endswith(b"# EOF\n")

    def values(found: Iterable[Any]) -> dict[tuple[str, frozenset[Any]], float]:
        samples = [sample for family in found for sample in family.samples]
        return {
            (each.name, frozenset(each.labels.items())): each.value for each in samples if "process_" not in each.name
        }

    expected = values(plain(metrics.render().decode()))
    assert values(families(text.decode())) == expected
    assert len(expected) > 100


def test_buckets_have_the_newest_trace_as_exemplar() -> None:
    stats = Stats()
    for seconds, trace in ((0.002, "a" * 32), (0.0021, TRACE), (9999.0, "b" * 32)):
        stats.processing.observe(seconds)
        stats.processing.example(seconds, trace, 1_700_000_000.5)
    stats.processing.observe(0.2)
    found = parsed(everything(stats).render(openmetrics=True))
    assert exemplars(
        each for each in found["bridge_processing_seconds"] if each.labels["source"] == "orders" and "le" in each.labels
    ) == {
        "0.0025": ({"trace_id": TRACE}, 0.0021),
        "+Inf": ({"trace_id": "b" * 32}, 9999.0),
    }
    assert not exemplars(each for each in found["bridge_end_to_end_seconds"] if "le" in each.labels)


def test_the_plain_format_does_not_change() -> None:
    with_traces, without = Stats(), Stats()
    for each in (with_traces, without):
        each.processing.observe(0.002)
    with_traces.processing.example(0.002, TRACE, 1_700_000_000.5)

    def text(stats: Stats) -> bytes:
        return Metrics(lambda: [stats], list, version="1", config="c").render()

    assert text(with_traces) == text(without)
    assert TRACE.encode() not in text(with_traces)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", CONTENT_TYPE),
        ("*/*", CONTENT_TYPE),
        ("text/html,application/xhtml+xml,*/*;q=0.8", CONTENT_TYPE),
        (PROMETHEUS, OPENMETRICS),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8", OPENMETRICS),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.9", OPENMETRICS),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.5", CONTENT_TYPE),
        ("text/plain, application/openmetrics-text", CONTENT_TYPE),
        ("application/openmetrics-text, text/plain", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", CONTENT_TYPE),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", CONTENT_TYPE),
        ("application/openmetrics-text;q=0", CONTENT_TYPE),
        ("application/openmetrics-text;q=x,;;,=", CONTENT_TYPE),
        ("application/openmetrics-text;q=nan", CONTENT_TYPE),
    ],
)
def test_the_accept_header_chooses(accept: str, expected: str) -> None:
    assert chosen_type(accept) == expected


async def test_the_port_answers_what_is_asked_for() -> None:
    stats = Stats()
    stats.processing.observe(0.002)
    stats.processing.example(0.002, TRACE, 1_700_000_000.5)
    metrics = Metrics(lambda: [stats], list, version="1", config="c")
    web = Web(HttpConfig(port=0), lambda: Readiness(DaemonState.RUNNING, ()), metrics.scrape)
    await web.start()
    try:
        async with aiohttp.ClientSession() as http:
            for accept, kind in ((PROMETHEUS, OPENMETRICS), ("text/plain", CONTENT_TYPE)):
                async with http.get(f"{web.url}/metrics", headers={"Accept": accept}) as response:
                    assert response.headers["Content-Type"] == kind
                    assert response.headers["Vary"] == "Accept"
                    body = await response.read()
                    assert body == await metrics.scrape(openmetrics=kind == OPENMETRICS)
            assert parsed(await metrics.scrape(openmetrics=True))
    finally:
        await web.stop()
