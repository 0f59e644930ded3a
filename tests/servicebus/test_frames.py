"""Frames, and connections that receive invalid bytes."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.examples import examples
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.amqp import encoder, performatives
from tests.servicebus.server.amqp.encoder import NULL, uint
from tests.servicebus.server.amqp.frames import AMQP_HEADER, EMPTY, SASL, SASL_HEADER, Frame, FrameReader, frame
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.wire import BEGIN, HANDSHAKE, OPEN, SASL_INIT, RawClient, attach, data, flow, transfer

TALK = [
    SASL_HEADER,
    SASL_INIT,
    AMQP_HEADER,
    OPEN,
    BEGIN,
    attach("in", 0, "amqp://localhost/orders", receiver=False),
    attach("out", 1, "amqp://localhost/orders", receiver=True),
    transfer(0, 0, data(b"one")),
    transfer(0, 1, data(b"two")[:4], more=True),
    transfer(0, 1, data(b"two")[4:]),
    flow(1, 10),
    frame(1, performatives.DISPOSITION, [encoder.TRUE, uint(1 << 20), NULL, encoder.FALSE, performatives.ACCEPTED]),
    EMPTY,
    frame(1, performatives.DETACH, [uint(0), encoder.TRUE]),
    frame(1, performatives.END, []),
    frame(0, performatives.CLOSE, []),
]
"""Frames of a whole short conversation of a client."""


def test_an_empty_frame_is_the_published_one() -> None:
    assert bytes.fromhex("0000000802000000") == EMPTY


def test_headers_are_the_published_ones() -> None:
    assert b"AMQP" + bytes([0, 1, 0, 0]) == AMQP_HEADER
    assert b"AMQP" + bytes([3, 1, 0, 0]) == SASL_HEADER


def test_a_frame_is_head_performative_payload() -> None:
    raw = frame(7, performatives.CLOSE, [NULL], b"xyz")
    assert raw == struct.pack(">IBBH", len(raw), 2, 0, 7) + b"\x00\x53\x18\xc0\x02\x01\x40" + b"xyz"


@given(st.lists(st.tuples(st.integers(0, 65_535), st.binary(max_size=50)), max_size=8), st.data())
def test_frames_are_found_however_the_stream_is_cut(frames: list[tuple[int, bytes]], drawn: st.DataObject) -> None:
    stream = b"".join(struct.pack(">IBBH", 8 + len(body), 2, 0, channel) + body for channel, body in frames)
    cuts = sorted(drawn.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, found = FrameReader(1_000), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
        while (one := reader.frame()) is not None:
            found.append(one)
    assert found == [Frame(0, channel, body) for channel, body in frames]


def test_an_extended_header_is_passed_over() -> None:
    reader = FrameReader(1_000)
    reader.feed(struct.pack(">IBBH", 15, 3, 0, 1) + b"more" + b"abc")
    assert reader.frame() == Frame(0, 1, b"abc")


@pytest.mark.parametrize(
    "head",
    [
        struct.pack(">IBBH", 7, 2, 0, 0),
        struct.pack(">IBBH", 65_537, 2, 0, 0),
        struct.pack(">IBBH", 2**32 - 1, 2, 0, 0),
        struct.pack(">IBBH", 8, 1, 0, 0),
        struct.pack(">IBBH", 8, 3, 0, 0),
        struct.pack(">IBBH", 8, 2, 2, 0),
    ],
    ids=["too small", "too large", "enormous", "body in the head", "body after the end", "unknown type"],
)
def test_impossible_heads_are_malformed(head: bytes) -> None:
    reader = FrameReader(65_536)
    reader.feed(head)
    with pytest.raises(Malformed):
        reader.frame()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (performatives.Attach, ["name", 0]),
        (performatives.Attach, ["name", True, False]),
        (performatives.Transfer, ["0"]),
        (performatives.Flow, [1, 2, None, 4]),
        (performatives.Begin, []),
        (performatives.Disposition, [None, 0]),
        (performatives.Open, [b"bytes"]),
    ],
)
def test_performatives_with_wrong_fields_are_malformed(kind: Any, fields: list[Any]) -> None:
    with pytest.raises(Malformed):
        performatives.read(kind, fields)


BAD = {
    "not a frame": b"GET / HTTP/1.1\r\n\r\n",
    "no performative": struct.pack(">IBBH", 9, 2, 0, 1) + b"\x40",
    "unknown performative": frame(1, 0x77, []),
    "a performative under a symbol": struct.pack(">IBBH", 16, 2, 0, 1) + b"\x00\xa3\x03abc\x45\x40",
    "a performative that is no list": struct.pack(">IBBH", 12, 2, 0, 1) + b"\x00\x53\x14\x40",
    "a list without an end": struct.pack(">IBBH", 15, 2, 0, 1) + b"\x00\x53\x14\xc0\x50\x01\x43",
    "no such channel": frame(9, performatives.FLOW, [uint(1)] * 4),
    "begin twice": BEGIN,
    "begin beyond the last channel": frame(5_000, performatives.BEGIN, [NULL, uint(0), uint(1), uint(1)]),
    "attach without a terminus": frame(1, performatives.ATTACH, [encoder.string("x"), uint(0), encoder.TRUE]),
    "attach with a text as a handle": frame(
        1, performatives.ATTACH, [encoder.string("x"), encoder.string("0"), encoder.TRUE]
    ),
    "attach twice with a handle": attach("x", 7, "$cbs", receiver=True) + attach("y", 7, "$cbs", receiver=True),
    "attach with a handle too high": attach("x", 256, "orders", receiver=True),
    "a SASL frame after SASL": frame(0, performatives.SASL_INIT, [encoder.symbol("ANONYMOUS")], kind=SASL),
    "a flow without windows": frame(1, performatives.FLOW, []),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_a_malformed_frame_closes_its_connection_alone(server: ServiceBusServer, bad: bytes) -> None:
    other = await RawClient.connect(server.port)
    await other.handshake()
    client = await RawClient.connect(server.port)
    await client.handshake()
    await client.send(bad)
    [error], _ = await client.until(performatives.CLOSE)
    assert error.descriptor == performatives.ERROR
    assert error.value[0] == "amqp:decode-error"
    assert await client.rest() == b""
    assert len(server.counters.malformed) == 1
    await other.send(attach("in", 0, "orders", receiver=False))
    assert (await other.until(performatives.ATTACH))[0][0] == "in"
    other.hang_up()


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", bytes(64)])
async def test_another_protocol_is_hung_up_on(server: ServiceBusServer, start: bytes) -> None:
    client = await RawClient.connect(server.port)
    await client.send(start)
    assert await client.rest() == b""


async def test_another_version_is_answered_with_ours(server: ServiceBusServer) -> None:
    client = await RawClient.connect(server.port)
    await client.send(b"AMQP\x00\x00\x09\x01")
    assert await client.rest() == SASL_HEADER


async def test_an_unknown_sasl_mechanism_is_refused(server: ServiceBusServer) -> None:
    client = await RawClient.connect(server.port)
    await client.send(SASL_HEADER + frame(0, performatives.SASL_INIT, [encoder.symbol("GSSAPI")], kind=SASL))
    assert await client.header() == SASL_HEADER
    fields, _ = await client.until(performatives.SASL_OUTCOME)
    assert fields[0] == 1
    assert await client.rest() == b""


async def test_a_message_of_broken_sections_is_rejected(serve: Any) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),), keys=()))
    client = await RawClient.connect(server.port)
    await client.handshake()
    await client.send(attach("in", 0, "orders", receiver=False))
    await client.until(performatives.FLOW)
    for number, raw in enumerate([b"\x40", b"\x00\x53\x99\x45", b"\x00\x53\x73\xa1\x01x", b"\x00\x53\x75\xa0\x05abc"]):
        await client.send(transfer(0, number, raw))
        fields, _ = await client.until(performatives.DISPOSITION)
        assert fields[1] == number
        assert fields[4].value[0].value[0] == "amqp:decode-error"
    await client.send(transfer(0, 9, data(b"good")))
    assert (await client.until(performatives.DISPOSITION))[0][4].descriptor == performatives.ACCEPTED_STATE
    assert server.queue("orders").contents().active == 1
    client.hang_up()


def _mutated(drawn: st.DataObject) -> bytes:
    """Return the conversation with bytes and frames changed, doubled, removed or swapped."""
    parts = list(TALK)
    for _ in range(drawn.draw(st.integers(0, 2), "frames")):
        here, there = drawn.draw(st.integers(0, len(parts) - 1)), drawn.draw(st.integers(0, len(parts) - 1))
        what = drawn.draw(st.sampled_from(["drop", "double", "swap"]))
        if what == "drop" and len(parts) > 1:
            del parts[here]
        elif what == "double":
            parts.insert(there, parts[here])
        else:
            parts[here], parts[there] = parts[there], parts[here]
    raw = bytearray(b"".join(parts))
    # Bytes of the first protocol header stay: the frames after it are more interesting
    for _ in range(drawn.draw(st.integers(0, 4), "bytes")):
        raw[drawn.draw(st.integers(8, len(raw) - 1))] = drawn.draw(st.integers(0, 255))
    return bytes(raw[: drawn.draw(st.integers(1, len(raw)), "length")] if drawn.draw(st.booleans()) else raw)


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_no_bytes_wedge_the_server(drawn: st.DataObject) -> None:
    raw = _mutated(drawn)

    async def talk() -> None:
        async with ServiceBusServer(ServerConfig((QueueConfig("orders"),), keys=())) as server:
            client = await RawClient.connect(server.port)
            await client.send(raw)
            client._writer.write_eof()
            await client.rest()  # the server closes the connection at the end of the client's output
            healthy = await RawClient.connect(server.port)
            await healthy.handshake()
            await healthy.send(attach("in", 0, "orders", receiver=False) + transfer(0, 0, data(b"ok")))
            fields, _ = await healthy.until(performatives.DISPOSITION)
            assert fields[4].descriptor == performatives.ACCEPTED_STATE
            healthy.hang_up()
            assert server.counters.crashes == []

    asyncio.run(talk())


async def test_a_client_that_stops_reading_does_not_stop_others(serve: Any) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),), keys=()))
    deaf = await RawClient.connect(server.port)
    await deaf.send(HANDSHAKE + attach("out", 0, "orders", receiver=True) + flow(0, 1_000))
    other = await RawClient.connect(server.port)
    await other.handshake()
    await other.send(attach("in", 0, "orders", receiver=False))
    await other.until(performatives.FLOW)
    for number in range(50):
        await other.send(transfer(0, number, data(bytes(60_000))))
        await other.until(performatives.DISPOSITION)
    assert server.counters.deliveries["orders"] == 50
    other.hang_up()
    deaf.hang_up()
