"""Frames: whatever is written is read, however the bytes are cut; other bytes are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.engines.embedded.processes.framing import (
    HEAD,
    LARGE,
    MAX_FRAME,
    BrokenFrame,
    FrameReader,
    Item,
    frame,
    pieces,
)

ITEMS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8)


@given(st.lists(ITEMS, max_size=5), st.lists(st.integers(1, 40)))
def test_items_are_read_as_written_however_the_bytes_are_cut(frames: list[list[Item]], cuts: list[int]) -> None:
    data = b"".join(frame(items) for items in frames)
    reader, read, at = FrameReader(), [], 0
    for size in [*cuts, len(data)]:
        read += reader.feed(data[at : at + size])
        at += size
    assert read == [item for items in frames for item in items]


@given(st.lists(ITEMS, max_size=3), st.binary(max_size=200), st.integers(1, 50))
def test_other_bytes_are_refused_or_waited_for_and_raise_nothing_else(
    frames: list[list[Item]], other: bytes, size: int
) -> None:
    data = b"".join(frame(items) for items in frames) + other
    reader = FrameReader()
    try:
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])
    except BrokenFrame:
        pass


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", MAX_FRAME + 1),
        struct.pack("<IB", 1, 4),
        struct.pack("<IBI", 5, 4, 1),
        struct.pack("<IBI", 6, 4, 2) + b"xy",
    ],
)
def test_lengths_that_contradict_each_other_are_refused(data: bytes) -> None:
    with pytest.raises(BrokenFrame):
        FrameReader().feed(data)


LARGE_ITEMS: list[list[Item]] = [
    [],
    [(1, b"")],
    [(1, b"a"), (2, b"b" * LARGE), (3, b"c")],
    [(1, b"a" * LARGE), (2, b"b" * (LARGE + 1))],
    [(1, b"a" * (LARGE - 1)), (2, b"b")],
]


@pytest.mark.parametrize("items", LARGE_ITEMS, ids=range(len(LARGE_ITEMS)))
def test_the_pieces_of_a_frame_are_the_frame(items: list[Item]) -> None:
    assert b"".join(pieces(items)) == frame(items)


@pytest.mark.parametrize("items", LARGE_ITEMS, ids=range(len(LARGE_ITEMS)))
def test_a_large_item_is_known_before_its_end(items: list[Item]) -> None:
    reader, data, arriving, read = FrameReader(), frame(items), [], list[Item]()
    for at in range(0, len(data), 100_000):
        read += reader.feed(data[at : at + 100_000])
        if (item := reader.arriving) is not None and item not in arriving:
            arriving.append(item)
    assert read == items
    assert reader.arriving is None
    assert arriving == [(kind, body[:HEAD]) for kind, body in items if len(body) >= LARGE]
