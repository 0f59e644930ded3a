"""Encrypted waiting messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.config.model.sources import QuarantineConfig
from bridge.core.errors import EngineMisconfigured
from bridge.core.stored_message import StoredMessage
from bridge.early_messages.state_machine import WaitingCommand, command_key
from bridge.encryption import Key, Keyring
from bridge.engines.message_sealer import MessageSealer, key_of
from bridge.quarantine.state_machine import KeyQuarantine
from tests.waiting.sample import COMMANDS, stored, waiting

OLD, NEW = Key("old", bytes(32)), Key("new", bytes([1]) * 32)


def sealer(*keys: Key, active: bool = True) -> MessageSealer:
    return MessageSealer(lambda: Keyring(keys, active=active) if keys else None)


def through_an_engine(item: Any) -> Any:
    """Return the item as JSON with its members in another order."""
    return json.loads(json.dumps(dict(reversed(item.items()))), object_pairs_hook=lambda pairs: dict(reversed(pairs)))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: type(each).__name__)
def test_what_is_sealed_is_the_same_when_it_is_opened(command: Any) -> None:
    item = waiting(1, command=command).to_json()
    sealed = sealer(OLD).seal(item)
    assert key_of(sealed) == "old"
    assert key_of(item) is None
    for ring in ((OLD,), (NEW, OLD)):
        assert sealer(*ring).open(through_an_engine(sealed)) == item
        assert WaitingCommand.from_json(sealer(*ring).open(sealed)) == WaitingCommand.from_json(item)
    assert command_key(sealed) == command_key(item)


@pytest.mark.parametrize(("body", "key"), [(b"\xff", None), (None, b"k"), (None, None), (b"", b"")])
def test_messages_without_a_body_or_key(body: bytes | None, key: bytes | None) -> None:
    item = {"mark": "m", "letter": stored(1, body, key).to_json()}
    assert StoredMessage.from_json(sealer(OLD).open(sealer(OLD).seal(item))["letter"]) == stored(1, body, key)


def test_what_is_in_clear() -> None:
    shown = json.dumps(sealer(OLD).seal(waiting(1).to_json()))
    for secret in ("amount", "order-1", "application/json-body", '"k"', "trace", "/wA="):
        assert secret not in shown
    for clear in ("orders.dlq", "m-1", "paid", "application/json"):
        assert clear in shown


def test_without_keys_or_when_not_active_items_stay_as_they_are() -> None:
    item = waiting(1).to_json()
    for each in (sealer(), sealer(OLD, active=False)):
        assert each.seal(item) == item
        assert each.open(item) == item
        assert each.seal_key("k", "p") == "k"
        assert each.open_key("k", "p") == "k"
    assert sealer(OLD, active=False).open(sealer(OLD).seal(item)) == item


@pytest.mark.parametrize("keys", [(), (NEW,)])
def test_a_missing_key_is_named(keys: tuple[Key, ...]) -> None:
    sealed = sealer(OLD).seal(waiting(1).to_json())
    with pytest.raises(EngineMisconfigured, match="encrypted with key 'old', which is not there"):
        sealer(*keys).open(sealed)
    with pytest.raises(EngineMisconfigured, match="encrypted with key 'old', which is not there"):
        sealer(*keys).open_key(sealer(OLD).seal_key("k", "p"), "p")


def test_another_key_of_the_same_id_is_refused() -> None:
    sealed = sealer(OLD).seal(waiting(1).to_json())
    with pytest.raises(
        EngineMisconfigured, match="encrypted with key 'old', is encrypted with a key that is not there"
    ):
        sealer(Key("old", bytes([9]) * 32)).open(sealed)


def test_one_message_is_not_taken_for_another() -> None:
    one, other = (sealer(OLD).seal(waiting(number).to_json()) for number in (1, 2))
    other["letter"]["sealed"] = one["letter"]["sealed"]
    with pytest.raises(EngineMisconfigured, match="it was altered, or belongs elsewhere"):
        sealer(OLD).open(other)
    for change in ({"topic": "elsewhere"}, {"broker": "x"}, {"at": ["c", "t", 0, 1]}):
        altered = one | {"letter": one["letter"] | {"of": one["letter"]["of"] | change}}
        with pytest.raises(EngineMisconfigured, match="it was altered"):
            sealer(OLD).open(altered)
    with pytest.raises(EngineMisconfigured, match="it was altered"):
        sealer(OLD).open_key(sealer(OLD).seal_key("k", "here"), "there")


@pytest.mark.parametrize("value", ["", "!", "AA==", "AAE=" * 30])
def test_damage_is_an_error_of_its_own(value: str) -> None:
    sealed = sealer(OLD).seal(waiting(1).to_json())
    sealed["letter"]["sealed"] = ["old", value]
    with pytest.raises(EngineMisconfigured):
        sealer(OLD).open(sealed)


def test_a_version_without_encryption_fails_before_it_does_anything() -> None:
    sealed = sealer(OLD).seal(waiting(1).to_json())
    with pytest.raises(KeyError):
        WaitingCommand.from_json(sealed)
    with pytest.raises(KeyError):
        StoredMessage.from_json(sealed["letter"])


def test_a_quarantined_message_that_failed_again_keeps_what_was_executed() -> None:
    item = {"mark": "m", "letter": stored(1).to_json(), "since": 0.0, "size": 10, "attempts": 1}
    quarantine = KeyQuarantine(QuarantineConfig())
    quarantine.hold({"source": "s", "key": "k", "item": sealer(OLD).seal(item), "cause": {"reason": "r"}})
    quarantine.requeue("m", {"reason": "r"}, None, 2, ["first", "second"])
    state = quarantine.to_json()
    assert state is not None
    opened = StoredMessage.from_json(sealer(OLD).open(state["held"][0])["letter"])
    assert opened.executed == ("first", "second")
    assert opened.message == stored(1).message


def test_plain_messages_are_refused_where_none_may_be_left() -> None:
    strict = MessageSealer(lambda: Keyring([OLD], accepts_plain=False))
    item = waiting(1).to_json()
    with pytest.raises(EngineMisconfigured, match="is not encrypted"):
        strict.open(item)
    assert strict.open(strict.seal(item)) == item


def test_keys_are_read_once_and_when_they_are_needed() -> None:
    reads = []

    def read() -> Keyring:
        reads.append(1)
        return Keyring([OLD])

    messages = MessageSealer(read)
    messages.seal(waiting(1).to_json())
    messages.seal(waiting(2).to_json())
    assert reads == [1]
