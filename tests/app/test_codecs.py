"""Schema registries in a configuration: checks, and replacements for checks without a registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.app.check.configuration import check
from bridge.app.codecs import source_codec, target_codec
from bridge.app.composition import build_decoder, load_config
from bridge.app.explain import explain
from bridge.app.messages.reading import MessageOptions, build
from bridge.codecs.json import StandInCodec
from bridge.core.errors import DecodeError
from bridge.core.message import Message
from bridge.testing import LocalBridge
from tests.codecs.confluent.samples import ORDER, POSITION

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
registries:
  main: {url: "http://127.0.0.1:1"}
sources:
  orders: {broker: local, topics: [orders], codec: avro, no_match: dead_letter}
targets:
  results: {broker: local, topic: results, codec: avro, schemas: {file: order.avsc}}
routes:
  - name: start
    from: orders
    match: {type: order.created}
    when: payload.total > 0.0
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
workflows: {external: [order]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "order.avsc").write_text(ORDER)
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG)
    return path


def problems(path: Path) -> list[str]:
    return [f"{problem.path}: {problem.what}" for problem in check([path]).problems]


def test_a_configuration_with_a_registry_is_fine_without_asking_it(config: Path) -> None:
    assert problems(config) == []


AVRO = "avro needs a schema registry: "
NAME_ONE = [
    f"{each}.codec: {AVRO}name one of the registries with `registry:`" for each in ("sources.orders", "targets.results")
]
NONE = [f"{each}.codec: {AVRO}add one below `registries:`" for each in ("sources.orders", "targets.results")]
TWO = 'main: {url: "https://a:1"}\n  other: {url: "https://b:1"}'
SOURCE, TARGET, REGISTRY = "sources.orders.registry", "targets.results.schemas", 'main: {url: "http://127.0.0.1:1"}'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("avro, no", "avro, registry: mian, no", [f"{SOURCE}: there is no registry `mian`; did you mean `main`?"]),
        ("avro, no", "json, registry: main, no", [f"{SOURCE}: only the codecs avro and protobuf have a registry"]),
        ("avro, schemas", "json, schemas", [f"{TARGET}: only the codecs avro and protobuf have schemas"]),
        (REGISTRY, TWO, NAME_ONE),
        (f"registries:\n  {REGISTRY}\n", "", NONE),
        ("order.avsc", "bridge.yaml", [f"{TARGET}.file: the schema is no Avro schema: JSONDecodeError"]),
        ("file: order.avsc", "auto_register: true", [f"{TARGET}: `auto_register` needs a `file`"]),
        ("file: order.avsc", 'subject: "{record}"', [f"{TARGET}: `{{record}}` in `subject` needs a `file`"]),
    ],
)
def test_what_is_wrong_is_told_where_it_is(config: Path, old: str, new: str, expected: list[str]) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    assert problems(config) == expected


def test_credentials_in_the_address_are_refused(config: Path) -> None:
    config.write_text(config.read_text().replace("http://127", "http://me:secret@127"))
    found = problems(config)
    assert [each.partition(": ")[0] for each in found] == ["registries.main.url"]
    assert "secret" not in found[0]


def test_the_credentials_of_a_registry_are_secrets(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hunter2")
    text = config.read_text()
    config.write_text(text.replace('127.0.0.1:1"', '127.0.0.1:1", username: me, password: "${REGISTRY_PASSWORD}"'))
    loaded = load_config([config])
    assert "hunter2" not in repr(loaded.config)
    password = loaded.config.registries["main"].password
    assert password is not None
    assert password.get_secret_value() == "hunter2"


def test_json_stands_in_where_no_registry_is_asked(config: Path) -> None:
    loaded = load_config([config])
    assert isinstance(source_codec(loaded, "orders", None), StandInCodec)
    assert isinstance(target_codec(loaded, "results", None), StandInCodec)
    headers = (("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "/s"), ("ce_type", "order.created"))
    message = MessageOptions(headers=headers).message(json.dumps({"id": "7", "total": 2.5}).encode())
    assert explain(loaded, "orders", message).routes == ("start",)
    plain = build_decoder(loaded, "orders").decode(Message(b"{}", headers=(("recordname", b"shop.Order"),)), POSITION)
    assert plain.extensions == {"recordname": "shop.Order"}


def test_what_no_serializer_wrote_is_not_published(config: Path) -> None:
    with pytest.raises(DecodeError, match=r"reads avro, but --data does not begin with the id of a schema.*--raw"):
        build(b"{}", "avro", MessageOptions(), "--data")
    assert build(b"\0\0\0\0\1x", "avro", MessageOptions(), "--data").body == b"\0\0\0\0\1x"
    assert build(b"{}", "avro", MessageOptions(raw=True), "--data").body == b"{}"


def test_a_bridge_in_a_test_needs_no_registry(config: Path) -> None:
    command = 'schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}'
    config.write_text(config.read_text().replace(command, "ignore: {}"))
    with LocalBridge([config]) as bridge:
        bridge.publish("orders", {"id": "7", "total": 2.5}, type="order.created")
        assert bridge.outcomes("orders")["ignored"] == 1
