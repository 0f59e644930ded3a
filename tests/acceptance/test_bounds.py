"""Messages beyond each bound through a running daemon: its reason, its metric, bounded memory, and no loss."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from tests.codecs.confluent.bombs import array, file, inside, items, record, zigzag
from tests.kit.processes import DaemonProcess, bridge
from tests.registry import RegistryServer

CONFIG = """
engine: {{type: embedded, unread_events: 3, early_messages: {{max_messages: 3, total_messages: 5}}}}
workflows: [flows]
ops: {{http: {{port: 0}}}}
registries: {{main: {{url: "{url}"}}}}
brokers: {{local: {{type: local}}}}
defaults:
  source: {{broker: local, no_match: dead_letter, limits: {{dead_letter_limit: 100000}}}}
sources:
  plain: {{topics: [plain], codec: json, schema: plain.json, attributes: {{type: payload.type}}}}
  avro: {{topics: [avro], codec: avro}}
  protobuf: {{topics: [protobuf], codec: protobuf}}
routes:
  - {{name: costs, from: plain, match: {{type: costs}}, when: "payload.a.all(x, !(x in payload.b))", ignore: {{}}}}
  - name: many
    from: plain
    match: {{type: many}}
    for_each: payload.a
    schedule: {{orchestration: wait, instance_id: "many-{{{{ index }}}}"}}
  - name: start
    from: plain
    match: {{type: start}}
    schedule: {{orchestration: wait, instance_id: "wait-{{{{ payload.id }}}}"}}
  - name: unread
    from: plain
    match: {{type: unread}}
    raise_event: {{instance_id: "wait-{{{{ payload.id }}}}", name: other}}
  - name: early
    from: plain
    match: {{type: early}}
    raise_event: {{instance_id: "never-{{{{ payload.id }}}}", name: other, on_missing: {{wait: 1h}}}}
  - {{name: rest, from: [avro, protobuf], ignore: {{}}}}
"""
FLOWS = """
from durabletask import task


def wait(ctx: task.OrchestrationContext, given):
    yield ctx.wait_for_external_event("go")
"""
PLAIN = {"properties": {"text": {"pattern": "(?=.*x)y"}}}
WIDE = record(["boolean", *["null"] * 1000])
LONG = {"type": "record", "name": "L", "fields": [{"name": "n" * 100_000, "type": "boolean"}]}
ABOVE_IDLE = 200
"""Most MiB of memory above the idle size: the largest allowed payload takes less."""


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


def resident(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) // 1024


def raw(topic: str, body: bytes) -> dict[str, Any]:
    return {"topic": topic, "body_base64": b64encode(body).decode()}


def plain(kind: str, **rest: Any) -> dict[str, Any]:
    return {"topic": "plain", "key": kind, "body": {"type": kind, "id": "1", **rest}}


def deep(levels: int) -> bytes:
    body = b""
    for _ in range(levels):
        body = inside(3, body)
    return body


def beyond(client: SchemaRegistryClient) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield messages of up to 1 MiB, each with the reason that it must have."""
    avro = {
        name: b"\0" + client.register_schema(f"avro-{name}", Schema(json.dumps(schema), "AVRO")).to_bytes(4, "big")
        for name, schema in (("wide", array(WIDE)), ("long", array(LONG)), ("nulls", array("null")))
    }
    messages = b64encode(file().SerializeToString()).decode()
    protobuf = b"\0" + client.register_schema("m", Schema(messages, "PROTOBUF")).to_bytes(4, "big") + b"\0"
    yield "payload_too_large", raw("plain", b'{"type": "' + b"x" * 1_048_576 + b'"}')
    yield "payload_too_deep", raw("plain", b"[" * 101 + b"]" * 101)
    yield "payload_too_deep", raw("plain", b"[" * 500_000)
    yield "too_many_values", raw("plain", b"[" + b"[]," * 340_000 + b"[]]")
    yield "schema_cost", plain("start", text="a" * 1_000_000)
    yield "expression_cost", plain("costs", a=list(range(9_900)), b=[-1] * 30_000)
    yield "too_many_commands", plain("many", a=[0] * 1_001)
    yield "commands_too_large", plain("many", a=[0] * 1_000, b=[0] * 20_000)
    yield "too_many_values", raw("avro", avro["wide"] + items(40_000, b"\1"))
    yield "too_many_values", raw("avro", avro["nulls"] + zigzag(2**60) + b"\0")
    yield "decoded_too_large", raw("avro", avro["long"] + items(45_000, b"\1"))
    yield "too_many_values", raw("protobuf", protobuf + inside(3, b"") * 300_000)
    yield "decoded_too_large", raw("protobuf", protobuf + inside(6, b"\0" * 45_000))
    yield "decoded_too_large", raw("protobuf", protobuf + inside(2, b"") * 40_000)
    yield "payload_too_deep", raw("protobuf", protobuf + deep(101))


def counted(dead_letters: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for dead_letter in dead_letters:
        reason = dead_letter["headers"]["bridge.reason"]
        found[reason] = found.get(reason, 0) + 1
    return found


@pytest.mark.timeout(180)
def test_what_is_beyond_a_bound_costs_itself(tmp_path: Path, server: RegistryServer) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG.format(url=server.url))
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "plain.json").write_text(json.dumps(PLAIN))
    expected: dict[str, int] = {}
    lines = [plain("start")]
    for reason, line in beyond(SchemaRegistryClient({"url": server.url})):
        expected[reason] = expected.get(reason, 0) + 2
        lines += [line, line]
    lines += [{**plain("unread"), "key": "start"}] * 5
    lines += [{**plain("early"), "body": {"type": "early", "id": str(number % 3)}} for number in range(12)]
    # Each instance takes 3 early events and the engine 5: 12 come for three instances, in turn
    expected |= {"unread_events_full": 2, "waiting_full": 7}
    with DaemonProcess(tmp_path, fresh=True) as daemon:
        idle = resident(daemon.pid, "VmRSS")
        for topic in ("plain", "avro", "protobuf"):
            text = "\n".join(json.dumps(line) for line in lines if line["topic"] == topic)
            bridge("publish", topic, "--jsonl", "-", cwd=tmp_path, text=text)
        bridge("publish", "plain", "--key", "honest", "--data", '{"type": "start", "id": "honest"}', cwd=tmp_path)
        daemon.wait(lambda: daemon.settled() == len(lines) + 1, "all are settled")
        assert resident(daemon.pid, "VmHWM") <= idle + ABOVE_IDLE
        outcomes: dict[str, float] = {}
        for labels, count in daemon.metrics("bridge_outcomes_total").items():
            word = labels.split('"')[1]
            outcomes[word] = outcomes.get(word, 0) + count
        by_reason: dict[str, float] = {}
        for labels, count in daemon.metrics("bridge_dead_letters_total").items():
            word = labels.split('reason="')[1].split('"')[0]
            by_reason[word] = by_reason.get(word, 0) + count
        assert {word: count for word, count in by_reason.items() if count} == expected
        assert {word: count for word, count in outcomes.items() if count} == {
            "executed": 2 + 3, "early": 5, "dead_lettered": sum(expected.values()),
        }  # fmt: skip
        assert sum(daemon.metrics("bridge_events_refused_total").values()) == 2
        assert sum(daemon.metrics("bridge_waiting_refused_total").values()) == 7
        assert daemon.get("/readyz")[0] == 200
        dead_letters = [
            json.loads(line)
            for topic in ("plain", "avro", "protobuf")
            for line in bridge("topic", "read", f"local/{topic}.dlq", "--json", cwd=tmp_path).splitlines()
        ]
        assert counted(dead_letters) == expected
