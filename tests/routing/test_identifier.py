from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import InvalidCommand
from bridge.routing.identifier import (
    check_entity,
    check_instance_id,
    check_name,
    parse_delay,
    parse_time,
)


@pytest.mark.parametrize("text", ["a", "order-1", "é", "x" * 256, "a@b", "a:b", "bridges", "Bridge:x", " a ", "日本"])
def test_ids_that_are_fine(text: str) -> None:
    assert check_instance_id(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("x" * 257, "257 characters; at most 256"),
        ("x" * 10_000, "10000 characters"),
        ("@counter@1", "kept for entities"),
        ("bridge:x", "kept for the bridge"),
        ("a/b", "the character /"),
        ("a\\b", r"the character \\"),
        ("a#b", "the character #"),
        ("a?b", r"the character \?"),
        ("a\nb", r"U\+000A"),
        ("a\0b", r"U\+0000"),
        ("a\x7fb", r"U\+007F"),
        ("a\x85b", r"U\+0085"),
        ("a\ud800b", "lone surrogate"),
    ],
)
def test_ids_that_are_not(text: str, said: str) -> None:
    with pytest.raises(InvalidCommand, match=said) as raised:
        check_instance_id(text)
    received = str(raised.value)
    assert len(received) < 200
    assert received.isprintable()
    received.encode()


@given(st.text(max_size=300))
def test_any_text_is_taken_or_refused_in_printable_words(text: str) -> None:
    refusal = ""
    try:
        assert check_instance_id(text) == text
    except InvalidCommand as error:
        refusal = str(error)
        refusal.encode()
    assert len(refusal) < 200
    if not refusal:
        assert text
        assert len(text) <= 256
        assert not text.startswith(("@", "bridge:"))
        assert not set(text) & set("/\\#?\0\n\r\t")


@pytest.mark.parametrize("text", ["@s3cr3t", "bridge:s3cr3t", "s3cr3t/", "s3cr3t\n", "s3cr3t" * 50])
def test_what_is_refused_is_not_repeated(text: str) -> None:
    for refuse in (
        check_instance_id,
        lambda text: check_name(f"{text}\0", "a name"),
        lambda text: check_entity("e", f"{text}/"),
    ):
        with pytest.raises(InvalidCommand) as raised:
            refuse(text)
        assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "  ", "x" * 257, "a\nb", "\ud800"])
def test_names_that_are_not(text: str) -> None:
    with pytest.raises(InvalidCommand, match="the event name"):
        check_name(text, "the event name")


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        ("", "k"),
        ("e", ""),
        ("e@f", "k"),
        ("e", "nl@1"),
        ("e/f", "k"),
        ("e", "a/b"),
        ("e", "k\0"),
        ("e" * 200, "k" * 60),
    ],
)
def test_entities_that_are_not(entity: str, key: str) -> None:
    with pytest.raises(InvalidCommand, match="the entity"):
        check_entity(entity, key)


def test_entities_that_are_fine() -> None:
    check_entity("counter", "nl-1")


def test_times() -> None:
    assert parse_time("2030-01-31T10:00:00+02:00", "at") == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert parse_time("2030-01-31t10:00:00.1234567z", "at").tzinfo is UTC
    for text in (
        "2030-01-31T10:00:00",
        "2030-01-31",
        "tomorrow",
        "",
        "2030-13-01T00:00:00Z",
        "0001-01-01T00:00:00+23:00",
    ):
        with pytest.raises(InvalidCommand, match=r"^at is not an RFC 3339 time with an offset"):
            parse_time(text, "at")


def test_delays() -> None:
    assert parse_delay("1h30m", "delay") == 5400.0
    for text in ("", "30", "-3s", "s3cr3t", "1y"):
        with pytest.raises(InvalidCommand, match="is not a duration") as raised:
            parse_delay(text, "delay")
        assert "s3cr3t" not in str(raised.value)
    for text in ("4000d", "9" * 400 + "d"):
        with pytest.raises(InvalidCommand, match=r"ten years|not a duration"):
            parse_delay(text, "delay")
