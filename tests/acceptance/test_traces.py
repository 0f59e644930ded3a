"""Traces over processes: an order on Kafka from its sender to its consumer, and a daemon that is killed."""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bridge.app.serve.engine_host import EngineHost
from tests.brokers.kafka.harness import unique
from tests.kit.otlp import OtlpReceiver, attributes, tree
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

FLOWS = """
from bridge.workflow import Saga, Step
from durabletask import task


def reserve(ctx: task.ActivityContext, order):
    return "reserved"


def release(ctx: task.ActivityContext, order):
    return None


def charge(ctx: task.ActivityContext, order):
    raise ValueError("declined")


def order(ctx: task.OrchestrationContext, order):
    saga = Saga(ctx, "order", publish_outcome="results")

    def steps():
        yield from saga.step(Step("reserve", reserve, order, compensation=release))
        yield from saga.wait_for_event("paid")
        yield from saga.step(Step("charge", charge, order, refusals=(ValueError,)))

    yield from saga.run(steps())
    return None

"""

CONSUMER = """
from datetime import timedelta

from durabletask import task


def audit(ctx: task.OrchestrationContext, outcome):
    yield ctx.create_timer(timedelta(milliseconds=1))
"""

ORDERS = """
engine: {{type: embedded}}
workflows: [flows]
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
targets: {{results: {{broker: kafka, topic: {results}, codec: cloudevents}}}}
sources: {{orders: {{broker: kafka, topics: [{orders}], group: {orders}, codec: json, no_match: dead_letter}}}}
routes:
  - name: pay
    from: orders
    when: has(payload.pay)
    raise_event: {{instance_id: "{{{{ payload.pay }}}}", name: paid}}
  - name: start
    from: orders
    schedule: {{orchestration: order, instance_id: "{{{{ payload.id }}}}", input: payload}}
ops: {{http: {{port: 0}}, tracing: {{endpoint: "{url}"}}}}
"""

AUDIT = """
engine: {{type: embedded}}
workflows: [flows]
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
sources: {{outcomes: {{broker: kafka, topics: [{results}], group: {results}, no_match: dead_letter}}}}
routes:
  - name: audit
    from: outcomes
    schedule: {{orchestration: audit, instance_id: "audit-{{{{ event.id }}}}", input: payload}}
ops: {{http: {{port: 0}}, tracing: {{endpoint: "{url}"}}}}
"""


@pytest.mark.timeout(180)
def test_an_order_from_its_sender_to_its_consumer(tmp_path: Path, bootstrap: str) -> None:
    orders, results = unique("orders"), unique("results")
    trace = secrets.token_hex(16)
    with OtlpReceiver() as receiver:
        for name, config, flows in (("orders", ORDERS, FLOWS), ("audit", AUDIT, CONSUMER)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "flows.py").write_text(flows)
            given = config.format(bootstrap=bootstrap, orders=orders, results=results, url=receiver.url)
            (tmp_path / name / "bridge.yaml").write_text(given)
        producer = Producer({"bootstrap.servers": bootstrap})

        def send(body: object) -> None:
            context = f"00-{trace}-{'1' * 16}-01".encode()
            producer.produce(orders, json.dumps(body).encode(), b"o-1", headers=[("traceparent", context)])
            assert producer.flush(30) == 0

        named = {**os.environ, "OTEL_SERVICE_NAME": "audit"}
        with DaemonProcess(tmp_path / "orders"), DaemonProcess(tmp_path / "audit", env=named):
            send({"id": "o-1"})
            eventually_blocking(lambda: receiver.named("activity:reserve"))
            send({"pay": "o-1"})
            eventually_blocking(lambda: receiver.named("orchestration:audit"))
            eventually_blocking(lambda: receiver.named(f"send {results}"))
            eventually_blocking(lambda: receiver.named("orchestration:order"))
            eventually_blocking(lambda: len(receiver.named(f"process {orders}")) == 2)
    assert all(len(contents) == 1 for contents in receiver.contents.values())
    spans = [span for span in receiver.spans() if span.trace_id.hex() == trace]
    assert tree(spans) == {
        "1" * 16: [f"process {orders}", f"process {orders}"],
        f"process {orders}": ["create_orchestration:order", "orchestration_event:paid"],
        "create_orchestration:order": ["orchestration:order"],
        "orchestration:order": [
            "activity:bridge.publish",
            "activity:charge",
            "activity:release",
            "activity:reserve",
            "orchestration:order:wait",
        ],
        "activity:bridge.publish": [f"send {results}"],
        f"send {results}": [f"process {results}"],
        f"process {results}": ["create_orchestration:audit"],
        "create_orchestration:audit": ["orchestration:audit"],
        "orchestration:audit": ["orchestration:audit:timer"],
    }
    assert {each["service.name"] for each in receiver.resources} == {"durable-bridge", "audit"}
    [send_span] = receiver.named(f"send {results}")
    assert attributes(send_span)["messaging.system"] == "kafka"
    process = next(span for span in spans if span.name == f"process {orders}")
    assert attributes(process)["messaging.kafka.offset"] in (0, 1)
    assert attributes(process)["messaging.consumer.group.name"] == orders


MANY = """
engine: {{type: embedded}}
workflows: [flows]
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
routes:
  - name: start
    from: orders
    schedule: {{orchestration: many, instance_id: "{{{{ payload.id }}}}", input: payload}}
ops: {{http: {{port: 0}}, tracing: {{endpoint: "{url}"}}}}
"""

STEPS = """
from durabletask import task


def step(ctx: task.ActivityContext, number):
    return number


def many(ctx: task.OrchestrationContext, order):
    for number in range(3):
        yield ctx.call_activity(step, input=number)
    return None
"""

COUNT = 200


def _more_than(receiver: OtlpReceiver, seen: int) -> bool:
    return receiver.arrivals > seen


@pytest.mark.timeout(240)
def test_no_span_of_a_workflow_is_lost_and_none_has_two_contents(tmp_path: Path) -> None:
    rng = random.Random(7)
    (tmp_path / "flows.py").write_text(STEPS)
    lines = "".join(json.dumps({"body": {"id": f"i-{number:03d}"}}) + "\n" for number in range(COUNT))
    with OtlpReceiver() as receiver:
        (tmp_path / "bridge.yaml").write_text(MANY.format(url=receiver.url))
        bridge("publish", "local/orders", "--jsonl", "-", cwd=tmp_path, text=lines)
        for kill in range(6):
            # Answers that are lost: the receiver has the spans, and gets them again
            receiver.loses_answers = kill % 2 == 0
            seen = receiver.arrivals
            with DaemonProcess(tmp_path) as daemon:
                if receiver.loses_answers:
                    daemon.wait(partial(_more_than, receiver, seen), "some were sent")
                else:
                    time.sleep(rng.random())
                daemon.kill()
        receiver.loses_answers = False
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait(lambda: daemon.lag() == 0, "all settled")
            daemon.wait(lambda: len(receiver.named("orchestration:many")) == COUNT, "all instances")
            daemon.wait(lambda: daemon.metrics("bridge_spans_backlog_bytes") == {"": 0.0}, "all sent")
            assert daemon.metrics("bridge_spans_dropped_total") in ({}, {'{reason="refused"}': 0.0})
    assert {len(contents) for contents in receiver.contents.values()} == {1}
    assert receiver.arrivals > len(receiver.contents), "some were sent again"
    instances = {attributes(span)["durabletask.task.instance_id"] for span in receiver.named("orchestration:many")}
    assert len(instances) == COUNT
    assert len(receiver.named("create_orchestration:many")) == COUNT
    steps = [attributes(span) for span in receiver.named("activity:step")]
    found = {(step["durabletask.task.instance_id"], step["durabletask.task.task_id"]) for step in steps}
    assert (len(found), len(steps)) == (3 * COUNT, 3 * COUNT)


SCHEDULED = """
engine: {{type: scheduler, endpoint: "http://{address}"}}
workflows: [flows]
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
routes:
  - name: start
    from: orders
    schedule: {{orchestration: many, instance_id: "order-{{{{ payload.id }}}}", input: payload}}
ops: {{http: {{port: 0}}, tracing: {{endpoint: "{url}"}}}}
"""


@contextmanager
def hosted(directory: Path) -> Iterator[str]:
    """Engine behind a port, as the scheduler is."""
    host = EngineHost("127.0.0.1:0", directory)
    host.start()
    try:
        yield host.address
    finally:
        host.stop()


@pytest.mark.timeout(120)
def test_the_sdk_makes_the_spans_of_a_scheduler(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(STEPS)
    line = {"body": {"id": "1"}, "headers": {"traceparent": f"00-{'a' * 32}-{'1' * 16}-01"}}
    with OtlpReceiver() as receiver, hosted(tmp_path / "host") as address:
        (tmp_path / "bridge.yaml").write_text(SCHEDULED.format(url=receiver.url, address=address))
        bridge("publish", "local/orders", "--jsonl", "-", cwd=tmp_path, text=json.dumps(line))
        with DaemonProcess(tmp_path) as daemon:
            daemon.wait(lambda: daemon.settled() == 1, "settled")
            bridge("instances", "wait", "order-1", cwd=tmp_path)
            daemon.stop()
    assert tree([span for span in receiver.spans() if span.trace_id.hex() == "a" * 32]) == {
        "1" * 16: ["process orders"],
        "process orders": ["create_orchestration:many"],
        "create_orchestration:many": ["orchestration:many"],
        "orchestration:many": ["activity:step"] * 3,
        "activity:step": ["activity:step"] * 3,
    }
    assert {each["service.name"] for each in receiver.resources} == {"durable-bridge"}
