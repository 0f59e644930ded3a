"""Avro in and out through the real command, written and read by Confluent's own serializers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT
from tests.registry import RegistryServer

CONFIG = """
engine: {{type: embedded}}
workflows: [flows]
ops: {{http: {{port: 0}}}}
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
registries:
  main: {{url: "{url}", username: bridge, password: "${{REGISTRY_PASSWORD}}", timeout: 5s}}
sources:
  orders: {{broker: kafka, topics: [{prefix}-orders], group: {prefix}, codec: avro, no_match: dead_letter}}
targets:
  results: {{broker: kafka, topic: {prefix}-results, codec: avro, schemas: {{file: result.avsc, auto_register: true}}}}
routes:
  - name: start
    from: orders
    when: payload.total > 10.0
    schedule: {{orchestration: bill, instance_id: "bill-{{{{ payload.id }}}}"}}
"""
FLOWS = """
from bridge.workflow import publish


def bill(ctx, order):
    result = {"id": order["id"], "total": order["total"] * 2, "at": order["at"]}
    yield publish(ctx, "results", result, type="billed", key=order["id"])


from durabletask import task
bill.__annotations__ = {"ctx": task.OrchestrationContext}
"""
FIELDS = [
    {"name": "id", "type": "string"},
    {"name": "total", "type": "double"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
]
ORDER = json.dumps({"type": "record", "name": "Order", "fields": FIELDS})
RESULT = json.dumps({"type": "record", "name": "Result", "fields": FIELDS})


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


@pytest.mark.timeout(180)
def test_avro_through_the_daemon(
    tmp_path: Path, bootstrap: str, server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datetime

    prefix = unique("avro")
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    (tmp_path / "result.avsc").write_text(RESULT)
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG.format(bootstrap=bootstrap, url=server.url, prefix=prefix))
    client = SchemaRegistryClient({"url": server.url})
    serializer, deserializer = AvroSerializer(client, ORDER), AvroDeserializer(client)
    context = SerializationContext(f"{prefix}-orders", MessageField.VALUE)
    moment = datetime.datetime(2026, 3, 1, 10, 20, 30, 500_000, tzinfo=datetime.UTC)
    bodies = [serializer({"id": f"o-{n}", "total": float(n), "at": moment}, context) for n in range(20)]
    server.stop()
    with DaemonProcess(tmp_path) as serve:
        producer = Producer({"bootstrap.servers": bootstrap})
        for number, body in enumerate(bodies):
            producer.produce(f"{prefix}-orders", body, f"o-{number}".encode())
        assert producer.flush(30) == 0
        serve.wait(lambda: "registry main: nobody answers" in serve.get("/readyz")[1], "the hold")
        assert serve.get("/readyz")[0] == 503
        server.start()
        serve.wait(lambda: serve.settled() >= 20, "all orders")
        serve.wait(lambda: serve.get("/readyz")[0] == 200, "ready again")
        outcomes = serve.metrics("bridge_outcomes_total")
        assert {labels: count for labels, count in outcomes.items() if count} == {
            '{outcome="executed",source="orders"}': 9.0,
            '{outcome="dead_lettered",source="orders"}': 11.0,
        }
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": unique("reader"), "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([f"{prefix}-results"])
        found: dict[Any, Any] = {}
        end = time.monotonic() + TIMEOUT
        while len(found) < 9 and time.monotonic() < end:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                found[message.key().decode()] = deserializer(
                    message.value(), SerializationContext(message.topic(), MessageField.VALUE)
                )
                assert dict(message.headers())["ce_type"] == b"billed"
        consumer.close()
        assert found == {f"o-{n}": {"id": f"o-{n}", "total": n * 2.0, "at": moment} for n in range(11, 20)}
    log = serve.log.read_text()
    assert "hunter2" not in log
    assert "HTTP Request" not in log


UPCAST = """
engine: {{type: embedded}}
workflows: {{external: [bill]}}
ops: {{http: {{port: 0}}}}
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
registries: {{main: {{url: "{url}", timeout: 5s}}}}
sources:
  orders:
    broker: kafka
    topics: [{prefix}-orders]
    group: {prefix}
    codec: avro
    schema: order.avsc
    no_match: dead_letter
    upcast:
      - match: {{extensions.recordname: shop.OldOrder}}
        data: "{{'id': payload.nr, 'total': double(payload.cents) / 100.0}}"
routes:
  - name: newest
    from: orders
    match: {{extensions.schemaid: "{newest}"}}
    schedule: {{orchestration: bill, instance_id: "newest-{{{{ payload.id }}}}", input: payload}}
  - name: converted
    from: orders
    when: payload.total > 1.0
    schedule: {{orchestration: bill, instance_id: "converted-{{{{ payload.id }}}}", input: payload}}
"""
OLD = {
    "type": "record",
    "name": "OldOrder",
    "namespace": "shop",
    "fields": [{"name": "nr", "type": "string"}, {"name": "cents", "type": "long"}],
}
NEW = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [{"name": "id", "type": "string"}, {"name": "total", "type": "double"}],
}


@pytest.mark.timeout(180)
def test_versions_are_matched_by_record_and_schema_and_converted(
    tmp_path: Path, bootstrap: str, server: RegistryServer
) -> None:
    prefix = unique("upcast")
    client = SchemaRegistryClient({"url": server.url})
    subjects = {"auto.register.schemas": True, "subject.name.strategy": lambda context, record: record}
    old, new = (AvroSerializer(client, json.dumps(schema), conf=subjects) for schema in (OLD, NEW))
    context = SerializationContext(f"{prefix}-orders", MessageField.VALUE)
    bodies = [old({"nr": "1", "cents": 250}, context), new({"id": "2", "total": 5.0}, context)]
    newest = client.get_latest_version("shop.Order").schema_id
    (tmp_path / "order.avsc").write_text(json.dumps(NEW))
    config = UPCAST.format(bootstrap=bootstrap, url=server.url, prefix=prefix, newest=newest)
    (tmp_path / "bridge.yaml").write_text(config)
    bridge("check", "--strict", cwd=tmp_path)
    with DaemonProcess(tmp_path) as serve:
        producer = Producer({"bootstrap.servers": bootstrap})
        for body in bodies:
            producer.produce(f"{prefix}-orders", body, b"k")
        assert producer.flush(30) == 0
        serve.wait(lambda: serve.settled() == 2, "both orders")
        inputs = [
            json.loads(bridge("instances", "show", name, "--json", cwd=tmp_path))["input"]
            for name in ("converted-1", "newest-2")
        ]
        assert inputs == [{"id": "1", "total": 2.5}, {"id": "2", "total": 5.0}]
