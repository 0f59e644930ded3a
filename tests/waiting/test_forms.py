"""Stored forms are read back unchanged, including names and keys."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core import provenance
from bridge.core.commands import OnMissing, RaiseEvent, ScheduleOrchestration
from bridge.core.origin import MessageOrigin
from bridge.core.stored_message import StoredMessage
from bridge.core.system_names import (
    EARLY_MESSAGES,
    dead_letter_id,
    key_prefix,
    quarantine_key,
    source_prefix,
    target_id,
    target_key,
)
from bridge.early_messages.state_machine import InstanceCommand, WaitingCommand, waiting_command
from bridge.quarantine.quarantined_key import decode_key, encode_key, shown_key
from tests.waiting.sample import COMMANDS, stored, waiting


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_a_parked_command_comes_back_as_it_was(command: InstanceCommand) -> None:
    kept = waiting(1, 5.0, 60.0, command)
    traced = WaitingCommand(command, MessageOrigin("m", "r", 3, "00-ab", "x=1"), kept.message, 5.0, 65.0)
    for each in (kept, traced):
        assert WaitingCommand.from_json(json.loads(json.dumps(each.to_json()))) == each


@given(st.binary() | st.none(), st.binary() | st.none(), st.lists(st.tuples(st.text(), st.none() | st.binary())))
def test_a_letter_comes_back_as_it_was(
    body: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    kept = stored(7, body, key)
    kept = replace(kept, message=replace(kept.message, headers=tuple(headers)))
    assert StoredMessage.from_json(json.loads(json.dumps(kept.to_json()))) == kept


def test_a_dead_letter_tells_where_the_message_came_from() -> None:
    kept = stored(3)
    cause = kept.cause("early_expired", "too late", "InstanceNotFound", "paid", 2)
    message = provenance.dead_letter(kept.message, kept.position, cause)
    received = {name: value.decode() for name, value in message.headers if name.startswith("bridge.")}
    assert (message.body, message.key) == (b'{"id": 1}', b"k")
    assert received["bridge.reason"] == "early_expired"
    assert (received["bridge.topic"], received["bridge.offset"], received["bridge.message-id"]) == (
        "orders",
        "3",
        "m-3",
    )
    assert (received["bridge.route"], received["bridge.executed"], received["bridge.attempts"]) == (
        "paid",
        "first",
        "2",
    )


def test_what_can_wait() -> None:
    assert all(waiting_command(command) is command for command in COMMANDS)
    assert waiting_command(RaiseEvent("order-1", "paid", on_missing=OnMissing.RETRY)) is None
    assert waiting_command(ScheduleOrchestration("order", "order-1")) is None


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_every_instance_has_an_entity_of_its_own(one: str, other: str) -> None:
    key = target_key(one)
    assert "@" not in key
    assert len(target_id(one)) <= 256
    assert target_id(one).startswith(f"@{EARLY_MESSAGES}@")
    assert (key == target_key(other)) == (one == other)
    assert target_key(other).startswith(key) == (one == other)
    assert len(one) > 60 or key.startswith(key_prefix(one[: len(one) // 2]))


@pytest.mark.parametrize("other", ["a~a", "a~~a", "~h" + "0" * 64, "a" * 300])
def test_escapes_do_not_meet_real_ids(other: str) -> None:
    assert target_key(other) != target_key("a@")
    assert target_key("~h" + target_key("b" * 300)[2:]) != target_key("b" * 300)


@given(st.binary() | st.text() | st.tuples(st.from_regex(r"[a-z.:-]{1,9}", fullmatch=True), st.integers(0, 99)))
def test_ordering_keys_come_back(key: bytes | str | tuple[str, int]) -> None:
    assert decode_key(encode_key(key)) == key
    assert isinstance(shown_key(encode_key(key)), str)


def test_keys_of_different_kinds_are_different() -> None:
    keys = [b"a", "a", ("a", 0), ("a",)]
    assert len({encode_key(key) for key in keys}) == 4
    assert decode_key(encode_key(("c/t/0@1",))) == ("c/t/0@1",)
    assert shown_key(encode_key(b"\xff\x01")) == "0xff01"
    assert shown_key(encode_key("0xff01")) == r"\x30xff01"  # a different key
    assert shown_key(encode_key("a\x00\\ü")) == r"a\x00\\ü"
    assert shown_key(encode_key(("orders", 2))) == "orders/2"
    with pytest.raises(TypeError):
        encode_key(5)


def test_keys_of_one_source_share_a_prefix_that_no_other_source_has() -> None:
    assert quarantine_key("orders", b"k").startswith(source_prefix("orders"))
    assert not quarantine_key("orders-eu", b"k").startswith(source_prefix("orders"))


def test_one_decision_makes_one_dead_letter() -> None:
    assert dead_letter_id("k", "m", 1.5) == dead_letter_id("k", "m", 1.5)
    assert len({dead_letter_id("k", "m", 1.5), dead_letter_id("k", "m", 2.5), dead_letter_id("k", "n", 1.5)}) == 3
