"""Correlation ids of requests and their signatures."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.answers import KEEPS, SPREAD, LaterKeys, SigningKey, SigningKeyring, answered_by, parse, reply_event

KEY = SigningKey.new(0.0)
UUIDS = st.builds(lambda number: str(UUID(int=number)), st.integers(0, 2**128 - 1))
INSTANCES = st.text(min_size=1, max_size=60)
DEADLINES = st.none() | st.integers(1, 36**9 - 1)
PLAIN = f"{UUID(int=7)}@order-1"


@given(UUIDS, INSTANCES, DEADLINES)
def test_what_is_signed_verifies_and_names_its_event(uuid: str, instance: str, until: int | None) -> None:
    plain = f"{uuid}@{instance}"
    found = parse(KEY.sign(plain, until))
    assert found is not None
    assert (found.plain, found.instance_id, found.until) == (plain, instance, until)
    assert found.event == reply_event(plain)
    assert SigningKeyring((SigningKey.new(0.0), KEY)).verifies(found)


@given(UUIDS, st.sampled_from(["order-1", "a;b", "x;" + "A" * 26, "é\n"]), DEADLINES, st.data())
def test_no_altered_text_verifies(uuid: str, instance: str, until: int | None, data: st.DataObject) -> None:
    signed = KEY.sign(f"{uuid}@{instance}", until)
    at = data.draw(st.integers(0, len(signed)))
    gone = data.draw(st.integers(0, 3))
    altered = signed[:at] + data.draw(st.text(max_size=3) | st.text("0123abcAZ;@-_", max_size=3)) + signed[at + gone :]
    found = parse(altered)
    if altered != signed and found is not None:
        assert not SigningKeyring((KEY,)).verifies(found)


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    found = parse(text)
    assert found is None or not SigningKeyring((KEY,)).verifies(found)


def test_another_key_does_not_verify() -> None:
    found = parse(KEY.sign(PLAIN, None))
    assert found is not None
    assert not SigningKeyring((SigningKey(KEY.id, b"other", 0.0),)).verifies(found)
    assert not SigningKeyring().verifies(found)


@pytest.mark.parametrize("event", ["go", "reply:", "reply:done", "reply:x@order-1", f"answer:{PLAIN}"])
def test_other_events_are_no_answers(event: str) -> None:
    assert answered_by(event) is None


def test_a_deadline_beyond_what_is_written_counts_as_none() -> None:
    found = parse(KEY.sign(PLAIN, 36**9))
    assert found is not None
    assert found.until is None
    assert SigningKeyring((KEY,)).verifies(found)


def test_a_secret_is_not_shown() -> None:
    assert repr(KEY.secret)[2:-1] not in repr(SigningKeyring((KEY,)))


def test_a_new_key_signs_when_every_process_knows_it_and_the_old_ones_verify() -> None:
    old, new = SigningKey.new(0.0), SigningKey.new(1000.0)
    ring = SigningKeyring().make(old).make(new).rotate(new).rotate(new)
    assert ring.keys == (new, old)
    assert ring.signer(1000.0 + SPREAD - 1) == old
    assert ring.signer(1000.0 + SPREAD) == new
    assert SigningKeyring.from_json(ring.to_json()) == ring
    assert ring.retire(old.id).retire(new.id).keys == (new,)
    assert SigningKeyring().signer(0.0) is None
    for number in range(20):
        ring = ring.rotate(SigningKey.new(float(number)))
    assert len(ring.keys) == KEEPS


def test_a_full_keyring_keeps_the_key_that_signs() -> None:
    ring = SigningKeyring()
    for number in range(KEEPS):
        ring = ring.rotate(SigningKey.new(float(number)))
    signs = ring.signer(10.0)
    assert signs == ring.keys[-1]
    assert ring.rotate(SigningKey.new(20.0)) == ring


@pytest.mark.parametrize("skew", [-30.0, -1.0, 0.0, 1.0, 30.0])
@pytest.mark.parametrize("age", [0.0, 29.0, 31.0, 59.0, 61.0, 89.0, 91.0, 119.0, 121.0])
def test_a_key_that_a_process_may_sign_with_is_known_as_such(skew: float, age: float) -> None:
    """A process whose clock differs, and which read the keys 15 s ago."""
    ring = SigningKeyring().make(SigningKey.new(0.0)).rotate(SigningKey.new(1000.0))
    now = 1000.0 + age
    for ago in (0.0, 15.0):
        signs = ring.signer(now + skew - ago)
        assert signs is not None
        assert signs.id in ring.may_sign(now)


KEY_JSON = KEY.to_json()
DAMAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["k123", "A" * 43]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from(["v", "keys", "id", "secret", "made", "delay"]), below, max_size=4)
    ),
    max_leaves=8,
)


@given(DAMAGE | st.builds(lambda keys: {"v": 1, "keys": keys}, st.lists(DAMAGE | st.just(KEY_JSON), max_size=4)))
def test_keys_that_are_damaged_are_left_out(state: object) -> None:
    try:
        ring = SigningKeyring.from_json(state)
    except LaterKeys:
        assert isinstance(state, dict)
        return
    ring.signer(0.0)
    assert all(len(key.secret) >= 32 for key in ring.keys)
    assert SigningKeyring.from_json(ring.to_json()) == ring
    assert ring.keys or ring.damaged or state is None or isinstance(state, dict)


@pytest.mark.parametrize(
    "change",
    [
        {"secret": ""},
        {"secret": "AAAA"},
        {"secret": "%" * 43},
        {"id": ""},
        {"made": "x"},
        {"made": 1e999},
        {"delay": None},
    ],
)
def test_a_key_with_one_fault_is_left_out(change: dict[str, object]) -> None:
    ring = SigningKeyring.from_json({"v": 1, "keys": [KEY_JSON | change, KEY_JSON]})
    assert (ring.keys, ring.damaged) == ((KEY,), 1)


def test_keys_of_a_later_version_are_not_taken_for_damage() -> None:
    with pytest.raises(LaterKeys):
        SigningKeyring.from_json({"v": 2, "keys": []})


def test_ids_of_keys_are_no_options_of_a_command_line() -> None:
    """`bridge keys retire ID` takes one that begins with a dash for an option: one in 64 would."""
    assert not [key.id for key in (SigningKey.new(0.0) for _ in range(5000)) if not key.id[0].isalnum()]
