from __future__ import annotations

import io
from uuid import UUID

import pytest
from confluent_kafka.schema_registry.common.serde import SchemaId
from hypothesis import given
from hypothesis import strategies as st

from bridge.codecs.confluent import wire
from bridge.core.errors import DecodeError
from bridge.core.message import Message

ids = st.integers(0, 2**32 - 1) | st.uuids()
indexes = st.lists(st.integers(0, 5000), min_size=1, max_size=6).map(tuple)


@given(ids, indexes)
def test_what_is_written_is_read_here_and_by_confluent_s_client(schema: int | UUID, places: tuple[int, ...]) -> None:
    prefix = wire.write(schema, places)
    assert wire.read(Message(prefix + b"data"), indexed=True) == wire.SchemaPrefix(schema, places, len(prefix))
    assert wire.read(Message(b"data", headers=((wire.HEADER, prefix),)), indexed=True) == wire.SchemaPrefix(
        schema, places, 0
    )
    theirs = SchemaId("PROTOBUF")
    rest = theirs.from_bytes(io.BytesIO(prefix + b"data"))
    assert (rest.read(), theirs.message_indexes) == (b"data", list(places))
    assert schema in (theirs.id, theirs.guid)


@given(ids)
def test_avro_has_no_indexes(schema: int | UUID) -> None:
    prefix = wire.write(schema, None)
    assert wire.read(Message(prefix), indexed=False) == wire.SchemaPrefix(schema, (), len(prefix))


@given(st.binary(max_size=40), st.booleans())
def test_noise_is_a_frame_or_a_decode_error(noise: bytes, indexed: bool) -> None:
    try:
        frame = wire.read(Message(noise), indexed=indexed)
    except DecodeError:
        return
    assert frame.start <= len(noise)


@pytest.mark.parametrize("body", [b"", b"{}", b"\x00\x00\x00", b"\x01" + bytes(15), b"\x02" + bytes(20)])
def test_what_no_serializer_wrote_is_told(body: bytes) -> None:
    with pytest.raises(DecodeError, match="does not begin with the id of a schema"):
        wire.read(Message(body), indexed=False)
    with pytest.raises(DecodeError, match=f"the header {wire.HEADER} does not begin"):
        wire.read(Message(b"x", headers=((wire.HEADER, body),)), indexed=False)


@pytest.mark.parametrize("tail", [b"", b"\x02", b"\x01", b"\x02\x01", b"\xff" * 9, b"\xfe\x03" + bytes(250)])
def test_malformed_indexes_are_told(tail: bytes) -> None:
    with pytest.raises(DecodeError, match="indexes"):
        wire.read(Message(wire.write(1, None) + tail), indexed=True)
