"""AsyncAPI documents: valid by the published schema of AsyncAPI, complete, and without secrets.

asyncapi-3.1.0.json.gz is `schemas/3.1.0.json` of the npm package @asyncapi/specs 6.11.1 (Apache-2.0).
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bridge.app.composition import load_config
from bridge.app.graph.asyncapi import document
from tests.kit.processes import bridge, run_bridge

ROOT = Path(__file__).parents[2]


@cache
def validator() -> Any:
    text = gzip.decompress(Path(__file__).with_name("asyncapi-3.1.0.json.gz").read_bytes())
    return jsonschema_rs.validator_for(json.loads(text))


def assert_valid(made: dict[str, Any]) -> None:
    errors = [f"{error.instance_path}: {error.message[:300]}" for error in validator().iter_errors(made)]
    assert not errors, errors[:3]
    for reference in references(made):
        target: Any = made
        for part in reference.removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [each for part in value for each in references(part)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [each for name, part in value.items() if name != "enum" for each in references(part)]


@pytest.mark.parametrize("name", ["bridge", "sagas", "patterns", "dispatch"])
def test_documents_of_the_examples_are_valid_and_have_every_source_and_target(name: str) -> None:
    loaded = load_config([ROOT / f"config/{name}.yaml"])
    made = document(loaded, "Shop", "1.0.0")
    assert_valid(made)
    operations = made["operations"]
    assert {f"publish.{target}" for target in loaded.config.targets} <= operations.keys()
    assert {f"consume.{source}" for source in loaded.config.sources} <= operations.keys()
    assert {operations[f"consume.{source}"]["action"] for source in loaded.config.sources} == {"receive"}


def test_messages_of_the_shop_have_types_and_schemas() -> None:
    made = document(load_config([ROOT / "config/bridge.yaml"]), "Shop", "1.0.0")
    created = made["components"]["messages"]["orders.order.created"]
    assert created["contentType"] == "application/cloudevents+json"
    assert created["description"] == "Rules: start-order, free-order."
    assert created["payload"]["properties"]["type"] == {"type": "string", "const": "order.created"}
    assert created["payload"]["properties"]["data"] == {"$ref": "#/components/schemas/source.orders"}
    assert made["channels"]["local.parcel-alerts"]["messages"].keys() == {"parcel.silent"}
    assert made["channels"]["local.orders.dlq"]["address"] == "orders.dlq"


CONFIG = """
engine: {type: embedded, path: engine.db}
brokers:
  kafka:
    type: kafka
    bootstrap_servers: "k1:9093,k2:9093"
    sasl: {mechanism: SCRAM-SHA-512, username: user, password: SECRET}
  bus:
    type: servicebus
    connection_string: "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=SECRETKEY="
targets:
  out: {broker: kafka, topic: out, codec: avro, schemas: {file: order.avsc}}
  jobs: {broker: bus, queue: team/jobs, codec: json}
  others: {broker: bus, queue: team-jobs, codec: json}
sources:
  orders:
    broker: kafka
    topics: [a, b]
    group: shop
    codec: json
    no_match: ignore
    schema: order.json
    attributes: {type: "headers['t']"}
  bus: {broker: bus, queue: in, codec: json, no_match: dead_letter}
registries: {main: {url: "http://localhost:1"}}
routes:
  - name: start
    from: orders
    match: {type: [x, y]}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - {name: typed, from: bus, schedule: {orchestration: order, instance_id: "bus-{{ payload.id }}"}}
workflows: [flows]
"""
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/order.json",
    "type": "object",
    "properties": {
        "line": {"$ref": "#/$defs/line"},
        "kind": {"enum": [{"$ref": "#/$defs/line"}]},
        "all": {"$ref": "#"},
    },
    "$defs": {"line": {"type": "object", "prefixItems": [True]}},
}
FLOWS = """
from dataclasses import dataclass

from durabletask import task

from bridge.workflow import publish


@dataclass
class Order:
    id: str
    total: float = 0.0


def order(ctx: task.OrchestrationContext, order: Order):
    yield publish(ctx, "jobs", order, type="job.made")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "order.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "order.avsc").write_text(json.dumps({"type": "record", "name": "Order", "fields": []}))
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def test_brokers_schemas_and_types_of_a_project(project: Path) -> None:
    text = bridge("asyncapi", "--types", "--title", "Shop", "--api-version", "2.0.0", cwd=project)
    assert "SECRET" not in text
    assert "user" not in text
    made = json.loads(text)
    assert_valid(made)
    assert (made["info"]["title"], made["info"]["version"]) == ("Shop", "2.0.0")
    assert made["servers"] == {
        "kafka": {"host": "k1:9093", "protocol": "kafka-secure"},
        "bus": {"host": "shop.servicebus.windows.net", "protocol": "amqp1"},
    }
    schemas = made["components"]["schemas"]
    assert schemas["source.orders"]["schema"]["properties"] == {
        "line": {"$ref": "#/components/schemas/source.orders/schema/$defs/line"},
        "kind": {"enum": [{"$ref": "#/$defs/line"}]},
        "all": {"$ref": "#/components/schemas/source.orders/schema"},
    }
    assert schemas["input.order"]["schema"]["required"] == ["id"]
    assert schemas["target.out"]["schemaFormat"].startswith("application/vnd.apache.avro")
    assert made["components"]["messages"]["bus.message"]["payload"] == {"$ref": "#/components/schemas/input.order"}
    assert made["channels"]["bus.team-jobs"]["address"] == "team/jobs"
    assert made["channels"]["bus.team-jobs"]["messages"].keys() == {"job.made"}
    assert made["channels"]["bus.team-jobs-2"]["address"] == "team-jobs"
    assert {"consume.orders.1", "consume.orders.2", "dead-letters.bus", "publish.out"} <= made["operations"].keys()
    assert made["operations"]["consume.orders.1"]["bindings"]["kafka"]["groupId"]["enum"] == ["shop"]


def test_without_types_nothing_is_imported(project: Path) -> None:
    (project / "flows.py").write_text("raise RuntimeError('imported')\n" + FLOWS)
    made = json.loads(bridge("asyncapi", cwd=project))
    assert_valid(made)
    assert "input.order" not in made["components"]["schemas"]
    assert made["channels"]["bus.team-jobs"]["messages"].keys() == {"job.made"}


def test_a_schema_that_cannot_be_read_is_named(project: Path) -> None:
    (project / "order.avsc").unlink()
    done = run_bridge("asyncapi", cwd=project)
    assert done.returncode in (1, 3)
    assert "order.avsc" in done.stderr
