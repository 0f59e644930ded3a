from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.local.encoding import (
    CommittedPosition,
    decode_headers,
    decode_offsets,
    encode_headers,
    encode_offsets,
)

offsets = st.sets(st.integers(0, 60))
committed = st.builds(CommittedPosition, st.integers(0, 40), offsets.map(lambda found: tuple(sorted(found))))


@given(st.lists(st.tuples(st.text(st.characters()), st.binary())).map(tuple))
def test_headers_come_back_in_order_with_repeated_and_empty_ones(given: tuple[tuple[str, bytes], ...]) -> None:
    assert decode_headers(encode_headers(given)) == given


@given(offsets)
def test_offsets_come_back(given: set[int]) -> None:
    assert decode_offsets(encode_offsets(sorted(given))) == tuple(sorted(given))


def test_runs_of_offsets_are_stored_as_ranges() -> None:
    assert encode_offsets([3, 7, 8, 9]) == "[[3,3],[7,9]]"


@given(committed, committed)
def test_merged_positions_hold_what_either_held(one: CommittedPosition, other: CommittedPosition) -> None:
    def is_done(position: CommittedPosition, offset: int) -> bool:
        return offset < position.next or offset in position.done

    merged = one.merge(other)
    assert merged == other.merge(one)
    for offset in range(70):
        assert is_done(merged, offset) is (is_done(one, offset) or is_done(other, offset))
