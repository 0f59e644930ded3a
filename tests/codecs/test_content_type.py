"""What a sender can do with a content type."""

from __future__ import annotations

import tracemalloc

from bridge.codecs.content_type import parse_content_type


def test_long_content_types_are_not_kept() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(50):
            assert (
                parse_content_type(f"text/plain;x={number}" + "y" * 1_000_000 + "; charset=utf-16").charset == "utf-16"
            )
        assert tracemalloc.get_traced_memory()[0] - before < 1_000_000
    finally:
        tracemalloc.stop()


def test_short_ones_are_parsed_once() -> None:
    assert parse_content_type("application/json") is parse_content_type("application/json")
