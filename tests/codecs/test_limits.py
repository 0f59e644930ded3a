"""Parsing of untrusted bodies: depth, exactness, strictness."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.codecs.limits import check_depth, check_size, parse_json, write_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError

LIMITS = LimitsConfig()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)
BRACKETS = st.text('[]{}"\\a,: ', max_size=60)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(inner) for inner in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(inner) for inner in value), default=0)
    return 0


def allowed(body: bytes, limit: int) -> bool:
    try:
        check_depth(body, limit)
    except DecodeError:
        return False
    return True


@settings(deadline=None)
@given(VALUES, st.booleans())
@example({'[[[["': ["\\", '\\"[[[[', "{{{{\\\\"]}, True)
@example(["\\\\", [["]]]]"]]], False)
def test_depth_of_a_wellformed_text_is_exact(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert allowed(body, depth(value))
    if depth(value):
        assert not allowed(body, depth(value) - 1)


@settings(deadline=None)
@given(BRACKETS)
def test_malformed_text_never_gets_a_deep_parse(text: str) -> None:
    """The nesting of every prefix that a parser reads before it stops has been counted."""
    body = text.encode()
    reached = 0
    for end in range(len(text) + 1):
        level, inside, escaped = 0, False, False
        for character in text[:end]:
            if inside:
                inside = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                inside = True
            elif character == "\\":
                break
            else:
                level += (character in "[{") - (character in "]}")
        reached = max(reached, level)
    if reached:
        assert not allowed(body, reached - 1)


def test_ten_thousand_levels_are_refused() -> None:
    with pytest.raises(DecodeError, match="nests deeper than the 100 levels"):
        parse_json(b"[" * 10_000 + b"]" * 10_000, LIMITS)
    with pytest.raises(DecodeError, match="nests deeper than the 100 levels"):
        parse_json(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, LIMITS)


def test_wide_is_not_deep() -> None:
    assert len(parse_json(b"[" + b",".join([b"[]"] * 5000) + b"]", LIMITS)) == 5000


def test_the_deepest_allowed_parses() -> None:
    limits = LimitsConfig(max_depth=1000)
    assert parse_json(b"[" * 1000 + b"]" * 1000, limits)
    assert parse_json(b"[" * 100 + b"1" + b"]" * 100, LIMITS)


def test_size_limit_names_itself() -> None:
    check_size(b"x" * 10, LimitsConfig(max_payload=10))
    with pytest.raises(DecodeError, match=r"11 bytes, more than the 10 that limits\.max_payload"):
        check_size(b"x" * 11, LimitsConfig(max_payload=10))


@pytest.mark.parametrize(
    "number", [2**64 - 1, 2**64, 2**70, -(2**63), -(2**63) - 1, 10**19, 10**20, 9223372036854775808, 10**300]
)
def test_integers_stay_exact(number: int) -> None:
    parsed = parse_json(b'{"n":[%d], "t": "%d"}' % (number, number), LIMITS)
    assert parsed == {"n": [number], "t": str(number)}
    assert type(parsed["n"][0]) is int


def test_long_integers_deep_inside_end_in_a_sentence() -> None:
    body = b"[" * 1000 + b"1" * 30 + b"]" * 1000
    try:
        parse_json(body, LimitsConfig(max_depth=1000))
    except DecodeError as error:
        assert "integers of more than 64 bits" in str(error)  # noqa: PT017 - either end is right, by Python version


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b"[Infinity]", "not valid JSON"),
        (b"[-Infinity]", "not valid JSON"),
        (b"1e400", "infinity"),
        (b"1" * 5000, "infinity"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\\ud800"', "surrogate"),
        (b'"\\udc00x"', "not valid JSON"),
        (b'{"a":1} {}', "not valid JSON"),
        (b"\x00", "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        parse_json(body, LIMITS)


def test_of_a_repeated_key_the_last_value_wins() -> None:
    assert parse_json(b'{"a":1,"a":2}', LIMITS) == {"a": 2}
    assert parse_json(b'{"a":1,"a":%d}' % 2**70, LIMITS) == {"a": 2**70}


def test_the_sentence_quotes_no_payload() -> None:
    with pytest.raises(DecodeError) as caught:
        parse_json(b'{"card": 4111111111111111 SECRET}', LIMITS)
    assert "SECRET" not in str(caught.value)
    assert "4111" not in str(caught.value)


@settings(deadline=None)
@given(st.binary())
def test_arbitrary_bytes_end_in_decode_error_or_a_value(body: bytes) -> None:
    with suppress(DecodeError):
        parse_json(body, LIMITS)


@settings(deadline=None)
@given(VALUES)
@example(2**70)
@example([None, {"a": 2**70}])
def test_what_is_written_is_read_back(value: Any) -> None:
    if isinstance(value, int) and abs(value) > 10**300:
        return
    assert parse_json(write_json(value), LimitsConfig(max_depth=1000)) == value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": (None, -float("inf"))},
        b"x",
        {"a": {1, 2}},
        "\ud800",
        ["\udfff", 2**70],
        object(),
    ],
)
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(DecodeError):
        write_json(value)


def test_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(DecodeError):
        write_json(cycle)


def test_the_depth_scan_is_linear() -> None:
    """A megabyte of brackets takes well below a second, in any arrangement."""
    for body in (
        b"[" * 2**20,
        b"[]," * 2**18,
        b'"\\' * 2**19,
        b"\\" * 2**20,
        b'["' * 2**19,
        (b"[" * 99 + b"]" * 99) * 5000,
    ):
        started = time.thread_time()
        allowed(body, 100)
        assert time.thread_time() - started < 2.0
