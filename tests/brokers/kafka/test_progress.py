from __future__ import annotations

import random

import pytest

from bridge.brokers.kafka.commits import METADATA_LIMIT, decode_metadata, encode_metadata


def test_nothing_done_is_no_text() -> None:
    assert encode_metadata(5, []) == ""
    assert decode_metadata(5, "") == []


@pytest.mark.parametrize("base", [0, 7, 2**40])
@pytest.mark.parametrize("density", [0.01, 0.5, 0.99])
def test_the_whole_default_gap_fits(base: int, density: float) -> None:
    done = [base + n for n in range(10_000) if random.random() < density]
    text = encode_metadata(base, done)
    assert len(text) <= METADATA_LIMIT
    assert decode_metadata(base, text) == done


def test_what_does_not_fit_is_left_out_from_the_end() -> None:
    done = sorted(random.sample(range(10**6), 400_000))
    text = encode_metadata(0, done)
    found = decode_metadata(0, text)
    assert len(text) <= METADATA_LIMIT
    assert len(found) > 5_000
    assert found == done[: len(found)]


def test_far_offsets_do_not_cost_memory() -> None:
    assert decode_metadata(0, encode_metadata(0, [3, 2**50])) == [3]


@pytest.mark.parametrize("text", ["", "someone else's", "bridge1:", "bridge1:!!", "bridge1:AAAA", "bridge2:eJw="])
def test_foreign_metadata_says_nothing(text: str) -> None:
    assert decode_metadata(0, text) == []
