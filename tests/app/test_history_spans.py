"""Spans that the embedded engine makes of its histories, as a receiver of OTLP gets them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.options import TracingOptions
from tests.kit.daemon import running
from tests.kit.otlp import OtlpReceiver, attributes, tree
from tests.kit.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
OTHER = "11111111111111111111111111111111"

FLOWS = """
from datetime import timedelta

from bridge.workflow import publish
from durabletask import task
from opentelemetry import trace

SEEN = {}


def note(ctx: task.ActivityContext, name):
    SEEN[name] = trace.get_current_span().get_span_context()
    if name == "fail":
        raise ValueError("secret text")
    return name


def child(ctx: task.OrchestrationContext, name):
    return (yield ctx.call_activity(note, input=name))


def order(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(note, input="first")
    yield ctx.call_sub_orchestrator(child, input="in child")
    yield ctx.create_timer(timedelta(milliseconds=5))
    yield ctx.wait_for_external_event("paid")
    try:
        yield ctx.call_activity(note, input="fail")
    except task.TaskFailedError:
        yield ctx.call_activity(note, input="undo")
    yield publish(ctx, "results", order, type="order.closed")
    if order.get("again"):
        ctx.continue_as_new({**order, "again": False})
        return
    if order.get("fail"):
        raise RuntimeError("secret text")
    return "closed"


def endless(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(note, input="first")
    yield task.when_all([ctx.wait_for_external_event("never"), ctx.create_timer(timedelta(days=1))])
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
routes:
  - {name: pay, from: orders, when: has(payload.pay), raise_event: {instance_id: "{{ payload.pay }}", name: paid}}
  - {name: stop, from: orders, when: has(payload.stop), terminate: {instance_id: "{{ payload.stop }}"}}
""" + "".join(
    f"""
  - name: {name}
    from: orders
    when: payload.flow == "{name}"
    schedule: {{orchestration: {name}, instance_id: "{{{{ payload.id }}}}", input: payload}}
"""
    for name in ("order", "child", "endless")
)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setattr("bridge.ops.tracing.DELAY", 0.02)
        yield found


async def test_the_whole_tree_of_an_order(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"flow": "order", "id": "o-1"}, traceparent=PARENT)
        await eventually(lambda: receiver.named("orchestration:order:timer"))
        await it.publish("orders", {"pay": "o-1"}, traceparent=f"00-{OTHER}-b7ad6b7169203332-01")
        await eventually(lambda: receiver.named("orchestration:order") and len(receiver.named("process orders")) == 2)
        await eventually(lambda: receiver.named("send results"))
    spans = receiver.spans()
    assert all(len(contents) == 1 for contents in receiver.contents.values())
    assert tree([span for span in spans if span.trace_id.hex() == TRACE]) == {
        "b7ad6b7169203331": ["process orders"],
        "process orders": ["create_orchestration:order"],
        "create_orchestration:order": ["orchestration:order"],
        "orchestration:order": [
            "activity:bridge.publish",
            "activity:note",
            "activity:note",
            "activity:note",
            "orchestration:child",
            "orchestration:order:timer",
            "orchestration:order:wait",
        ],
        "orchestration:child": ["activity:note", "orchestration:child"],
        "activity:bridge.publish": ["send results"],
    }
    assert tree([span for span in spans if span.trace_id.hex() == OTHER]) == {
        "b7ad6b7169203332": ["process orders"],
        "process orders": ["orchestration_event:paid"],
    }
    order = receiver.find("orchestration:order")
    assert (order.kind, attributes(order)) == (
        Span.SPAN_KIND_SERVER,
        {
            "durabletask.type": "orchestration",
            "durabletask.task.name": "order",
            "durabletask.task.instance_id": "o-1",
            "durabletask.task.status": "Completed",
        },
    )
    event = receiver.find("orchestration_event:paid")
    assert attributes(event)["durabletask.event.target_instance_id"] == "o-1"
    [link] = event.links
    assert link.span_id == order.span_id
    wait = receiver.find("orchestration:order:wait")
    assert attributes(wait)["durabletask.event.name"] == "paid"
    [link] = wait.links
    assert link.span_id == event.span_id
    assert wait.start_time_unix_nano < wait.end_time_unix_nano
    activities = receiver.named("activity:note")
    failed = [span for span in activities if span.status.code == Status.STATUS_CODE_ERROR]
    assert [attributes(span)["error.type"] for span in failed] == ["ValueError"]
    assert "secret" not in repr(spans)


async def test_user_code_runs_in_the_span_of_its_activity(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"flow": "order", "id": "o-1"}, traceparent=PARENT)
        await eventually(lambda: len(receiver.named("activity:note")) == 2)
        [module] = {each.__module__ for each in it.daemon.workflows.activities.values() if each.__name__ == "note"}
    seen = __import__(module).SEEN
    found = {f"{context.span_id:016x}" for context in seen.values()}
    assert {f"{context.trace_id:032x}" for context in seen.values()} == {TRACE}
    assert found == {span.span_id.hex() for span in receiver.named("activity:note")}


async def test_a_failed_instance_is_an_error_without_its_text(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"flow": "order", "id": "o-1", "fail": True}, traceparent=PARENT)
        await eventually(lambda: receiver.named("orchestration:order:timer"))
        await it.publish("orders", {"pay": "o-1"})
        await eventually(lambda: receiver.named("orchestration:order"))
    order = receiver.find("orchestration:order")
    assert order.status.code == Status.STATUS_CODE_ERROR
    assert attributes(order)["durabletask.task.status"] == "Failed"
    assert attributes(order)["error.type"] == "RuntimeError"
    assert "secret" not in repr(receiver.spans())


async def test_each_generation_is_a_span(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"flow": "order", "id": "o-1", "again": True}, traceparent=PARENT)
        await eventually(lambda: len(receiver.named("orchestration:order:timer")) == 1)
        await it.publish("orders", {"pay": "o-1"}, traceparent=PARENT)
        await eventually(lambda: len(receiver.named("orchestration:order:timer")) == 2)
        await it.publish("orders", {"pay": "o-1"}, traceparent=PARENT)
        await eventually(lambda: len(receiver.named("orchestration:order")) == 2)
    statuses = sorted(attributes(span)["durabletask.task.status"] for span in receiver.named("orchestration:order"))
    assert statuses == ["Completed", "ContinuedAsNew"]
    assert len(receiver.named("create_orchestration:order")) == 1
    assert len(receiver.named("activity:note")) == 2 * 4
    create = receiver.find("create_orchestration:order")
    assert {span.parent_span_id for span in receiver.named("orchestration:order")} == {create.span_id}


async def test_a_terminated_instance_has_its_spans(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.publish("orders", {"flow": "endless", "id": "o-1"}, traceparent=PARENT)
        await eventually(lambda: receiver.named("activity:note"))
        await it.publish("orders", {"stop": "o-1"})
        await eventually(lambda: receiver.named("orchestration:endless"))
    assert attributes(receiver.find("orchestration:endless"))["durabletask.task.status"] == "Terminated"


async def test_an_instance_that_no_message_started_begins_a_trace(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.client.schedule_new_orchestration("child", input="x", instance_id="c-1")
        await eventually(lambda: receiver.named("orchestration:child"))
    assert tree(receiver.spans()) == {"": ["orchestration:child"], "orchestration:child": ["activity:note"]}


async def test_nothing_is_made_of_what_is_not_sampled(
    tmp_path: Path, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.client.schedule_new_orchestration("child", input="x", instance_id="c-1")
        await it.publish("orders", {"flow": "order", "id": "o-1"})
        await it.publish("orders", {"flow": "child", "id": "c-2"}, traceparent=PARENT)
        await it.publish("orders", {"pay": "o-1"}, traceparent=f"00-{OTHER}-b7ad6b7169203332-01")
        await eventually(lambda: receiver.named("orchestration_event:paid"))
        await eventually(lambda: receiver.named("orchestration:child"))
    assert {span.trace_id.hex() for span in receiver.spans()} == {TRACE, OTHER}
    assert Counter(span.name for span in receiver.spans())["orchestration:order"] == 0


async def test_spans_wait_for_a_receiver_that_is_away(tmp_path: Path, receiver: OtlpReceiver) -> None:
    receiver.status = 503
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS) as it:
            await it.publish("orders", {"flow": "child", "id": "c-1"}, traceparent=PARENT)
            await eventually(lambda: it.outcomes().get("executed") == 1 and it.daemon.tracing.away)
            await eventually(lambda: it.daemon.tracing.waiting["engine"] > 0)
    assert receiver.spans() == []
    receiver.status = 200
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await eventually(lambda: receiver.named("orchestration:child"))
        await eventually(lambda: it.daemon.tracing.waiting["engine"] == 0)
    assert sorted(span.name for span in receiver.spans()) == [
        "activity:note",
        "create_orchestration:child",
        "orchestration:child",
    ]
    assert sum("traces cannot be sent" in each["event"] for each in logs) == 1


async def test_kept_spans_are_bounded(tmp_path: Path, receiver: OtlpReceiver) -> None:
    receiver.status = 503
    async with running(tmp_path, CONFIG, FLOWS) as it:
        engine = it.daemon.engines["default"]
        assert isinstance(engine, EmbeddedEngine)
        engine.spans._tracing._options = TracingOptions(lambda trace, name: True, 2000)
        for number in range(30):
            await it.publish("orders", {"flow": "child", "id": f"c-{number}"}, traceparent=PARENT)
        await it.settled(30)
        await eventually(lambda: it.daemon.tracing.losses["backlog"] > 0)
        assert it.daemon.tracing.waiting["engine"] <= 2000
        it.daemon.tracing._max_age = 0.0
        await eventually(lambda: it.daemon.tracing.losses["age"] > 0)
        await eventually(lambda: it.daemon.tracing.waiting["engine"] == 0)


async def test_the_span_of_a_saga_has_its_own_name(tmp_path: Path, receiver: OtlpReceiver) -> None:
    config = CONFIG.replace(
        "routes:\n",
        """  answers: {broker: local, topics: [answers], codec: json, no_match: ignore}
sagas:
  shop_saga:
    replies: answers
    steps:
      - name: goods
        command: {target: results, type: goods.reserve, data: "{'id': input.id}"}
        timeout: 5m
routes:
  - {name: answer, from: answers, reply: {}}
  - name: saga
    from: orders
    when: has(payload.saga)
    schedule: {saga: shop_saga, instance_id: "{{ payload.saga }}"}
""",
    )
    async with running(tmp_path, config, FLOWS) as it:
        await it.publish("orders", {"saga": "s-1"}, traceparent=PARENT)
        await eventually(lambda: receiver.named("create_orchestration:bridge.saga"))
        await it.publish("orders", {"stop": "s-1"})
        await eventually(lambda: receiver.named("orchestration:bridge.saga"))
    for title in ("create_orchestration:bridge.saga", "orchestration:bridge.saga"):
        assert attributes(receiver.find(title))["bridge.saga"] == "shop_saga"
