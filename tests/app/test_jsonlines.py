"""Messages as lines of JSON and back: through text alone, a real local broker and the Kafka server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.app.composition import build_broker, load_config
from bridge.app.messages.jsonlines import line_of
from bridge.app.messages.reading import MessageOptions, lines
from bridge.brokers.base import Broker, ReadableBroker, ReadOptions
from bridge.core.errors import DecodeError, PublishFailed
from bridge.core.message import Message, Position, Unreadable
from tests.kafka.server import ThreadedServer

HERE = Position("c", "orders", 2, 41)

NUMBERS = (
    "0", "-0", "1.10", "1e400", "1E+2", "NaN", "-Infinity", "12345678901234567890.123456789", "9" * 30, "9" * 5000,
)  # fmt: skip
SPACES = st.sampled_from(["", " ", "\t", "\n", "\r\n", "\u00a0"])
TEXTS = st.text(max_size=6) | st.sampled_from(["\\ud800", "\\u0000", "\u2028", "\u009b2J", "\U0010ffff", "\ufdd0ff"])
SCALARS = st.sampled_from([*NUMBERS, "true", "null"]) | TEXTS.map(lambda text: json.dumps(text).replace("\\\\u", "\\u"))


def _object(members: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f'{space}"{name}":{space}{value}' for name, space, value in members) + "}"


JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
        | st.lists(st.tuples(st.sampled_from(["a", "b"]), SPACES, inner), max_size=3).map(_object)
    ),
    max_leaves=6,
)
"""JSON of other writers: with white space, repeated keys and numbers that no double represents; some is malformed."""

VALUES = st.binary(max_size=6) | TEXTS.map(str.encode)
BODIES = st.none() | VALUES | JSON.map(str.encode) | st.tuples(JSON, SPACES).map(lambda pair: "".join(pair).encode())
NAMES = st.sampled_from(["a", "b", "a_base64", "content-type", "ключ", ""])
MILLISECONDS = st.integers(-(2**63), 2**63 - 1).filter(lambda value: value != -1) | st.sampled_from(
    [0, -2, 1706700000000, 1706700000000000, 253402300799999, 253402300800000, -62135596800000, 2**63 - 1, -(2**63)]
)
MESSAGES = st.builds(
    Message,
    BODIES,
    st.none() | VALUES,
    st.lists(st.tuples(NAMES, st.none() | VALUES), max_size=5).map(tuple),
)


def at(message: Message, milliseconds: int | None) -> Message:
    return (
        message if milliseconds is None else replace(message, timestamp=milliseconds / 1000, timestamp_ms=milliseconds)
    )


def parsed(text: str, topic: str = "copies") -> list[Message]:
    batches = lines(io.BytesIO(text.encode()), topic, MessageOptions(), "stdin")
    return [message for batch in batches for _, message in batch]


def received(message: Message) -> Any:
    return message.body, message.key, message.headers, message.milliseconds


@given(MESSAGES, st.none() | MILLISECONDS, st.booleans())
@example(Message(b'{"a": 1.10, "a": 1e2}'), -1, True)
@example(Message('{"a": "ü"}'.encode()), None, True)
@example(Message(b"{" + b'"a":{' * 498 + b"}" * 498 + b"}"), None, False)
@example(Message(b"[" * 5000 + b"]" * 5000), None, False)
@example(Message(b"", None, (("a", b"1"), ("b", b"2"), ("a", b"3"))), None, False)
def test_a_line_is_the_message(message: Message, milliseconds: int | None, ascii_only: bool) -> None:
    message = at(message, milliseconds)
    line = line_of(HERE, message, ascii_only=ascii_only)
    assert "\n" not in line
    assert line.splitlines() == [line]
    assert not ascii_only or line.isascii()
    assert [received(each) for each in parsed(line)] == [received(message)]
    strict = json.loads(line, parse_constant=pytest.fail)
    assert [strict[name] for name in ("topic", "partition", "offset")] == ["orders", 2, 41]


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b'{"id": "1"}', '"body": {"id": "1"}'),
        (
            b'{"amount": 12345678901234567890.123456789, "b": 1.10, "b": 2}',
            ': 12345678901234567890.123456789, "b": 1.10, ',
        ),
        (b'{"a": 1e400}', '"body": "{\\"a\\": 1e400}"'),
        (b'{"a": NaN}', '"body": "{\\"a\\": NaN}"'),
        (b'{\n  "a": 1\n}', '"body": "{\\n  \\"a\\": 1\\n}"'),
        (b"7", '"body": "7"'),
        (b"", '"body": ""'),
        (None, '"body": null'),
        (b"\xff", '"body_base64": "/w=="'),
    ],
)
def test_bodies(body: bytes | None, member: str) -> None:
    assert member in line_of(HERE, Message(body))


def test_headers_keep_their_order() -> None:
    one = json.loads(line_of(HERE, Message(b"", headers=(("a", b"1"), ("a", b"\xff"), ("b", None)))))
    assert (one["headers"], "header_order" in one) == ({"a": ["1", {"base64": "/w=="}], "b": None}, False)
    other = json.loads(line_of(HERE, Message(b"", headers=(("a", b"1"), ("b", b"2"), ("a", b"3")))))
    assert (other["headers"], other["header_order"]) == ({"a": ["1", "3"], "b": "2"}, ["a", "b", "a"])


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00.000Z"),
        (-5, "1969-12-31T23:59:59.995Z"),
        (1706700000000000, 1706700000000000),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
        (253402300800000, 253402300800000),
        (-(2**63), -(2**63)),
    ],
)
def test_timestamps(milliseconds: int | None, shown: Any) -> None:
    assert json.loads(line_of(HERE, at(Message(b""), milliseconds)))["timestamp"] == shown


def test_what_service_bus_adds() -> None:
    message = Message(b"x", message_id="m-\ufdd0ff", partition_key="p")
    [read] = parsed(line_of(HERE, message))
    assert (read.message_id, read.partition_key) == ("m-\ufdd0ff", "p")


def test_a_message_that_cannot_be_parsed() -> None:
    unreadable = Unreadable("crc", "the checksum of the batch is wrong", last=44)
    line = line_of(HERE, Message(b"\xff\0", b"k", unreadable=unreadable, timestamp=1.0))
    assert json.loads(line) == {
        "topic": "orders", "partition": 2, "offset": 41, "timestamp": "1970-01-01T00:00:01.000Z", "key": "k",
        "headers": {}, "raw_base64": "/wA=",
        "unreadable": {"fault": "crc", "detail": "the checksum of the batch is wrong", "last_offset": 44},
    }  # fmt: skip
    with pytest.raises(DecodeError, match=r"^stdin:2: .*cannot be parsed; remove it"):
        parsed(f'{{"body": 1}}\n{line}\n')


def test_the_place_of_a_message_is_no_wish() -> None:
    line = line_of(HERE, Message(b"x"))
    assert [
        topic for batch in lines(io.BytesIO(line.encode()), "copies", MessageOptions(), "x") for topic, _ in batch
    ] == ["copies"]
    assert [topic for batch in lines(io.BytesIO(line.encode()), None, MessageOptions(), "x") for topic, _ in batch] == [
        "orders"
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"body": 1, "body_base64": ""}', "has both body and body_base64"),
        ('{"body": 1, "key": "k", "key_base64": ""}', "has both key and key_base64"),
        ('{"body_base64": "*"}', "body_base64 is not valid base64"),
        ('{"body_base64": 7}', "body_base64 is not valid base64"),
        ('{"body": 1, "headers": {"a": {"base64": "*"}}}', "base64 of a header is not valid base64"),
        ('{"body": 1, "headers": {"a": {"base64": "", "b": 1}}}', "headers must be an object of texts"),
        ('{"body": 1, "headers": [1]}', "headers must be an object"),
        ('{"body": 1, "headers": {"a": "1"}, "header_order": ["b"]}', "header_order must be"),
        ('{"body": 1, "headers": {"a": "1"}, "header_order": [1]}', "header_order must be"),
        ('{"body": 1, "timestamp": "yesterday"}', "timestamp must be RFC 3339"),
        ('{"body": 1, "timestamp": "2026-01-31T09:30:00"}', "timestamp must be RFC 3339"),
        ('{"body": 1, "timestamp": 1.5}', "timestamp must be RFC 3339"),
        ('{"body": 1, "timestamp": 9223372036854775808}', "in 64 bits"),
        ('{"body": 1, "message_id": 7}', "message_id must be text"),
        ('{"body": 1, "offsets": 7}', "unknown member 'offsets'"),
    ],
)
def test_what_is_no_line(line: str, what: str) -> None:
    with pytest.raises(DecodeError, match=f"stdin:1: .*{what}"):
        parsed(line)


def test_of_a_repeated_member_the_last_counts() -> None:
    line = '{"body" :1 , "x\\u0062ody":[1], "body": {"body": [ 2 ]} , "offset": 1}'.replace(
        '"x\\u0062ody"', '"partition"'
    )
    assert [message.body for message in parsed(line)] == [b'{"body": [ 2 ]}']
    assert [message.body for message in parsed('{"b\\u006fdy": 1.10}')] == [b"1.10"]


class Copier:
    """Publisher that copies a topic as `topic read --json | publish --jsonl` does."""

    def __init__(self, path: Path, broker: str, runner: asyncio.Runner | None = None) -> None:
        self.runner = runner or asyncio.Runner()
        path.write_text(f"engine: {{type: embedded}}\nbrokers: {{it: {broker}}}\n")
        self.broker: Broker = build_broker(load_config([path]), "it")
        self.runner.run(self.broker.start())
        self.topics = (f"t-{number}" for number in count())

    def stop(self) -> None:
        self.runner.run(self.broker.stop())
        self.runner.close()

    def copied(self, messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
        """Publish messages to a topic and copy the topic; return the messages of both topics."""
        one, other = next(self.topics), next(self.topics)
        self.runner.run(self.broker.publish(one, messages))
        return self.copy(one, other)

    def copy(self, one: str, other: str) -> tuple[list[Message], list[Message]]:
        """Copy a topic. Returns the messages of both topics."""
        first = self.runner.run(self._read(one))
        text = "".join(f"{line_of(position, message)}\n" for position, message in first)
        self.runner.run(self.broker.publish(other, parsed(text)))
        return [message for _, message in first], [message for _, message in self.runner.run(self._read(other))]

    async def _read(self, topic: str) -> list[tuple[Position, Message]]:
        assert isinstance(self.broker, ReadableBroker)
        found: Any = self.broker.read(ReadOptions(topic))
        async with aclosing(found):
            return [pair async for pair in found]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copier]:
    copier = Copier(tmp_path_factory.mktemp("copies") / "bridge.yaml", "{type: local, partitions: 1}")
    yield copier
    copier.stop()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copier]:
    server = ThreadedServer()
    broker = f"{{type: kafka, bootstrap_servers: '{server.bootstrap}', create_topics: true, partitions: 1}}"
    copier = Copier(tmp_path_factory.mktemp("copies") / "bridge.yaml", broker)
    yield copier
    copier.stop()
    server.stop()


YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800
FITS = st.integers(-(2**63) // 1000 + 1, 2**63 // 1000 - 1) | st.integers(YEAR_1 * 1000, YEAR_10000 * 1000)
"""Milliseconds that fit the local log as microseconds in 64 bits; half of them within the years of RFC 3339."""


@settings(deadline=None, max_examples=60)
@given(messages=st.lists(st.tuples(MESSAGES, st.none() | FITS), min_size=1, max_size=15))
@example(messages=[(Message(b"x"), 71_849_296_074_411)])
def test_a_copy_on_the_local_broker(local: Copier, messages: list[tuple[Message, int | None]]) -> None:
    given_ = [at(*each) for each in messages]
    first, second = local.copied(given_)
    assert second == first
    for one, read in zip(given_, first, strict=True):
        assert received(read)[:3] == received(one)[:3]
        assert one.timestamp is None or read.milliseconds == one.milliseconds


@settings(deadline=None, max_examples=40)
@given(messages=st.lists(st.floats(YEAR_1, YEAR_10000 - 1), min_size=1, max_size=15))
def test_a_copy_of_seconds_in_floats(local: Copier, messages: list[float]) -> None:
    first, second = local.copied([Message(b"x", timestamp=seconds) for seconds in messages])
    assert second == first


@settings(deadline=None, max_examples=20)
@given(st.integers(-(2**32) * 1_000_000, 2**32 * 1_000_000))
def test_microseconds_of_the_local_broker(local: Copier, microseconds: int) -> None:
    first, second = local.copied([Message(b"x", timestamp=microseconds / 1e6)])
    assert first[0].timestamp == second[0].timestamp == microseconds / 1e6


def test_a_time_that_the_local_log_cannot_hold(local: Copier) -> None:
    with pytest.raises(PublishFailed, match="292,000 years"):
        local.copied([at(Message(b"x"), 2**63 - 1)])
    assert len(local.copied([Message(b"x")][0:1])[1]) == 1


@settings(deadline=None, max_examples=30)
@given(messages=st.lists(st.tuples(MESSAGES, st.none() | MILLISECONDS), min_size=1, max_size=15))
def test_a_copy_on_kafka(kafka: Copier, messages: list[tuple[Message, int | None]]) -> None:
    # The client sends no record without key and value
    given_ = [at(replace(one, key=one.key or b"k") if one.body is None else one, time) for one, time in messages]
    first, second = kafka.copied(given_)
    assert second == first
    for one, read in zip(given_, first, strict=True):
        assert received(read)[:3] == received(one)[:3]
        assert one.timestamp is None or read.milliseconds == one.milliseconds


def test_no_timestamp_on_kafka_is_none(kafka: Copier) -> None:
    first, _ = kafka.copied([at(Message(b"x"), -1)])
    assert (first[0].timestamp, first[0].milliseconds) == (None, None)
