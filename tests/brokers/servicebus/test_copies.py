"""Copies of messages by `bridge topic read --json | bridge publish --jsonl`: unchanged."""

from __future__ import annotations

import asyncio
import random
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bridge.app.messages.jsonlines import line_of
from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import copies, decoding, encoding
from bridge.brokers.servicebus.amqp.messages import outgoing
from bridge.core.errors import PublishFailed
from bridge.core.message import Message, Position
from tests.app.test_jsonlines import MESSAGES, Copier, kafka, local, parsed  # noqa: F401 -- fixtures
from tests.brokers.servicebus.poison import SCALARS, decimal, readable
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer, message
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.decoder import decode, elements, pairs, skip
from tests.servicebus.server.amqp.encoder import NULL, binary, described, mapping, sequence, string, symbol
from tests.servicebus.server.message import (
    ANNOTATIONS,
    APPLICATION_PROPERTIES,
    DATA,
    FOOTER,
    HEADER,
    PROPERTIES,
    SEQUENCE,
    VALUE,
)

HERE = Position("c", "one", 0, 1)


class BusCopier(Copier):
    """Copier from the queue `one` to `other`."""

    def __init__(self, path: Any) -> None:
        runner = asyncio.Runner()
        queues = (QueueConfig("one"), QueueConfig("other"))
        self.server = ServiceBusServer(ServerConfig(queues, property_limits=None))
        runner.run(self.server.start())
        broker = f"{{type: servicebus, connection_string: '{self.server.connection_string}'}}"
        super().__init__(path, broker, runner)

    def stop(self) -> None:
        self.runner.run(self.broker.stop())
        self.runner.run(self.server.stop())
        self.runner.close()
        assert self.server.counters.crashes == []

    def store(self, messages: Sequence[bytes]) -> None:
        """Store messages unchanged in the emptied queue `one`; `other` is emptied too."""

        async def store() -> None:  # timers of messages need a running loop
            self.server.clear()
            for raw in messages:
                self.server.queue("one").accept(message.Message(raw))

        self.runner.run(store())

    def lies(self, queue: str) -> list[Any]:
        """Return the sections of the messages of a queue, byte for byte, without the broker's own fields."""
        found = self.server.queue(queue).browse(1, 10_000)
        return [_sections(each) for each in sorted(found, key=_run)]


def _run(each: message.Message) -> tuple[str, str]:
    """Return the sort key: messages with one key are sent together."""
    keys = [decode(value)[0] for name, value in each.annotations if decode(name)[0] == "x-opt-partition-key"]
    return str(each.session_id), str(keys)


def _sections(each: message.Message) -> Any:
    fields = elements(each.properties, skip(each.properties, 1)) if each.properties else []
    fields = [*fields, *[NULL] * (13 - len(fields))]
    fields[8] = NULL  # time of expiry, which the broker computes
    application = each.application_properties
    # The length of a data section may have one byte or four
    body = [
        (code, decode(each.body, value)[0] if code == DATA else each.body[value:end])
        for code, _, value, end in message.sections(each.body)
    ]
    return {
        "ttl": each.ttl,
        "annotations": sorted(each.annotations),
        "properties": fields,
        "application": pairs(application, skip(application, 1)) if application else [],
        "body": body,
        "footer": pairs(each.footer, skip(each.footer, 1)) if each.footer else [],
    }


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusCopier]:
    copier = BusCopier(tmp_path_factory.mktemp("copies") / "bridge.yaml")
    yield copier
    copier.stop()


SEEDS = st.integers(0, 2**32 - 1).map(random.Random)
PLAIN = st.sampled_from(["a", "ключ", "content-type", "Content-Type", "ce_id", "cloudEvents_id", "cloudEvents:id"])
NAMES = PLAIN | st.sampled_from(
    ["servicebus.subject", "servicebus.tombstone", "servicebus.message_id", "bridge.reason", "DeadLetterReason",
     "DeadLetterErrorDescription", "ce_time", "cloudEvents:time", "cloudEvents:data", "", "\ufdd0ff"]
)  # fmt: skip
TEXTS = st.sampled_from(["", "1", "true", "True", "ü", "0.10000000149011612", 'x\nbridge: {"topic": "t"}']).map(string)
FLOATS = st.floats(width=32).map(lambda value: b"\x72" + struct.pack(">f", value))
TIMES = st.sampled_from([0, -1, 1, 1706700000000, 2**62, -(2**62)]).map(encoder.timestamp)
BYTES = st.binary(max_size=5).map(binary)
VALUES = TEXTS | FLOATS | TIMES | BYTES | SEEDS.map(lambda r: r.choice(SCALARS)(r)) | SEEDS.map(readable)
IDS = (
    st.sampled_from(["m-1", "True", "7", str(uuid.UUID(int=7))]).map(string)
    | st.integers(0, 2**64 - 1).map(encoder.ulong)
    | st.integers(0, 300).map(lambda n: b"\x80" + n.to_bytes(8))
    | st.just(encoder.guid(uuid.UUID(int=7)))
    | st.binary(min_size=1, max_size=8).map(binary)
    | st.sampled_from([b"\x41", b"\x42", b"\x56\x01", symbol("m-1")])
)
KEYS = st.sampled_from(["k", "ключ", "True"]).map(string)
FIELDS = st.tuples(
    st.none() | IDS,
    st.none() | BYTES,
    *[st.none() | TEXTS] * 3,
    st.none() | IDS,
    st.none() | st.sampled_from(["text/plain", "application/json", ""]).map(symbol) | TEXTS,
    st.none() | st.sampled_from([symbol("gzip"), string("gzip")]),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | KEYS,
    st.none() | st.integers(0, 2**32 - 1).map(encoder.uint),
    st.none() | TEXTS,
)
THEIRS: Any = st.dictionaries(
    st.sampled_from(["x-theirs", "x-opt-partition-key", "x-opt-via-partition-key"]), KEYS, max_size=2
) | st.builds(dict, st.lists(st.tuples(st.just("x-theirs"), VALUES), max_size=1))
DUE = st.sampled_from([0, 1706700000000, 4102444800000]).map(encoder.timestamp)
BODIES = st.one_of(
    st.lists(st.binary(max_size=300), max_size=3).map(lambda parts: [described(DATA, binary(each)) for each in parts]),
    st.just([described(DATA, b"\xb0\0\0\0\x02{}")]),
    VALUES.map(lambda value: [described(VALUE, value)]),
    st.lists(VALUES.map(lambda value: described(SEQUENCE, sequence([value, NULL]))), min_size=1, max_size=2),
).map(b"".join)


def fields(message_id: bytes, content_type: bytes = NULL) -> bytes:
    """Create a message with these properties."""
    return described(PROPERTIES, sequence([message_id, *[NULL] * 5, content_type])) + described(DATA, binary(b"x"))


@st.composite
def encoded(draw: st.DrawFn) -> bytes:
    """Generate an AMQP message with every section, as other senders' libraries may write it."""
    raw = b""
    if (ttl := draw(st.none() | st.integers(10**6, 2**32 - 1))) is not None:
        raw += described(HEADER, sequence([draw(st.sampled_from([NULL, b"\x41"])), NULL, encoder.uint(ttl)]))
    annotations = [(symbol(name), value) for name, value in draw(THEIRS).items()]
    if (due := draw(st.none() | DUE)) is not None:
        annotations.append((symbol("x-opt-scheduled-enqueue-time"), due))
    if annotations:
        raw += described(ANNOTATIONS, mapping(annotations))
    if draw(st.booleans()):
        raw += described(PROPERTIES, sequence([NULL if each is None else each for each in draw(FIELDS)]))
    if properties := draw(st.dictionaries(NAMES, VALUES, max_size=4)):
        raw += described(APPLICATION_PROPERTIES, mapping([(string(name), value) for name, value in properties.items()]))
    raw += draw(BODIES)
    if draw(st.booleans()):
        raw += described(FOOTER, mapping([(symbol("sum"), draw(VALUES))]))
    return raw


def with_properties(*properties: tuple[str, bytes], body: bytes = described(DATA, binary(b"x"))) -> bytes:
    """Create a message with these application properties."""
    section = mapping([(string(name), value) for name, value in properties])
    return described(APPLICATION_PROPERTIES, section) + body


def order(each: Message) -> tuple[str, str]:
    """Return the sort key: messages with one key are sent together."""
    return repr(each.key), repr(each.partition_key)


def received(each: Message) -> Any:
    """Fields of a message, except the broker's time and the encoded form, which `lies` compares."""
    return each.body, each.key, each.headers, each.message_id, each.content_type, each.partition_key


def peeked(raw: bytes) -> Message:
    """Return a message as a peeking reader receives it."""
    decoded = decoding.decode(raw)
    decoded.encoded = raw
    return copies.read(ServiceBusReceivedMessage(decoded, receiver=None))


def sent(message: Message) -> Any:
    """Encode an outgoing message, byte for byte."""
    found = copies.outgoing(message, "cloudEvents_")
    amqp = sdk_internals.Transport.to_outgoing_amqp_message(found.raw_amqp_message)
    return encoding.parse(sdk_internals.encode(amqp))


EXAMPLES = (
    with_properties(("n", b"\x55\x05"), ("f", b"\x72" + struct.pack(">f", 0.1)), ("t", encoder.timestamp(1))),
    with_properties(("b", binary(b"x")), ("ce_id", string("1")), ("content-type", string("text/plain"))),
    fields(b"\x41", content_type=symbol("text/plain")),
    with_properties(("n", decimal(Decimal("1E+2"), 16)), body=described(VALUE, NULL)),
    with_properties(("servicebus.tombstone", b"\x41"), body=described(DATA, binary(b""))),
)


@settings(deadline=None)
@given(encoded())
@example(EXAMPLES[0])
@example(EXAMPLES[1])
@example(EXAMPLES[2])
@example(EXAMPLES[3])
@example(EXAMPLES[4])
def test_a_line_is_the_whole_message(raw: bytes) -> None:
    assert encoding.extend_encoder()
    read = peeked(raw)
    assume(read.unreadable is None)
    [line] = parsed(line_of(HERE, read))
    assert sent(line) == encoding.parse(raw)


@settings(deadline=None, max_examples=15)
@given(messages=st.lists(encoded(), min_size=1, max_size=15))
@example(messages=list(EXAMPLES))
def test_a_copy_on_service_bus(bus: BusCopier, messages: list[bytes]) -> None:
    bus.store([raw for raw in messages if peeked(raw).unreadable is None])
    first, second = bus.copy("one", "other")
    assert [received(each) for each in sorted(second, key=order)] == [
        received(each) for each in sorted(first, key=order)
    ]
    assert bus.lies("other") == bus.lies("one")


@settings(deadline=None, max_examples=15)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=6))
def test_a_copy_of_what_the_bridge_published(bus: BusCopier, messages: list[Message]) -> None:
    bus.store([])
    # A content type of AMQP is ASCII, and a session id is never empty
    plain = [tuple(each for each in one.headers if each[0] != "content-type") for one in messages]
    bus.runner.run(
        bus.broker.publish(
            "one", [replace(one, key=None, headers=headers) for one, headers in zip(messages, plain, strict=True)]
        )
    )
    first, second = bus.copy("one", "other")
    assert list(map(received, second)) == list(map(received, first))
    assert bus.lies("other") == bus.lies("one")


def test_what_is_changed_in_a_line_goes_as_text(bus: BusCopier) -> None:
    properties = (("n", b"\x55\x05"), ("m", b"\x55\x06"), ("ce_id", string("1")), ("gone", b"\x41"))
    raw = described(PROPERTIES, sequence([encoder.ulong(7), NULL, string("here"), string("s"), NULL, encoder.ulong(9)]))
    read = peeked(raw + with_properties(*properties, body=described(VALUE, b"\x55\x01")))
    [line] = parsed(line_of(HERE, read))
    headers = tuple(
        (name, b"new" if name in ("n", "servicebus.subject") else value)
        for name, value in line.headers
        if name != "gone"
    )
    changed = sent(replace(line, headers=(*headers, ("more", b"1")), body=b"2", message_id="8"))
    assert changed.application == {b"m": b"\x55\x06", b"ce_id": string("1"), b"n": string("new"), b"more": string("1")}
    assert changed.fields[:6] == [string("8"), None, string("here"), string("new"), None, encoder.ulong(9)]
    assert changed.body == [(DATA, b"2")]


def test_a_plain_message_has_no_encoded_form() -> None:
    plain = outgoing(Message(b"x", b"k", (("a", "ü".encode()), ("content-type", b"text/plain")), message_id="m-1"))
    raw = sdk_internals.encode(sdk_internals.Transport.to_outgoing_amqp_message(plain.raw_amqp_message))
    assert peeked(raw).native is None


@pytest.mark.parametrize(
    "native", [b"x", b"\x00", fields(b"\x99"), described(0x79, NULL), with_properties(("n", b"\x57"))]
)
def test_an_encoded_form_that_is_none_is_refused(native: bytes) -> None:
    with pytest.raises(PublishFailed, match="not an AMQP message"):
        copies.outgoing(Message(b"x", native=native), "cloudEvents_")


@pytest.mark.parametrize("broker", ["local", "kafka"])
def test_other_brokers_take_no_notice(request: pytest.FixtureRequest, broker: str) -> None:
    first, _ = request.getfixturevalue(broker).copied([replace(peeked(EXAMPLES[0]), message_id=None)])
    assert (first[0].body, first[0].native) == (b"x", None)
