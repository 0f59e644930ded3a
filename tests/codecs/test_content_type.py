"""Content types: long ones are parsed but not cached."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from bridge.codecs.content_type import parse_content_type
from bridge.core.errors import DecodeError


def test_long_texts_are_not_kept() -> None:
    tracemalloc.start()
    try:
        for number in range(300):
            text = f"text/plain; charset=us-ascii; x={number}{'y' * 100_000}"
            assert parse_content_type(text).charset == "us-ascii"
        del text
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_short_texts_are_read_once() -> None:
    assert parse_content_type("text/xml; charset=UTF-8") is parse_content_type("text/xml; charset=UTF-8")


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a/" + "b" * 1_000_000, "/" * 1_000_000, ";" * 1_000_000])
def test_long_texts_that_are_no_media_type_are_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="not a media type"):
        parse_content_type(text)


@pytest.mark.parametrize(
    "part", [";", "; ", ";charset", ";charset=", ";charset= ", " " * 9 + ";", ';charset="', "\t\n"]
)
def test_long_texts_take_linear_time(part: str) -> None:
    text = "text/plain" + part * (1_000_000 // len(part))
    start = time.thread_time()
    parse_content_type(text)
    assert time.thread_time() - start < 0.25
