"""Small bodies with a large decoded form are refused before they take memory; allowed bodies are cheap."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.codecs import registry
from bridge.codecs.confluent.avro import AvroSchema
from bridge.codecs.confluent.protobuf import ProtobufSchema
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import DEFAULT_LIMITS, check_values, parse_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodedTooLarge, DecodeError, TooManyValues
from bridge.core.message import Message
from tests.codecs.confluent.samples import POSITION, PROTO_DATA, proto_text

pytestmark = pytest.mark.long

SECONDS, MEBIBYTES = 0.25, 100


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[str, float, int]]:
    command = [sys.executable, "-m", "tests.codecs.confluent.bombs"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, tuple[str, float, int]] = json.loads(done.stdout)
    return found


def test_bombs_end_in_a_word_of_their_own(measured: dict[str, tuple[str, float, int]]) -> None:
    outcomes = {name: outcome for name, (outcome, _, _) in measured.items()}
    assert "memory" not in outcomes.values()
    for name in ("avro wide records of nulls", "avro nulls", "protobuf wide messages", "json arrays"):
        assert outcomes[name] == "too_many_values", name
    for name in ("avro long names", "protobuf wide messages of a oneof", "protobuf long symbols"):
        assert outcomes[name] == "decoded_too_large", name
    assert {name for name in outcomes if " most " in name and outcomes[name] != "decoded"} == set()


@pytest.mark.measured
def test_nothing_takes_more_than_its_share_of_time_and_memory(measured: dict[str, tuple[str, float, int]]) -> None:
    assert {name: time for name, (_, time, _) in measured.items() if time > SECONDS} == {}
    assert {name: size for name, (_, _, size) in measured.items() if size > MEBIBYTES} == {}


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    return 1


TEXTS = st.text(st.sampled_from('[]{},:"\\ a\n'), max_size=5)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES, st.sampled_from([None, 2]))
def test_values_of_json_are_counted_exactly(value: Any, indent: int | None) -> None:
    body, count = json.dumps(value, indent=indent).encode(), _count(value)
    check_values(body, LimitsConfig(max_values=count))
    if count > 1:
        with pytest.raises(TooManyValues):
            check_values(body, LimitsConfig(max_values=count - 1))


@settings(deadline=None)
@given(VALUES)
def test_values_of_avro_are_counted_as_those_of_json(value: Any) -> None:
    kinds = ["null", "long", "string", {"type": "array", "items": "V"}, {"type": "map", "values": "V"}]
    schema = AvroSchema(RegisteredSchema(json.dumps({"type": "record", "name": "V", "fields": [
        {"name": "v", "type": kinds}]}), "AVRO"))  # fmt: skip

    def tree(given_: Any) -> Any:
        if isinstance(given_, int) and not -(2**63) <= given_ < 2**63:
            given_ = 0
        if isinstance(given_, dict):
            given_ = {"@type": "map", "value": {key: tree(each) for key, each in given_.items()}}
        return {"v": [tree(each) for each in given_] if isinstance(given_, list) else given_}

    read = partial(schema.decode, schema.encode(tree(value)), ())
    data = read(DEFAULT_LIMITS)
    count = _count(data)
    if '"@type"' not in json.dumps(data):
        assert read(LimitsConfig(max_values=count)) == data
        with pytest.raises(TooManyValues):
            read(LimitsConfig(max_values=count - 1))


def test_bytes_of_avro_and_protobuf_are_bounded() -> None:
    text = AvroSchema(RegisteredSchema('"string"', "AVRO"))
    with pytest.raises(DecodedTooLarge, match=r"more than the 9 bytes that limits\.max_decoded allows") as refusal:
        text.decode(text.encode("a" * 10), (), LimitsConfig(max_decoded=9))
    assert refusal.value.reason == "decoded_too_large"
    assert text.decode(text.encode("a" * 10), (), LimitsConfig(max_decoded=10)) == "a" * 10
    order = ProtobufSchema(RegisteredSchema(proto_text(), "PROTOBUF"), "shop.Order")
    for limits, error in (
        (LimitsConfig(max_decoded=100), DecodedTooLarge),
        (LimitsConfig(max_values=8), TooManyValues),
    ):
        with pytest.raises(error):
            order.decode(order.encode(PROTO_DATA), (1,), limits)


def test_json_inside_a_cloud_event_is_bounded() -> None:
    limits = LimitsConfig(max_values=20)
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    inner = "W" + "zAsMCwwLDAsMCwwLDAsMCwwLDAsMCwwLDAsMCwwLDAsMCwwLDAsMF0="
    event = attributes | {"datacontenttype": "application/json", "data_base64": inner}
    with pytest.raises(TooManyValues) as refusal:
        registry.get("cloudevents", limits).decode(Message(json.dumps(event).encode()), POSITION)
    assert refusal.value.reason == "too_many_values"
    with pytest.raises(DecodeError):
        parse_json(b"[" * 200, limits)
