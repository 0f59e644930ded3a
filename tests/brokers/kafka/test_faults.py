"""Every error class of aiokafka has a meaning."""

from __future__ import annotations

import ssl

import pytest
from aiokafka import errors

from bridge.brokers.kafka.faults import MEANING_OF, Meaning, translate
from bridge.core.errors import BrokerUnavailable, PartitionRevoked, PublishFailed

CLASSES = sorted(
    {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)},
    key=lambda each: each.__name__,
)


def test_the_walk_finds_the_tree() -> None:
    assert len(CLASSES) > 100


def test_every_class_is_mapped_by_itself() -> None:
    assert [kind for kind in CLASSES if kind not in MEANING_OF] == []


def _make(kind: type[Exception]) -> Exception:
    try:
        return kind()
    except TypeError:
        return kind("x")


def test_every_class_is_translated() -> None:
    expected = {
        Meaning.AWAY: BrokerUnavailable,
        Meaning.DENIED: BrokerUnavailable,
        Meaning.REFUSED: PublishFailed,
        Meaning.REVOKED: PartitionRevoked,
        Meaning.BUG: type(None),
    }
    for kind in CLASSES:
        assert type(translate(_make(kind), "kafka: try")) is expected[MEANING_OF[kind]], kind


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError("x"), ssl.SSLError("x")])
def test_the_system_s_errors_are_outages(error: Exception) -> None:
    assert isinstance(translate(error, "kafka: try"), BrokerUnavailable)


def test_a_bug_stays_one() -> None:
    assert translate(ValueError("x"), "kafka: try") is None
