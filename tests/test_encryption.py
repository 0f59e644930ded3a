"""Sealed values and keyrings."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.encryption import OVERHEAD, Key, KeyProblem, Keyring, Unsealable, is_sealed

OLD, NEW = Key("old", bytes(range(32))), Key("new", bytes(range(1, 33)))


@given(st.binary(max_size=300), st.binary(max_size=30))
def test_what_is_sealed_can_be_opened_in_its_place(value: bytes, place: bytes) -> None:
    ring = Keyring([OLD])
    sealed = ring.seal(value, place)
    assert is_sealed(sealed)
    assert len(sealed) == len(value) + OVERHEAD
    assert ring.open(sealed, place) == value
    assert Keyring([NEW, OLD]).open(sealed, place) == value


@given(st.binary(min_size=8, max_size=64), st.data())
def test_a_value_that_was_altered_is_refused(value: bytes, data: st.DataObject) -> None:
    ring = Keyring([OLD, NEW])
    sealed = bytearray(ring.seal(value, b"here"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unsealable):
        ring.open(bytes(sealed), b"here")


@given(st.binary(max_size=120))
def test_any_bytes_are_refused_with_a_reason(value: bytes) -> None:
    ring = Keyring([OLD])
    for each in (value, b"\0" + value, b"\0\x01" + value, b"\0\x01" + OLD.fingerprint + value):
        with pytest.raises(Unsealable):
            ring.open(each, b"")


def test_a_value_belongs_to_its_place() -> None:
    ring = Keyring([OLD])
    with pytest.raises(Unsealable, match="'old': it was altered, or belongs elsewhere"):
        ring.open(ring.seal(b"x", b"a"), b"b")


def test_no_two_values_have_the_same_key_and_nonce() -> None:
    heads = {ring.seal(b"x", b"")[:34] for ring in (Keyring([OLD]), Keyring([OLD])) for _ in range(1000)}
    assert len(heads) == 2000


def test_a_fork_does_not_go_on_counting_under_the_same_key() -> None:
    ring = Keyring([OLD])
    ring.seal(b"x", b"")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, ring.seal(b"x", b"")[:34])
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 34) != ring.seal(b"x", b"")[:34]
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Keyring([]), "there is no key"),
        (lambda: Key("a", b"short"), "key 'a': has 5 bytes, not 32"),
        (lambda: Key("", bytes(32)), "1 to 100 printable characters"),
        (lambda: Key("a\nb", bytes(32)), "1 to 100 printable characters"),
        (lambda: Keyring([OLD, Key("old", bytes(32))]), "two keys have the id 'old'"),
        (lambda: Keyring([OLD, Key("other", OLD.material)]), "'old' and 'other' are the same key"),
    ],
)
def test_keys_that_cannot_be_used(make: Callable[[], object], what: str) -> None:
    with pytest.raises(KeyProblem, match=what):
        make()


def test_no_key_is_shown() -> None:
    ring = Keyring([OLD])
    for shown in (repr(OLD), repr(ring), str(vars(ring)["current"]), repr(ring.ids)):
        assert OLD.material.hex() not in shown
        assert repr(OLD.material)[2:-1] not in shown
