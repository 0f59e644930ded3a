from __future__ import annotations

from dataclasses import replace

from bridge.core import provenance
from bridge.core.bytetext import text_of
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause, Provenance

POSITION = Position("cluster", "orders", 3, 42)
CAUSE = Cause("no_route", "no rule matched", "NoRoute", "orders", "r2", ("r1", "r2"), 4, "abc", "m-1")


def test_a_dead_letter_keeps_the_message_and_tells_the_cause() -> None:
    message = Message(b"body", b"key", (("a", b"1"), ("a", b"\xff")), 12.5)
    dead_letter = provenance.dead_letter(message, POSITION, CAUSE)
    assert (dead_letter.body, dead_letter.key, dead_letter.headers[:2]) == (
        b"body",
        b"key",
        (("a", b"1"), ("a", b"\xff")),
    )
    received = dict(dead_letter.headers[2:])
    assert received == {
        "bridge.reason": b"no_route",
        "bridge.detail": b"no rule matched",
        "bridge.error": b"NoRoute",
        "bridge.cluster": b"cluster",
        "bridge.topic": b"orders",
        "bridge.partition": b"3",
        "bridge.offset": b"42",
        "bridge.timestamp": b"12.500",
        "bridge.source": b"orders",
        "bridge.message-id": b"m-1",
        "bridge.route": b"r2",
        "bridge.executed": b"r1,r2",
        "bridge.attempts": b"4",
        "bridge.config": b"abc",
        "bridge.fingerprint": provenance.fingerprint("no_route", "r2", "NoRoute", "no rule matched").encode(),
    }


def test_a_message_that_dies_twice_keeps_its_first_origin_and_tells_its_last_cause() -> None:
    first = provenance.dead_letter(Message(b"", timestamp=1.0), POSITION, CAUSE)
    again = Cause("decode_error", "why", "DecodeError", "orders.dlq", replayed=True)
    second = dict(provenance.dead_letter(first, Position("c2", "orders.dlq", 0, 1), again).headers)
    assert second["bridge.reason"] == b"decode_error"
    assert (second["bridge.topic"], second["bridge.offset"], second["bridge.cluster"]) == (b"orders", b"42", b"cluster")
    assert "bridge.route" not in second


def test_a_forged_origin_is_not_believed() -> None:
    forged = Message(b"", headers=(("bridge.topic", b"payroll"), ("bridge.offset", b"7"), ("bridge.executed", b"r9")))
    received = dict(provenance.dead_letter(forged, POSITION, CAUSE).headers)
    assert (received["bridge.topic"], received["bridge.offset"], received["bridge.executed"]) == (
        b"orders",
        b"42",
        b"r1,r2",
    )


def test_a_replay_reads_back_what_was_executed() -> None:
    dead_letter = provenance.dead_letter(Message(b""), POSITION, CAUSE)
    assert provenance.read(dead_letter) == Provenance("m-1", ("r1", "r2"))
    assert provenance.read(Message(b"")) == Provenance(None, ())


def test_an_identity_that_is_made_of_bytes_comes_back() -> None:
    for identity in (text_of(b"M\xfcller"), text_of("\ufdd0ff".encode()), "\ufdd0ff"):
        dead_letter = provenance.dead_letter(Message(b""), POSITION, replace(CAUSE, message_id=identity))
        assert provenance.read(dead_letter).message_id == identity


def test_nulls_are_kept_and_are_no_origin() -> None:
    given = Message(b"", headers=(("a", None), ("bridge.topic", None), ("bridge.message-id", None)))
    replayed = replace(CAUSE, replayed=True, message_id=None)
    dead_letter = provenance.dead_letter(given, POSITION, replayed)
    assert dead_letter.headers[0] == ("a", None)
    assert dict(dead_letter.headers)["bridge.topic"] == b"orders"
    assert provenance.read(given) == Provenance(None, ())


def test_a_failed_expression_and_the_time_of_the_failure_are_stated() -> None:
    cause = replace(CAUSE, expression="route r2, when", at=1_700_000_000.25)
    received = dict(provenance.dead_letter(Message(b""), POSITION, cause).headers)
    assert received["bridge.expression"] == b"route r2, when"
    assert received["bridge.first-failed-at"] == b"2023-11-14T22:13:20.250+00:00"


def test_a_replay_that_fails_again_counts_and_keeps_the_time_of_the_first_failure() -> None:
    dead_letter = provenance.dead_letter(Message(b""), POSITION, replace(CAUSE, at=1_700_000_000.0))
    assert "bridge.replays" not in dict(dead_letter.headers)
    for number in (1, 2):
        dead_letter = provenance.dead_letter(dead_letter, POSITION, replace(CAUSE, at=1_800_000_000.0, replayed=True))
        assert dict(dead_letter.headers)["bridge.replays"] == str(number).encode()
    assert dict(dead_letter.headers)["bridge.first-failed-at"] == b"2023-11-14T22:13:20.000+00:00"


def test_untrusted_headers_count_no_replay() -> None:
    dead_letter = provenance.dead_letter(Message(b""), POSITION, CAUSE)
    again = dict(provenance.dead_letter(dead_letter, POSITION, replace(CAUSE, at=5.0)).headers)
    assert "bridge.replays" not in again
    assert again["bridge.first-failed-at"].startswith(b"1970-")


def test_a_fingerprint_ignores_values_and_nothing_else() -> None:
    def name(detail: str, route: str = "r", error: str = "E") -> str:
        return provenance.fingerprint("reason", route, error, detail)

    one = name("instance 'order-17' has 3 events, in `payload.a`")
    assert one == name("instance 'order-4711' has 12.5 events, in `payload.a`")
    assert one != name("instance 'order-17' has 3 events, in `payload.b`")
    assert one != name("instance 'order-17' has 3 events, in `payload.a`", route="s")
    assert one != name("instance 'order-17' has 3 events, in `payload.a`", error="F")
    uuid = "id 123e4567-e89b-12d3-a456-426614174000"
    assert name(uuid) == name("id 00000000-0000-4000-8000-000000000000")
