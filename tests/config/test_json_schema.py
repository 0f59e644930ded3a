"""JSON Schema for editors: accepts the loader's input and marks mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from bridge.config.json_schema import ID, schema
from bridge.config.reference import EXAMPLES
from bridge.config.yaml.document import parse
from bridge.config.yaml.node import plain
from tests.config.conftest import MINIMAL
from tests.config.test_source import DESIGN
from tests.docs.document import blocks

VALIDATOR = jsonschema_rs.validator_for(schema())


def document(text: str) -> Any:
    node = parse(text, "f.yaml", [])
    assert node is not None
    return plain(node)


def test_it_is_a_schema_of_its_dialect() -> None:
    jsonschema_rs.meta.validate(schema())
    assert json.loads(json.dumps(schema())) == schema()


ACCEPTED = [
    MINIMAL,
    DESIGN,
    EXAMPLES,
    "routes: [{name: r, from: [a, b], ignore: {}}]",
    "defaults: {route: {engine: eu, schedule: {version: '1'}}, engine: {timeout: 1s}, broker: {path: x}}",
    'ops: {http: {port: "${PORT:-1}"}, drain: "${DRAIN}"}',
    "workflows: {modules: [a], external: [b]}",
    "routes: [{name: r, from: s, match: {headers.x-y.z: [a, 1, true]}, continue: true, schema: x, ignore: {}}]",
    "sources: {s: {limits: {max_payload: 1MiB, max_in_flight_bytes: 4096}, retry: {in_memory: 1m30s}}}",
]

REFUSED = [
    "engin: {type: embedded}",
    "engine: {type: embeded}",
    "engine: {path: x}",
    "engine: {type: embedded}\nengines: {default: {type: embedded}}",
    "engine: {type: embedded, retension: 7d}",
    "brokers: {kafka: {type: kafka}}",
    "brokers: {'my name': {type: local}}",
    "brokers: {b: {type: local, retention: 30}}",
    "ops: {http: {port: 99999}}",
    "ops: {drain: soon}",
    "routes: [{name: r, from: s}]",
    "routes: [{name: r, from: s, ignore: {}, cancel: {instance_id: x}}]",
    "routes: [{from: s, ignore: {}}]",
    "routes: [{name: r, from: s, schedule: {orchestration: o}}]",
    "routes: [{name: r, from: s, match: {tenant: x}, ignore: {}}]",
    "routes: [{name: r, from_: s, ignore: {}}]",
    "sources: {s: {topics: [a b]}}",
    "sources: {s: {codec: jsn}}",
    "sources: {s: {limits: {max_payload: 1XB}}}",
    "defaults: {sauce: {}}",
    "defaults: {source: {codecc: x}}",
    'vars: {}\nroutes: "${X}"',
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_good_files_are_accepted(text: str) -> None:
    assert [f"{list(error.instance_path)} {error.message}" for error in VALIDATOR.iter_errors(document(text))] == []


@pytest.mark.parametrize("text", REFUSED)
def test_wrong_files_are_marked(text: str) -> None:
    assert not VALIDATOR.is_valid(document(text))


def test_every_key_is_described() -> None:
    definitions = schema()["$defs"]
    for name, definition in {"": schema(), **definitions}.items():
        for key, value in definition.get("properties", {}).items():
            received = value if "description" in value else definitions[value["$ref"].rpartition("/")[2]]
            assert received["description"], f"{name}.{key}"


SAMPLES = Path(__file__).parents[2] / "config"


def test_the_committed_schema_is_this_one() -> None:
    """`bridge check --schema > config/bridge.schema.json` renews the file."""
    assert json.loads((SAMPLES / "bridge.schema.json").read_text()) == schema()


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("**/*.yaml")), ids=lambda path: path.name)
def test_the_samples_name_it_and_keep_it(sample: Path) -> None:
    text = sample.read_text()
    first = text.splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (sample.parent / first.partition("=")[2]).resolve() == SAMPLES / "bridge.schema.json"
    VALIDATOR.validate(document(text))


def test_the_entry_for_the_catalogue_of_schemastore_fits() -> None:
    [block] = [each for each in blocks("docs/interfaces.md", "json") if each.name == "schemastore.json"]
    entry = json.loads(block.text)
    assert entry.keys() == {"name", "description", "fileMatch", "url"}
    assert entry["url"] == schema()["$id"] == ID
    assert ID.endswith(f"/{entry['name']}.json")
    assert "bridge.yaml" in entry["fileMatch"]
