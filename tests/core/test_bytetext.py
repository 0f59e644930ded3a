"""Different bytes become different texts; UTF-8 becomes the text that it encodes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.core.bytetext import MARK, bytes_of, own_text, text_of

PIECES = (b"a", b"0", b"8", b"f", b"fc", b"\xfc", b"\xff", b"\xc3", b"\xbc", b"\xef\xb7\x90", b"\xef", b"\xb7", b"\0")
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join) | st.binary(max_size=12)
"""Bytes close to the escape form: its mark, its digits, and truncated UTF-8."""


@given(HOSTILE)
@example(b"\xef\xb7\x90fc")
@example(b"\xef\xb7\x90\xfc")
@example(b"\xef\xb7\x90\xef\xb7\x90fc")
def test_the_bytes_come_back(data: bytes) -> None:
    text = text_of(data)
    assert bytes_of(text) == data
    text.encode()


@given(HOSTILE, HOSTILE)
def test_different_bytes_are_different_texts(one: bytes, other: bytes) -> None:
    assert (text_of(one) == text_of(other)) == (one == other)


@given(st.text())
@example("\ufffd")
@example(f"{MARK} fc")
@example(f"{MARK}7f")
@example(f"{MARK}FC")
def test_text_is_what_it_was(text: str) -> None:
    assert text_of(text.encode()) == text
    assert bytes_of(text) == text.encode()


def test_the_form() -> None:
    assert text_of(b"M\xfcller") == "M\ufdd0fcller"
    assert text_of("M\ufdd0fcller".encode()) == "M\ufdd0ef\ufdd0b7\ufdd090fcller"


def test_text_that_no_bytes_have_is_written_as_it_is() -> None:
    text = f"{MARK}c3{MARK}bc"
    assert bytes_of(text) == text.encode()
    with pytest.raises(UnicodeEncodeError):
        bytes_of("\udcfc")
    with pytest.raises(UnicodeEncodeError):
        bytes_of(f"{MARK}fc\udcfc")


@given(st.text())
def test_the_bridges_own_text_is_not_written_anew(text: str) -> None:
    assert own_text(text.encode()) == text
    assert own_text(b"\xff") == text_of(b"\xff")
