"""Facts of dead letters, of the bridge and of other programs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core import dead_letter, provenance
from bridge.core.dead_letter import FailedPosition
from bridge.core.message import Headers, Message, Position
from bridge.core.provenance import Cause

PLACE = Position("c", "orders.dlq", 1, 7)


def test_facts_of_the_bridge_s_own() -> None:
    cause = Cause(
        "expression_error", "route a, when: no", "ExpressionError", "orders", "a", ("b",), 2, "v1", "shop/1",
        expression="route a, when",
    )  # fmt: skip
    message = replace(provenance.dead_letter(Message(b"x"), Position("c", "orders", 3, 42), cause), timestamp=12.5)
    entry = dead_letter.read(message, PLACE)
    assert (entry.id, entry.format, entry.reason, entry.route) == (
        "orders.dlq/1@7", "bridge", "expression_error", "a",
    )  # fmt: skip
    assert (entry.source, entry.executed, entry.attempts, entry.config) == ("orders", ("b",), 2, "v1")
    assert (entry.message_id, str(entry.origin), entry.failed_at) == ("shop/1", "orders/3@42", 12.5)
    assert entry.expression == "route a, when"
    assert entry.fingerprint == cause.name


def test_a_reason_of_an_earlier_version_has_its_present_word() -> None:
    entry = dead_letter.read(Message(b"", headers=(("bridge.reason", b"parking_full"),)), PLACE)
    assert (entry.reason, entry.detail, entry.attempts) == ("early_full", "", None)


@pytest.mark.parametrize(
    ("headers", "format_", "reason", "error", "origin", "text"),
    [
        (
            (
                ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
                ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
                ("kafka_dlt-exception-message", b"bad order 17"),
                ("kafka_dlt-original-topic", b"orders"),
                ("kafka_dlt-original-partition", (2).to_bytes(4, "big")),
                ("kafka_dlt-original-offset", (41).to_bytes(8, "big")),
            ),
            "spring",
            "IllegalStateException",
            "java.lang.IllegalStateException",
            FailedPosition("orders", 2, 41),
            "bad order 17",
        ),
        (
            (
                ("__connect.errors.topic", b"orders"),
                ("__connect.errors.partition", b"0"),
                ("__connect.errors.offset", b"9"),
                ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
                ("__connect.errors.exception.message", b"no"),
            ),
            "connect",
            "DataException",
            "org.apache.kafka.connect.errors.DataException",
            FailedPosition("orders", 0, 9),
            "no",
        ),
        (
            (
                ("__streams.errors.exception", b"java.lang.NullPointerException"),
                ("__streams.errors.message", b"null"),
                ("__streams.errors.topic", b"orders"),
                ("__streams.errors.partition", b"1"),
                ("__streams.errors.offset", b"2"),
            ),
            "streams",
            "NullPointerException",
            "java.lang.NullPointerException",
            FailedPosition("orders", 1, 2),
            "null",
        ),
        (
            (
                ("__dlq.errors.topic", b"orders"),
                ("__dlq.errors.partition", b"1"),
                ("__dlq.errors.offset", b"2"),
                ("__dlq.errors.group", b"billing"),
                ("__dlq.errors.delivery.count", b"5"),
                ("__dlq.errors.message", b"Offset rejected by client."),
            ),
            "share_group",
            "Offset rejected by client",
            "Offset rejected by client",
            FailedPosition("orders", 1, 2),
            "",
        ),
        (
            (("DeadLetterReason", b"MaxDeliveryCountExceeded"), ("DeadLetterErrorDescription", b"10 times")),
            "servicebus",
            "MaxDeliveryCountExceeded",
            "",
            FailedPosition(),
            "10 times",
        ),
        ((("other", b"1"),), "unknown", "unknown", "", FailedPosition(), ""),
    ],
)
def test_facts_of_other_programs(
    headers: Headers, format_: str, reason: str, error: str, origin: FailedPosition, text: str
) -> None:
    entry = dead_letter.read(Message(b"", headers=headers), PLACE)
    assert (entry.format, entry.reason, entry.error, entry.origin) == (format_, reason, error, origin)
    assert (entry.detail, entry.foreign_detail) == ("", text)
    assert (entry.attempts, entry.route) == ((5, "billing") if format_ == "share_group" else (None, None))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "bridge.reason", "bridge.offset", "bridge.attempts", "bridge.replays", "bridge.fingerprint",
                    "bridge.executed", "kafka_dlt-original-offset", "kafka_dlt-exception-fqcn",
                    "__connect.errors.offset", "__streams.errors.partition", "__dlq.errors.offset", "DeadLetterReason",
                ]
            ),
            st.one_of(st.none(), st.binary(max_size=24), st.sampled_from([b"", b"12", b"-1", b"9" * 40])),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_any_headers_give_facts(headers: list[tuple[str, bytes | None]]) -> None:
    entry = dead_letter.read(Message(b"", headers=tuple(headers)), PLACE)
    assert len(entry.fingerprint) == 12
    assert entry.fingerprint.encode()
