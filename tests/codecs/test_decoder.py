"""Envelopes with the attributes and settings of a source's configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.codecs import registry
from bridge.codecs.decoder import IDENTITY_LIMIT, SourceDecoder, attribute_problem
from bridge.codecs.schema import JsonSchema
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError, ExpressionError, SchemaError
from bridge.core.message import Message, Position

POSITION = Position("local", "orders", 3, 42)
JSON = registry.get("json")
CLOUDEVENTS = registry.get("cloudevents")
EVENT = json.dumps({"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "t", "x": "y", "data": 1}).encode()


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def test_expressions_see_the_message() -> None:
    seen: list[dict[str, Any]] = []

    def look(variables: Any) -> str:
        seen.append(dict(variables))
        return "x"

    message = Message(b'{"a":1}', b"k", (("h", b"1"),), 3.5, "m-1")
    SourceDecoder(JSON, attributes={"type": look}).decode(message, POSITION)
    bare = Message(b"2")
    SourceDecoder(JSON, identity=look).decode(bare, POSITION)
    assert seen == [
        {
            "headers": {"h": "1"},
            "key": "k",
            "topic": "orders",
            "partition": 3,
            "offset": 42,
            "timestamp": 3.5,
            "message_id": "m-1",
            "payload": {"a": 1},
            "message": message,
        },
        {
            "headers": {},
            "key": None,
            "topic": "orders",
            "partition": 3,
            "offset": 42,
            "timestamp": None,
            "message_id": None,
            "payload": 2,
            "message": bare,
        },
    ]


def test_one_scope_serves_all_expressions_of_a_message() -> None:
    made: list[dict[str, Any]] = []

    def scope(**variables: Any) -> dict[str, Any]:
        made.append(variables)
        return variables

    def read(found: Any) -> str:
        assert found is made[-1]
        return str(found["payload"])

    decoder = SourceDecoder(JSON, attributes={"type": read, "subject": read}, identity=read, scope=scope)
    for body in (b"1", b"2"):
        envelope = decoder.decode(Message(body), POSITION)
        assert (envelope.type, envelope.subject, envelope.message_id) == (body.decode(),) * 3
    assert len(made) == 2


def test_attributes_are_set_and_rendered() -> None:
    values: dict[str, Any] = {
        "id": 7,
        "source": 7.0,
        "type": "order.created",
        "subject": True,
        "time": "2026-01-31T09:30:00Z",
        "dataschema": None,
        "datacontenttype": 1.5,
        "region": "eu",
        "count": 3,
        "gone": None,
    }
    decoder = SourceDecoder(JSON, attributes={name: constant(value) for name, value in values.items()})
    envelope = decoder.decode(Message(b"1", message_id="m-1"), POSITION)
    assert (envelope.id, envelope.source, envelope.type, envelope.subject) == ("7", "7", "order.created", "true")
    assert (envelope.time, envelope.dataschema, envelope.datacontenttype) == ("2026-01-31T09:30:00Z", None, "1.5")
    assert envelope.extensions == {"region": "eu", "count": 3}
    assert envelope.message_id == "local/orders/m-1"


def test_attributes_override_those_of_the_event() -> None:
    decoder = SourceDecoder(CLOUDEVENTS, attributes={"type": constant("mine"), "x": constant(None)})
    envelope = decoder.decode(Message(EVENT), POSITION)
    assert (envelope.type, envelope.extensions, envelope.message_id) == ("mine", {}, "/shop A-1")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("type", "", "attribute type is empty"),
        ("id", None, "attribute id is empty"),
        ("subject", {}, "attribute subject gives dict, not text"),
        ("time", "now", "RFC 3339"),
        ("region", [1], "attribute region gives list"),
    ],
)
def test_an_attribute_that_cannot_be_is_told(name: str, value: Any, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        SourceDecoder(JSON, attributes={name: constant(value)}).decode(Message(b"1"), POSITION)


def test_the_identity_of_the_source_wins() -> None:
    decoder = SourceDecoder(CLOUDEVENTS, identity=lambda found: f"mine-{found['payload']}")
    assert decoder.decode(Message(EVENT, message_id="m-1"), POSITION).message_id == "mine-1"
    with pytest.raises(ExpressionError, match="identity is empty"):
        SourceDecoder(JSON, identity=constant("")).decode(Message(b"1"), POSITION)


def test_a_long_identity_stays_bounded_and_distinct() -> None:
    decoder = SourceDecoder(JSON)
    room = IDENTITY_LIMIT - len("local/orders/")
    ids = [
        decoder.decode(Message(b"1", message_id="m" * size), POSITION).message_id for size in (room, room + 1, room + 2)
    ]
    assert ids[0] == "local/orders/" + "m" * room
    assert len(set(ids)) == 3
    assert max(map(len, ids)) <= IDENTITY_LIMIT


def test_headers_of_ours_are_believed_only_from_a_replay() -> None:
    headers = (("bridge.message-id", b"forged"), ("bridge.executed", b"route"), ("h", b"1"))
    for kept, codec, body in ((True, JSON, b"1"), (False, JSON, b"1"), (True, CLOUDEVENTS, EVENT)):
        decoder = SourceDecoder(codec, identity=constant("mine"), trusted="replay" if kept else None)
        envelope = decoder.decode(Message(body, headers=headers), POSITION)
        assert envelope.message_id == ("forged" if kept else "mine")
        assert ("bridge.executed" in envelope.headers) is kept
        assert envelope.headers["h"] == "1"
    envelope = SourceDecoder(JSON, trusted="replay").decode(Message(b"1", message_id="m"), POSITION)
    assert envelope.message_id == "local/orders/m"


def test_the_size_limit_holds_before_any_codec() -> None:
    with pytest.raises(DecodeError, match="max_payload"):
        SourceDecoder(JSON, LimitsConfig(max_payload=1)).decode(Message(b"12"), POSITION)


def test_the_schema_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text('{"type": "object"}')
    decoder = SourceDecoder(JSON, schema=JsonSchema(path))
    assert decoder.decode(Message(b"{}"), POSITION).data == {}
    with pytest.raises(SchemaError, match=r"breaks order\.json"):
        decoder.decode(Message(b"[]"), POSITION)
    with pytest.raises(SchemaError):
        decoder.decode(Message(b"null"), POSITION)
    assert decoder.decode(Message(None), POSITION).data is None


def test_names_of_attributes_are_checked() -> None:
    assert attribute_problem("type") is None
    assert attribute_problem("region2") is None
    assert "a-z and 0-9" in (attribute_problem("Region") or "")
    assert "cannot be set" in (attribute_problem("data") or "")
