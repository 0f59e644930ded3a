"""Durations, sizes, topics, match keys: accepted values, messages, and unchanged rendering."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bridge.config.model.routes import RouteConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.model.types import check_topic, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30), ("1h30m", 5400), ("7d", 604800), ("1.5m", 90), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", 30, 1.5, True, None, "", "1w", "s", "-1s", "1 s", "99999999d", "１s", "1s\n2"])
def test_other_durations_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.floats(0, 3e9, allow_nan=False).map(lambda value: round(value, 6)))
def test_a_duration_is_written_back_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**62))
def test_a_size_is_written_back_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"), [("1MiB", 1048576), ("1.5KiB", 1536), ("1kB", 1000), ("7", 7), (9, 9), ("2 GB", 2 * 10**9)]
)
def test_sizes_are_read(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["1XB", -1, True, 1.5, None, "", "-1", "9" * 5000])
def test_other_sizes_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "a\n", "a" * 250])
def test_names_that_no_topic_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 249"):
        check_topic(name)


def route(**match: Any) -> RouteConfig:
    return RouteConfig.model_validate({"name": "r", "from": "s", "match": match, "ignore": {}})


@pytest.mark.parametrize(
    "key", ["type", "id", "key", "dataschema", "headers.x-y.z", "headers..", "payload.a.b", "extensions.tenant"]
)
def test_attributes_headers_payload_and_extensions_are_matched(key: str) -> None:
    assert route(**{key: ["a", 1, True, 1.5]}).match == {key: ("a", 1, True, 1.5)}


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("tenant", "did you mean `extensions.tenant`"), ("tpye", "did you mean `type`"),
        ("Type", "did you mean `type`"),
        ("headers", "`headers.NAME`"), ("headers.", "`headers.NAME`"), ("header.x", "`headers.NAME`"),
        ("payload.", "`payload.PATH`"),
        ("data.x", "`payload.PATH`"), ("event.type", "`headers.NAME`"),
    ],
)  # fmt: skip
def test_other_match_keys_are_refused_with_the_remedy(key: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        route(**{key: "x"})
    assert what in str(caught.value)


def test_values_keep_their_type() -> None:
    assert [type(value) for value in route(type="1", id=1, key=True, subject=1.0).match.values()] == [
        str,
        int,
        bool,
        float,
    ]


@pytest.mark.parametrize("ordering", ["key", "partition", "none", "{{ payload.id }}", "x-{{ key }}"])
def test_orderings(ordering: str) -> None:
    source = SourceConfig(broker="b", topics=("t",), no_match="ignore", ordering=ordering)
    assert source.ordering == ordering
