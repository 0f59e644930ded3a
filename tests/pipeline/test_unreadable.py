"""Unreadable messages from intake to settlement, without a broker that produces them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.composition import load_config, subscribe_options
from bridge.brokers.base import UnreadablePolicy
from bridge.codecs.decoder import SourceDecoder
from bridge.codecs.json import JsonCodec
from bridge.core.errors import ConfigError, UnreadableMessage
from bridge.core.message import Message, Position, Unreadable
from bridge.core.provenance import Cause, dead_letter
from bridge.core.settlement import Complete, Keep, RetryPolicy, Wait, WriteDeadLetter, decide, decide_for_source
from bridge.core.states import Outcome
from bridge.core.stored_message import StoredMessage

UNREADABLE = Unreadable("crc", "the checksum of the batch is wrong", last=9)
MESSAGE = Message(b"\0raw", b"k", (("a", None), ("b", b"")), unreadable=UNREADABLE)
AT = Position("c", "t", 3, 7)
CAUSE = Cause("unreadable", UNREADABLE.detail, "UnreadableMessage", "s", replayed=False)


def test_it_is_never_decoded() -> None:
    with pytest.raises(UnreadableMessage, match="checksum"):
        SourceDecoder(JsonCodec()).decode(Message(b"{}", unreadable=UNREADABLE), AT)


def test_its_error_leads_to_a_dead_letter_with_its_own_reason() -> None:
    settlement = decide(UnreadableMessage(UNREADABLE.detail), None, 1, 0.0, RetryPolicy())
    assert settlement == WriteDeadLetter("unreadable", UNREADABLE.detail)


@pytest.mark.parametrize("quarantine", [True, False])
def test_a_skipped_one_is_completed_whatever_else_the_source_does(quarantine: bool) -> None:
    ended = decide_for_source(
        WriteDeadLetter("unreadable", ""), keeps=True, quarantine=quarantine, elapsed=0.0, max_hold=1.0, skip=True
    )
    assert ended == Complete(Outcome.IGNORED)


def test_one_with_a_key_is_quarantined() -> None:
    ended = decide_for_source(
        WriteDeadLetter("unreadable", "d"), keeps=True, quarantine=True, elapsed=0.0, max_hold=1.0
    )
    assert ended == Keep(Wait.PERSON, None, "unreadable", "d")


def test_it_stays_unreadable_while_it_waits_on_an_engine() -> None:
    entry = StoredMessage(MESSAGE, AT, "kafka", "t.dlq", "s")
    assert StoredMessage.from_json(entry.to_json()) == entry


def test_its_dead_letter_is_a_plain_message_with_the_range() -> None:
    written = dead_letter(MESSAGE, AT, CAUSE)
    headers = dict(written.headers)
    assert (written.body, written.key, written.unreadable) == (b"\0raw", b"k", None)
    assert (headers["bridge.offset"], headers["bridge.last-offset"]) == (b"7", b"9")
    assert headers["a"] is None
    assert headers["b"] == b""


SOURCE = """
engine: {{type: embedded}}
workflows: {{external: [order]}}
brokers:
  k: {{type: kafka, bootstrap_servers: "localhost:9092"}}
  l: {{type: local}}
  b: {{type: servicebus, namespace: n}}
sources:
  s: {{{source}, no_match: ignore}}
routes:
  - {{name: r, from: s, schedule: {{orchestration: order, instance_id: "x-{{{{ event.id }}}}"}}}}
"""


def policy(directory: Path, source: str) -> UnreadablePolicy:
    path = directory / "bridge.yaml"
    path.write_text(SOURCE.format(source=source))
    return subscribe_options(load_config([path]), "s").unreadable


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("broker: k, topics: [t]", ("dead_letter", "stop_partition")),
        ("broker: l, topics: [t]", ("dead_letter", "stop_partition")),
        ("broker: k, topics: [t], ordering: '{{ payload.id }}'", ("stop_partition", "stop_partition")),
        ("broker: b, queue: q, ordering: '{{ payload.id }}'", ("dead_letter", "dead_letter")),
        ("broker: k, topics: [t], ordering: partition", ("dead_letter", "dead_letter")),
        ("broker: k, topics: [t], ordering: none", ("dead_letter", "dead_letter")),
        ("broker: k, topics: [t], ordering: partition, quarantine: {}", ("dead_letter", "stop_partition")),
        ("broker: k, topics: [t], on_unreadable: skip", ("skip", "skip")),
        ("broker: k, topics: [t], on_unreadable: dead_letter", ("dead_letter", "dead_letter")),
        ("broker: k, topics: [t], on_unreadable: stop_partition", ("stop_partition", "stop_partition")),
        ("broker: b, queue: q", ("dead_letter", "dead_letter")),
        ("broker: b, queue: q, sessions: true", ("dead_letter", "dead_letter")),
        ("broker: b, queue: q, on_unreadable: skip", ("skip", "skip")),
    ],
)
def test_the_policy_of_a_source(tmp_path: Path, source: str, expected: tuple[str, str]) -> None:
    assert policy(tmp_path, source) == UnreadablePolicy(*expected)  # type: ignore[arg-type]


def test_service_bus_has_no_partition_to_stop(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no partitions to stop; write `dead_letter` or `skip`"):
        policy(tmp_path, "broker: b, queue: q, on_unreadable: stop_partition")


def test_the_treatment_goes_by_the_key() -> None:
    found = UnreadablePolicy("dead_letter", "stop_partition")
    assert found.of(Unreadable("crc", "")) == "stop_partition"
    assert found.of(Unreadable("header_name", "", key_known=True)) == "dead_letter"
