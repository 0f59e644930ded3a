"""Expressions against the schema of their payload, and against two versions of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from bridge.app.check.configuration import check
from bridge.app.check.schemas import SchemaVersions
from tests.kit.processes import bridge, run_bridge
from tests.registry import RegistryServer

CONFIG = """
engine: {type: embedded}
workflows: {external: [order]}
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: %(codec)s, attributes: {type: "'order'"}, no_match: ignore%(schema)s}
routes:
  - name: start
    from: orders
    match: %(match)s
    when: %(when)s
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: %(input)s}
"""
JSON: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "total", "customer", "lines"],
    "properties": {
        "id": {"type": "string"},
        "total": {"type": "number"},
        "count": {"type": "integer"},
        "note": {"type": ["string", "null"]},
        "kind": {"enum": ["new", "used"]},
        "free": {},
        "tags": {"type": "array", "items": {"type": "string"}},
        "customer": {"$ref": "#/$defs/customer"},
        "lines": {"type": "array", "items": {"type": "object"}},
        "paid": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/customer"}]},
    },
    "$defs": {
        "customer": {
            "type": "object",
            "allOf": [{"properties": {"vip": {"type": "boolean"}}}],
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "parent": {"$ref": "#/$defs/customer"}},
        }
    },
}
AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "total", "type": "double"},
        {"name": "count", "type": "long"},
        {"name": "note", "type": ["null", "string"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["new", "used"]}},
        {"name": "free", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {
            "name": "customer",
            "type": {
                "type": "record",
                "name": "Customer",
                "fields": [
                    {"name": "name", "type": "string"},
                    {"name": "vip", "type": "boolean"},
                    {"name": "parent", "type": ["null", "Customer"]},
                ],
            },
        },
        {"name": "lines", "type": {"type": "array", "items": {"type": "map", "values": "string"}}},
        {"name": "paid", "type": ["boolean", "shop.Customer"]},
    ],
}


def write(directory: Path, content: Any, **given: str) -> Path:
    is_avro = "fields" in content
    name = "order.avsc" if is_avro else "order.json"
    (directory / name).write_text(json.dumps(content))
    values = {"when": "'true == true'", "match": "{}", "input": "payload", "schema": f", schema: {name}"}
    values |= {"codec": "avro" if is_avro else "json"} | given
    text = CONFIG % values
    if is_avro:
        text += "registries: {main: {url: 'http://127.0.0.1:1'}}\n"
    (directory / "bridge.yaml").write_text(text)
    return directory / "bridge.yaml"


def found(config: Path, versions: SchemaVersions | None = None) -> list[tuple[str, str]]:
    """Codes and first lines of the messages about schemas."""
    report = check([config], schemas=versions)
    assert report.errors == 0, report.problems
    return [
        (each.code, each.what.partition("\n")[0]) for each in report.problems if each.code in ("R031", "R032", "R033")
    ]


@pytest.mark.parametrize("schema", [JSON, AVRO], ids=["json", "avro"])
@pytest.mark.parametrize(
    ("when", "code", "text"),
    [
        ("payload.total > '5'", "R032", "payload.total is a number: cannot compare a number with text"),
        ("payload.id > 5", "R032", "payload.id is text: cannot compare text with a number"),
        ("payload.id - 1 > 2", "R032", "payload.id is text: cannot subtract text and a number"),
        ("payload.customer.vip == 'yes'", "R032", "payload.customer.vip is true or false: "),
        ("payload.customer.parent.name == 5", "R032", "payload.customer.parent.name is text: "),
        ("payload.count.startsWith('x')", "R032", "payload.count is an integer: "),
        ("payload.tags.exists(tag, tag > 5)", "R032", "payload.tags is a list: cannot compare text with a number"),
        ("payload.note == 5", "R032", "payload.note is text or null: "),
        ("payload.kind == 5", "R032", "payload.kind is text: "),
        ("payload.id == payload.total", "R032", "payload.id is text and payload.total is a number: "),
        ("payload.totel > 5", "R031", "payload has no totel; did you mean `total`?"),
        ("payload.absent > 5", "R031", "payload has no absent"),
        ("payload.id.length == 5", "R031", "payload.id is text and has no members"),
    ],
)
def test_what_does_not_fit_is_named_with_both_types(
    tmp_path: Path, schema: dict[str, Any], when: str, code: str, text: str
) -> None:
    config = write(tmp_path, schema, when=json.dumps(when))
    [(got, what)] = found(config)
    name = "order.avsc" if schema is AVRO else "order.json"
    assert (got, what.startswith(text), what.endswith(f"({name})")) == (code, True, True), what


@pytest.mark.parametrize("schema", [JSON, AVRO], ids=["json", "avro"])
@pytest.mark.parametrize(
    "when",
    [
        "payload.total > 5", "payload.total > 5.5", "payload.count > 5", "payload.count > 5.5",
        "payload.note == null || payload.note == 'x'", "payload.free > 5", "payload.free.x == 'y'",
        "payload.tags.exists(tag, tag == 'x')", "payload.tags[0] == 'x'", "payload.lines[0].sku == 'tea'",
        "payload.lines.exists(line, line.price > 5)", "payload.customer.vip", "payload.paid == true",
        "has(payload.absent) && payload.absent > 5", "payload.?absent.orValue(1) > 0", "payload['absent'] == 1",
        "size(payload.tags) > 1", "payload.tags.map(payload, payload.x > 1)[0]", "event.type == 'x'",
        "payload.id == string(payload.count)", "payload.total == payload.count",
        "payload.customer.parent == null || payload.customer.parent.name == 'x'", "payload.id == null",
        "payload.kind in ['new']", "type(payload.id) == string", "payload == {'id': 'x'}",
    ],
)  # fmt: skip
def test_what_fits_is_not_reported(tmp_path: Path, schema: dict[str, Any], when: str) -> None:
    assert found(write(tmp_path, schema, when=json.dumps(when))) == []


def test_equalities_templates_and_inputs(tmp_path: Path) -> None:
    config = write(tmp_path, JSON, match="{payload.totel: 5, payload.id: 5, payload.total: 5, payload.count: [1, x]}")
    assert [what for _, what in found(config)] == [
        "no payload.totel in order.json; did you mean `total`?",
        "payload.id is text in order.json, and never equals `5`",
        "payload.count is an integer in order.json, and never equals `x`",
    ]
    (tmp_path / "bridge.yaml").write_text(config.read_text().replace("payload.id }}", "payload.ident }}"))
    report = check([config])
    [problem] = [each for each in report.problems if "ident" in each.what]
    assert problem.path == "routes[0].schedule.instance_id"
    assert problem.offset == len("order-{{ ")
    assert problem.what.endswith("\n  payload.ident\n  ^")


def test_an_open_schema_only_names_similar_members(tmp_path: Path) -> None:
    schema = {**JSON, "additionalProperties": True}
    assert found(write(tmp_path, schema, when='"payload.absent > 5"')) == []
    [(code, what)] = found(write(tmp_path, schema, when='"payload.totall > 5"'))
    assert (code, "did you mean `total`" in what) == ("R031", True)
    assert found(write(tmp_path, {"type": "object"}, when='"payload.absent > 5"')) == []


def test_the_result_of_map_is_not_the_payload(tmp_path: Path) -> None:
    config = write(tmp_path, JSON, when='"payload.id > 5"', input="payload.mapped")
    text = config.read_text().replace("    schedule:", "    map: mapping:own\n    schedule:")
    (tmp_path / "mapping.py").write_text("def own(envelope):\n    return {}\n")
    config.write_text(text.replace("payload.id }}", "payload.mapped }}"))
    assert [code for code, _ in found(config)] == ["R032"]


def test_references_to_other_files_and_hostile_schemas(tmp_path: Path) -> None:
    (tmp_path / "money.json").write_text(json.dumps({"$defs": {"money": {"type": "string"}}}))
    schema = {**JSON, "properties": {"total": {"$ref": "money.json#/$defs/money"}, "id": {}}}
    [(_, what)] = found(write(tmp_path, schema, when='"payload.total > 5"'))
    assert what.startswith("payload.total is text")
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    many = {"allOf": [{"anyOf": [{"type": "string"}, {"type": "object"}]}] * 20}
    for each in (endless, many, True, {"properties": {"total": {"$ref": "absent.json"}}}):
        config = write(tmp_path, JSON, when='"payload.total > 5"', schema="")
        (tmp_path / "one.json").write_text(json.dumps(each))
        file = str(tmp_path / "one.json")
        assert found(config, SchemaVersions(file, file)) == []


# -- two versions


def changes(schema: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Schema with another type of a member; None removes the member."""
    if "fields" in schema:
        rest = [field for field in schema["fields"] if field["name"] != name]
        return {**schema, "fields": rest if value is None else [*rest, {"name": name, "type": value}]}
    properties: dict[str, Any] = {key: each for key, each in schema["properties"].items() if key != name}
    if value is not None:
        properties[name] = value
    required = [each for each in schema["required"] if each != name or value is not None]
    return {**schema, "properties": properties, "required": required}


@pytest.fixture
def versions(tmp_path: Path) -> SchemaVersions:
    return SchemaVersions(str(tmp_path / "old.json"), str(tmp_path / "new.json"))


@pytest.mark.parametrize(
    ("name", "value", "when", "text"),
    [
        ("total", None, "payload.total > 5", "payload.total is missing in NEW, and a number in OLD"),
        ("total", {"type": "string"}, "payload.total > 5", "payload.total is text in NEW, and a number in OLD"),
        ("total", {"type": ["number", "null"]}, "payload.total > 5",
         "payload.total may be null in NEW, and not in OLD"),
        ("customer", {"type": "string"}, "payload.customer.name == 'x'",
         "payload.customer.name is missing in NEW, and text"),
        ("total", None, "payload.id == 'x'", None),
        ("total", {"type": "integer"}, "payload.total > 5", None),
        ("total", None, "has(payload.total) && payload.total > 5", None),
        ("added", {"type": "string"}, "payload.added == 'x'", "payload.added is missing in OLD, and text in NEW"),
    ],
)  # fmt: skip
def test_a_version_that_an_expression_does_not_fit(
    tmp_path: Path, versions: SchemaVersions, name: str, value: Any, when: str, text: str | None
) -> None:
    config = write(tmp_path, JSON, when=json.dumps(when), schema="")
    Path(versions.old).write_text(json.dumps(JSON))
    Path(versions.new).write_text(json.dumps(changes(JSON, name, value)))
    got = found(config, versions)
    if text is None:
        assert got == []
    else:
        expected = text.replace("NEW", versions.new).replace("OLD", versions.old)
        [(code, what)] = got
        assert (code, what.startswith(expected)) == ("R033", True), what


def test_a_member_that_is_no_longer_required(tmp_path: Path, versions: SchemaVersions) -> None:
    config = write(tmp_path, JSON, when='"payload.total > 5"', schema="")
    Path(versions.old).write_text(json.dumps(JSON))
    Path(versions.new).write_text(json.dumps({**JSON, "required": ["id"]}))
    assert found(config, versions) == [
        ("R033", f"payload.total may be missing in {versions.new}, and not in {versions.old}")
    ]


def test_through_the_command(tmp_path: Path) -> None:
    write(tmp_path, JSON, when='"payload.total > 5"', schema="")
    (tmp_path / "old.json").write_text(json.dumps(JSON))
    (tmp_path / "new.json").write_text(json.dumps(changes(JSON, "total", None)))
    (tmp_path / "typo.json").write_text('{"type": "objct"}')
    command = ("check", "--schemas", "old.json", "new.json")
    output = bridge(*command, "--strict", cwd=tmp_path, expect=1)
    assert "bridge.yaml:11:11 R033 routes[0].when: warning: payload.total is missing in new.json" in output
    sarif = json.loads(bridge(*command, "--format", "sarif", cwd=tmp_path))
    [result] = sarif["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 11, "startColumn": 12}
    bridge(*command, "--source", "orders", "--strict", cwd=tmp_path, expect=1)
    for arguments, words in (
        (("--schemas", "old.json", "none.json"), "none.json: No such file"),
        (
            ("--schemas", "old.json", "typo.json"),
            'typo.json: it is not a valid JSON Schema: at /type: "objct" is not a type',
        ),
        (("--schemas", "old.json", "bridge.yaml"), "bridge.yaml: it is not JSON"),
        (("--schemas", "old.json", "main/orders@1"), "there is no registry `main`"),
        ((*command[1:], "--source", "other"), "there is no source `other`"),
        (("--source", "orders"), "--source needs --schemas"),
    ):
        done = run_bridge("check", *arguments, cwd=tmp_path)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    server = RegistryServer()
    yield server
    server.close()


def test_versions_in_a_registry(tmp_path: Path, server: RegistryServer) -> None:
    config = write(tmp_path, AVRO, when='"payload.total > 5.0"')
    config.write_text(config.read_text().replace("http://127.0.0.1:1", server.url))
    client = SchemaRegistryClient({"url": server.url})
    for schema in (AVRO, changes(AVRO, "total", "string")):
        client.register_schema("orders-value", Schema(json.dumps(schema), "AVRO"))
    same = ("check", "--schemas", "main/orders-value@1", "main/orders-value@1", "--strict")
    bridge(*same, cwd=tmp_path)
    output = bridge("check", "--schemas", "main/orders-value@1", "main/orders-value@latest", cwd=tmp_path)
    assert "payload.total is text in main/orders-value@latest, and a number in main/orders-value@1" in output
    missing = run_bridge("check", "--schemas", "main/orders-value@9", "main/orders-value@1", cwd=tmp_path)
    assert missing.returncode == 2
    server.stop()
    assert run_bridge("check", "--schemas", "main/orders-value@1", "main/orders-value@2", cwd=tmp_path).returncode == 3
