"""Conversion between AMQP messages and bridge messages."""

from __future__ import annotations

import base64
import datetime
import uuid
from dataclasses import replace
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageProperties
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.brokers.servicebus.amqp.messages import outgoing, received, runs
from bridge.brokers.servicebus.dead_letters import LIMIT, describe, unfold
from bridge.brokers.servicebus.entity import EntityPath
from bridge.codecs import registry
from bridge.core import provenance
from bridge.core.bytetext import text_of
from bridge.core.errors import DecodeError, PublishFailed
from bridge.core.message import Envelope, Event, Message, Position
from bridge.core.provenance import Cause

POSITION = Position("shop.servicebus.windows.net", "orders", 0, 7)


def wire(message: ServiceBusMessage) -> ServiceBusReceivedMessage:
    """Return the message as a receiver decodes it."""
    from azure.servicebus._pyamqp._encode import encode_payload
    from azure.servicebus._transport._pyamqp_transport import PyamqpTransport

    payload = bytearray()
    encode_payload(payload, PyamqpTransport.to_outgoing_amqp_message(message.raw_amqp_message))
    return ServiceBusReceivedMessage.from_bytes(bytes(payload))


def test_everything_passes() -> None:
    headers = (("h", b"1"), ("binary", b"\x00\xff"), ("content-type", b"text/plain"), ("servicebus.subject", b"s"))
    message = Message(b"body", "klíč".encode(), headers, message_id="m-1", content_type="text/plain")
    got = received(wire(outgoing(message)))
    assert (got.body, got.key, got.message_id, got.content_type) == (b"body", message.key, "m-1", "text/plain")
    assert sorted(got.headers) == sorted(headers)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, b"1"),
        (1.5, b"1.5"),
        (True, b"true"),
        ("x", b"x"),
        (uuid.UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
    ],
)
def test_properties_become_text(value: Any, text: bytes) -> None:
    got = received(wire(ServiceBusMessage(b"", application_properties={"p": value})))
    assert dict(got.headers)["p"] == text


@pytest.mark.parametrize(
    "value", [[float("nan")], [1.0, float("-inf")], {1: "a", "1": "b"}, [{"k": {b"x": 1, "x": 2}}]], ids=str
)
def test_values_that_json_would_change_make_a_message_unreadable(value: Any) -> None:
    raw = wire(ServiceBusMessage(b"", application_properties={"p": 1}))
    raw.raw_amqp_message.application_properties["p"] = value  # the value after decoding
    got = received(raw, b"session")
    assert got.unreadable is not None
    assert (got.unreadable.fault, got.unreadable.key_known, got.key) == ("amqp_value", True, b"session")


def test_bytes_that_are_no_text_stay_different() -> None:
    """Ids as AMQP binary, names and values inside maps, and the properties that become headers."""

    def read(data: bytes) -> Message:
        message = ServiceBusMessage(b"", application_properties={"map": {b"k": [data]}})  # type: ignore[dict-item]  # wider than its annotation, on purpose
        properties = AmqpMessageProperties(message_id=data, correlation_id=data)
        message.raw_amqp_message.properties = properties
        return received(wire(message))

    one, other = read(b"\xff\xfe"), read(b"\xfe\xff")
    assert (one.message_id, other.message_id) == ("\ufdd0ff\ufdd0fe", "\ufdd0fe\ufdd0ff")
    assert dict(one.headers)["servicebus.correlation_id"] == b"\xff\xfe"
    assert dict(one.headers)["map"] != dict(other.headers)["map"]


def test_a_correlation_id_that_is_no_text_goes_on_as_binary() -> None:
    headers = (("servicebus.correlation_id", b"\xff"), ("servicebus.subject", "ü".encode()))
    assert sorted(received(wire(outgoing(Message(b"", headers=headers)))).headers) == sorted(headers)


def test_a_message_id_that_is_no_text_goes_on_as_binary() -> None:
    for message_id in (text_of(b"\xff\xfe"), text_of("\ufdd0ff".encode()), "\ufdd0", "ü", text_of(b"\xff" * 128)):
        assert received(wire(outgoing(Message(b"", message_id=message_id)))).message_id == message_id
        assert received(wire(outgoing(Message(b"", b"k", message_id=message_id)))).message_id == message_id
    with pytest.raises(PublishFailed, match="129 bytes"):
        outgoing(Message(b"", message_id=text_of(b"\xff" * 129)))


def test_nulls_stay_nulls_and_are_no_empty_texts() -> None:
    headers = (("ce_subject", None), ("p", None), ("empty", b""), ("content-type", None), ("servicebus.subject", None))
    got = received(wire(outgoing(Message(b"", headers=headers))))
    assert sorted(got.headers) == sorted(headers)
    assert got.content_type is None


def test_a_body_in_several_parts_and_a_value() -> None:
    assert received(wire(ServiceBusMessage(b"plain"))).body == b"plain"


@pytest.mark.parametrize("prefix", ["cloudEvents_", "cloudEvents:"])
def test_binary_cloudevents_are_written_and_read(prefix: str) -> None:
    codec = registry.get("cloudevents-binary")
    event = Event("e-1", "/shop", "order.paid", {"a": 1}, subject="s", key="k")
    sent = outgoing(codec.encode(event), prefix)
    assert f"{prefix}type" in (sent.application_properties or {})
    assert sent.message_id == "e-1"
    envelope = codec.decode(received(wire(sent)), POSITION)
    assert (envelope.message_id, envelope.type, envelope.subject, envelope.data) == (
        "/shop e-1", "order.paid", "s", {"a": 1},
    )  # fmt: skip


def test_structured_cloudevents_are_written_and_read() -> None:
    codec = registry.get("cloudevents")
    sent = outgoing(codec.encode(Event("e-1", "/shop", "order.paid", [1])))
    assert sent.content_type == "application/cloudevents+json"
    assert codec.decode(received(wire(sent)), POSITION).data == [1]


def test_the_identity_is_namespace_entity_and_message_id() -> None:
    envelope = registry.get("json").decode(Message(b"1", message_id="m-1"), POSITION)
    assert envelope.message_id == "shop.servicebus.windows.net/orders/m-1"
    envelope = registry.get("json").decode(Message(b"1"), POSITION)
    assert envelope.message_id == "shop.servicebus.windows.net/orders/0@7"


def test_what_only_publishing_knows() -> None:
    sent = outgoing(Message(b"", partition_key="p", enqueue_at=1_700_000_000.5, time_to_live=60))
    assert sent.partition_key == "p"
    assert sent.time_to_live == datetime.timedelta(seconds=60)
    due = sent.scheduled_enqueue_time_utc
    assert due is not None
    assert due.timestamp() == 1_700_000_000.5


@pytest.mark.parametrize("key", [b"\xff", b"", b"k" * 129])
def test_a_key_that_cannot_be_a_session_id_is_refused(key: bytes) -> None:
    with pytest.raises(PublishFailed, match="key"):
        outgoing(Message(b"", key))


def test_batches_have_one_key() -> None:
    messages = [Message(b"%d" % n, b"%d" % (n % 2)) for n in range(6)]
    assert [[each.body for each in run] for run in runs(messages)] == [[b"0", b"2", b"4"], [b"1", b"3", b"5"]]


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("a/b", {"queue_name": "a/b"}),
        ("t/Subscriptions/s", {"topic_name": "t", "subscription_name": "s"}),
        ("q/$DeadLetterQueue", {"queue_name": "q", "sub_queue": "deadletter"}),
        (
            "t/subscriptions/s/$Transfer/$DeadLetterQueue",
            {"topic_name": "t", "subscription_name": "s", "sub_queue": "transferdeadletter"},
        ),
    ],
)
def test_paths(path: str, arguments: dict[str, Any]) -> None:
    assert EntityPath.parse(path).arguments == arguments


def cause(executed: int = 2) -> Cause:
    routes = tuple(f"route-{number}" for number in range(executed))
    return Cause("no_route", "no rule\nmatched", "NoRoute", source="orders", executed=routes, deliveries=3)


def test_a_description_tells_what_headers_would() -> None:
    message = Message(b"x", b"k", (("h", b"1"),))
    reason, description = describe(message, POSITION, cause())[0]
    headers = [("h", b"1"), ("DeadLetterReason", reason.encode()), ("DeadLetterErrorDescription", description.encode())]
    received = dict(unfold(headers))  # type: ignore[arg-type]  # wider than its annotation, on purpose
    assert (received["bridge.reason"], received["bridge.detail"]) == (b"no_route", b"no rule\nmatched")
    assert (received["bridge.executed"], received["bridge.deliveries"]) == (b"route-0,route-1", b"3")
    assert received["h"] == b"1"


def test_a_description_keeps_the_limit() -> None:
    [(_, description), *_] = describe(Message(b"x"), POSITION, cause(2000))
    assert len(description.encode()) <= LIMIT
    received = dict(unfold([("DeadLetterReason", b"r"), ("DeadLetterErrorDescription", description.encode())]))  # type: ignore[arg-type]  # wider than its annotation, on purpose
    assert received["bridge.truncated"] == b"executed"


def test_a_description_keeps_an_identity_that_is_made_of_bytes() -> None:
    identity = text_of(b"M\xfcller") + text_of("\ufdd0ff".encode())
    reason, description = describe(Message(b"x"), POSITION, replace(cause(), message_id=identity))[0]
    headers = unfold([("DeadLetterReason", reason.encode()), ("DeadLetterErrorDescription", description.encode())])  # type: ignore[arg-type]  # wider than its annotation, on purpose
    assert provenance.read(Message(b"x", headers=tuple(headers))).message_id == identity


@pytest.mark.parametrize("text", [b"theirs", b"x\nbridge: no json", b"x\nbridge: [1]"])
def test_descriptions_of_others_are_left_alone(text: bytes) -> None:
    headers = [("DeadLetterReason", b"r"), ("DeadLetterErrorDescription", text), ("bridge.executed", b"forged")]
    assert unfold(headers) == headers[:2]  # type: ignore[arg-type]  # wider than its annotation, on purpose


def attributes(**more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **more}


def event_of(prefix: str, values: dict[str, Any]) -> Envelope:
    """Decode an AMQP message with these application properties."""
    message = ServiceBusMessage(b"{}", application_properties={prefix + name: value for name, value in values.items()})
    return registry.get("cloudevents").decode(received(wire(message)), POSITION)


MOMENTS = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31), timezones=st.just(datetime.UTC))  # noqa: DTZ001 -- bounds have none
NATIVE: st.SearchStrategy[tuple[Any, str]] = st.one_of(
    st.booleans().map(lambda value: (value, "true" if value else "false")),
    st.integers(-(2**31), 2**31 - 1).map(lambda value: (value, str(value))),
    # As bytearray: the SDK takes bytes for a string
    st.binary(max_size=8).map(lambda value: (bytearray(value), base64.b64encode(value).decode())),
    MOMENTS.map(lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)).map(
        lambda moment: (moment, moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").replace(".000Z", "Z"))
    ),
    st.uuids().map(lambda value: (value, str(value))),
)


@settings(deadline=None)
@given(
    st.sampled_from(["cloudEvents:", "cloudEvents_"]),
    st.dictionaries(st.from_regex("x[a-z0-9]{1,5}", fullmatch=True), NATIVE),
)
def test_native_values_and_text_are_the_same_event(prefix: str, values: dict[str, tuple[Any, str]]) -> None:
    native = event_of(prefix, attributes(**{name: value for name, (value, _) in values.items()}))
    text = event_of(prefix, attributes(**{name: value for name, (_, value) in values.items()}))
    assert native.extensions == text.extensions == {name: value for name, (_, value) in values.items()}


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
def test_attributes_of_the_specification_may_be_native(prefix: str) -> None:
    moment = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    event = event_of(prefix, attributes(time=moment, subject=None, id=uuid.UUID(int=1), digest=bytearray(b"\xff\x00")))
    assert (event.time, event.subject, event.id) == ("2026-01-01T12:00:00Z", None, str(uuid.UUID(int=1)))
    assert event.extensions == {"digest": "/wA="}
    assert event_of(prefix, attributes(time="2026-01-01T12:00:00Z")).time == event.time
    assert event_of(prefix, attributes(time={"TYPE": "LONG", "VALUE": 1767268800000})).time == event.time
    with pytest.raises(DecodeError, match="time is not an RFC 3339 timestamp"):
        event_of(prefix, attributes(time={"TYPE": "TIMESTAMP", "VALUE": 2**62}))


def test_other_properties_tell_timestamps_and_keep_binary() -> None:
    moment = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    properties: dict[str | bytes, Any] = {"at": moment, "raw": bytearray(b"abc"), "number": 1767268800000.0}
    got = dict(received(wire(ServiceBusMessage(b"x" * 100_000, application_properties=properties))).headers)
    assert got == {"at": b"2026-01-01T12:00:00Z", "raw": b"abc", "number": b"1767268800000.0"}
    assert {type(value) for value in got.values()} == {bytes}


def test_a_tombstone_is_not_an_empty_body() -> None:
    for body in (None, b"", b"x"):
        got = received(wire(outgoing(Message(body, b"k", (("h", b"1"),)))))
        assert (got.body, got.headers) == (body, (("h", b"1"),))
    got = received(wire(ServiceBusMessage(b"x", application_properties={"servicebus.tombstone": True})))
    assert got.body == b"x"
