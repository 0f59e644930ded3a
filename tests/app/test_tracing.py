"""Spans of a daemon, as a receiver of OTLP gets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import EngineTracer
from tests.kit.daemon import DaemonFixture, headers, running
from tests.kit.openmetrics import families
from tests.kit.otlp import OtlpReceiver, attributes
from tests.kit.waiting import TIMEOUT, eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"

FLOWS = """
from bridge.workflow import publish
from durabletask import task


def order(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", order, type="order.closed")
    return "closed"
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    when: has(payload.id)
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
"""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setattr("bridge.ops.tracing.DELAY", 0.02)
        yield found


async def test_a_message_and_its_publication_are_spans_of_the_senders_trace(
    tmp_path: Path, receiver: OtlpReceiver
) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"id": 1}, traceparent=PARENT, tracestate="shop=1")
        [published] = await it.read("results", 1)
        await eventually(lambda: receiver.named("process orders") and receiver.named("send results"))
    process, send = receiver.find("process orders"), receiver.find("send results")
    assert process.trace_id.hex() == send.trace_id.hex() == TRACE
    assert process.parent_span_id.hex() == "b7ad6b7169203331"
    assert (process.kind, send.kind) == (Span.SPAN_KIND_CONSUMER, Span.SPAN_KIND_PRODUCER)
    assert (process.trace_state, send.trace_state) == ("shop=1", "shop=1")
    assert process.start_time_unix_nano < process.end_time_unix_nano
    found = attributes(process)
    assert (
        found.items()
        >= {
            "messaging.system": "durable_bridge",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders",
            "bridge.source": "orders",
            "bridge.route": "start",
            "bridge.outcome": "executed",
        }.items()
    )
    assert {"bridge.config.version", "messaging.destination.partition.id"} <= found.keys()
    assert found["messaging.message.id"]
    assert headers(published)["traceparent"] == f"00-{TRACE}-{send.span_id.hex()}-01"
    assert attributes(send)["messaging.destination.name"] == "results"
    assert attributes(send)["bridge.target"] == "results"
    assert receiver.resources[0]["service.name"] == "durable-bridge"


async def test_a_message_without_a_trace_begins_one(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"id": 1})
        [published] = await it.read("results", 1)
        await eventually(lambda: receiver.named("process orders") and receiver.named("send results"))
    process = receiver.find("process orders")
    assert not process.parent_span_id
    assert headers(published)["traceparent"].split("-")[1] == process.trace_id.hex()


async def test_what_the_sender_did_not_sample_is_not_sampled(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"id": 1}, traceparent=UNSAMPLED)
        [published] = await it.read("results", 1)
        await it.publish("orders", {"id": 2}, traceparent=PARENT)
        await eventually(lambda: receiver.named("process orders"))
    assert headers(published)["traceparent"].endswith("-00")
    assert len(receiver.named("process orders")) == 1
    assert attributes(receiver.find("process orders"))["messaging.message.id"]


async def test_a_dead_letter_is_an_error_with_its_reason(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"no": "id"}, traceparent=PARENT)
        await it.settled(1)
        await eventually(lambda: receiver.named("process orders"))
    process = receiver.find("process orders")
    assert process.status.code == Status.STATUS_CODE_ERROR
    assert not process.status.message
    found = attributes(process)
    assert (found["bridge.outcome"], found["bridge.reason"], found["error.type"]) == (
        "dead_lettered",
        "no_route",
        "no_route",
    )


async def test_a_message_that_cannot_be_decoded_has_a_span_too(tmp_path: Path, receiver: OtlpReceiver) -> None:
    schema = CONFIG.replace("codec: json,", "codec: cloudevents,")
    async with running(tmp_path, schema, FLOWS) as it:
        await it.publish("orders", {"no": "event"}, traceparent=PARENT)
        await it.settled(1)
        await eventually(lambda: receiver.named("process orders"))
    process = receiver.find("process orders")
    assert process.trace_id.hex() == TRACE
    assert attributes(process)["bridge.outcome"] == "dead_lettered"


async def test_links_begin_a_trace_per_message(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        it.daemon.sources[0].runner._tracing._links = True  # as `ops.tracing.parent: link`
        await it.publish("orders", {"id": 1}, traceparent=PARENT)
        [published] = await it.read("results", 1)
        await eventually(lambda: receiver.named("process orders"))
    process = receiver.find("process orders")
    assert process.trace_id.hex() != TRACE
    assert not process.parent_span_id
    [link] = process.links
    assert (link.trace_id.hex(), link.span_id.hex()) == (TRACE, "b7ad6b7169203331")
    assert headers(published)["traceparent"].split("-")[1] == process.trace_id.hex()


@pytest.mark.parametrize(
    "off", [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "")]
)
async def test_traces_are_off(
    tmp_path: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, off: tuple[str, str]
) -> None:
    monkeypatch.setenv(*off)
    async with running(tmp_path, CONFIG, FLOWS) as it:
        assert it.daemon.tracing is None
        await it.publish("orders", {"id": 1}, traceparent=PARENT)
        [published] = await it.read("results", 1)
    assert headers(published)["traceparent"].startswith(f"00-{TRACE}-")
    assert receiver.requests == 0


async def test_a_position_is_found_with_traces_on(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS, broker="{type: local, partitions: 1}") as it:
        await it.publish("orders", {"id": 7}, traceparent=PARENT)
        await it.settled(1)
        found = await EngineTracer(it.daemon.engines["default"]).find("orders/0@0", SearchScope())
    assert [one.instance_id for one in found.instances] == ["order-7"]
    [answer] = found.answers
    assert (answer.position or "").endswith("/orders/0@0")


async def test_durations_have_traces_as_exemplars(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"id": 8}, traceparent=UNSAMPLED)
        await it.client.wait_for_orchestration_completion("order-8", timeout=TIMEOUT)
        assert not await _exemplars(it), "a trace that is not sampled is no example"
        await it.publish("orders", {"id": 9}, traceparent=PARENT)
        await it.client.wait_for_orchestration_completion("order-9", timeout=TIMEOUT)
        await it.settled(2)
        found = await _exemplars(it)
    assert found == {
        "bridge_processing_seconds": {TRACE},
        "bridge_end_to_end_seconds": {TRACE},
        "bridge_orchestration_seconds": {TRACE},
        "bridge_activity_seconds": {TRACE},
    }


async def _exemplars(it: DaemonFixture) -> dict[str, set[str]]:
    async with aiohttp.ClientSession() as http:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        async with http.get(f"{it.daemon.url}/metrics", headers=accept) as response:
            text = await response.text()
    found: dict[str, set[str]] = {}
    for family in families(text):
        for sample in family.samples:
            if sample.exemplar:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    return found
