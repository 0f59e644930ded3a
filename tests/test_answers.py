"""Correlation ids of requests and their signatures."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.answers import KEEPS, SPREAD, Key, Keyring, answered_by, parse, reply_event

KEY = Key.new(0.0)
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
    assert Keyring((Key.new(0.0), KEY)).verifies(found)


@given(UUIDS, st.sampled_from(["order-1", "a;b", "x;" + "A" * 26, "é\n"]), DEADLINES, st.data())
def test_no_altered_text_verifies(uuid: str, instance: str, until: int | None, data: st.DataObject) -> None:
    signed = KEY.sign(f"{uuid}@{instance}", until)
    at = data.draw(st.integers(0, len(signed)))
    gone = data.draw(st.integers(0, 3))
    altered = signed[:at] + data.draw(st.text(max_size=3) | st.text("0123abcAZ;@-_", max_size=3)) + signed[at + gone :]
    found = parse(altered)
    if altered != signed and found is not None:
        assert not Keyring((KEY,)).verifies(found)


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    found = parse(text)
    assert found is None or not Keyring((KEY,)).verifies(found)


def test_another_key_does_not_verify() -> None:
    found = parse(KEY.sign(PLAIN, None))
    assert found is not None
    assert not Keyring((Key(KEY.id, b"other", 0.0),)).verifies(found)
    assert not Keyring().verifies(found)


@pytest.mark.parametrize("event", ["go", "reply:", "reply:done", "reply:x@order-1", f"answer:{PLAIN}"])
def test_other_events_are_no_answers(event: str) -> None:
    assert answered_by(event) is None


def test_a_deadline_beyond_what_is_written_counts_as_none() -> None:
    found = parse(KEY.sign(PLAIN, 36**9))
    assert found is not None
    assert found.until is None
    assert Keyring((KEY,)).verifies(found)


def test_a_secret_is_not_shown() -> None:
    assert repr(KEY.secret)[2:-1] not in repr(Keyring((KEY,)))


def test_a_new_key_signs_when_every_process_knows_it_and_the_old_ones_verify() -> None:
    old, new = Key.new(0.0), Key.new(1000.0)
    ring = Keyring().make(old).make(new).rotate(new).rotate(new)
    assert ring.keys == (new, old)
    assert ring.signer(1000.0 + SPREAD - 1) == old
    assert ring.signer(1000.0 + SPREAD) == new
    assert Keyring.from_json(ring.to_json()) == ring
    assert ring.retire(old.id).retire(new.id).keys == (new,)
    assert Keyring().signer(0.0) is None
    for number in range(20):
        ring = ring.rotate(Key.new(float(number)))
    assert len(ring.keys) == KEEPS


def test_ids_of_keys_are_no_options_of_a_command_line() -> None:
    """`bridge keys retire ID` takes one that begins with a dash for an option: one in 64 would."""
    assert not [key.id for key in (Key.new(0.0) for _ in range(5000)) if not key.id[0].isalnum()]
