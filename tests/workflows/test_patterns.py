"""Workflow patterns, from the starting message to the publications."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.lint import examine
from bridge.testing import LocalBridge, NotFinished

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bridge() -> Iterator[LocalBridge]:
    with LocalBridge(ROOT / "config" / "patterns.yaml", environ={}) as running:
        yield running


def received(bridge: LocalBridge, subject: str) -> list[str]:
    return [event.type for event in bridge.published("pattern-results") if event.subject == subject]


def answer(bridge: LocalBridge, number: str, data: Any) -> None:
    """Answer as the service that was asked for a payment."""
    (asked,) = [
        event for event in bridge.published("services") if event.subject == number and event.type.endswith("requested")
    ]
    headers = {"correlation-id": asked.headers["correlation-id"]}
    assert asked.headers["reply-to"] == "service-replies"
    bridge.publish("replies", data, type="payment.done", headers=headers)


def test_function_chaining(bridge: LocalBridge) -> None:
    lines = [{"text": "tea", "price": 250, "quantity": 2}, {"text": "cup", "price": 900}]
    bridge.publish("patterns", {"number": "i1", "lines": lines}, type="invoice.requested")
    assert bridge.result("invoice-i1") == {"number": "i1", "total": 1400, "filed": "archive/i1.json"}
    assert received(bridge, "i1") == ["invoice.filed"]


def test_a_failed_activity_is_handled(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "i2", "lines": []}, type="invoice.requested")
    assert bridge.result("invoice-i2")["refused"] == "an invoice needs a line"
    assert received(bridge, "i2") == ["invoice.refused"]


def test_fan_out_and_sub_orchestrations(bridge: LocalBridge) -> None:
    orders = [
        {"order": "o1", "lines": ["tea", "cup"]},
        {"order": "o2", "lines": []},
        {"order": "o3", "lines": ["spoon"]},
    ]
    bridge.publish("patterns", {"number": "w1", "orders": orders}, type="wave.released")
    assert bridge.result("wave-w1") == {"wave": "w1", "orders": 3, "weight": 1100}
    assert bridge.result("wave-w1:o1") == {"order": "o1", "weight": 600}


def test_an_empty_wave(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "w2", "orders": []}, type="wave.released")
    assert bridge.result("wave-w2") == {"wave": "w2", "orders": 0, "weight": 0}


def test_a_person_is_asked_reminded_and_overtaken(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "e1", "amount": 900}, type="expense.requested")
    assert received(bridge, "e1") == ["expense.asked"]
    bridge.advance(days=2)
    assert received(bridge, "e1") == ["expense.asked", "expense.reminded"]
    bridge.advance(days=2)
    assert received(bridge, "e1")[-1] == "expense.escalated"
    bridge.publish("patterns", {"number": "e1", "approved": True, "by": "eve"}, type="expense.decided")
    assert bridge.result("expense-e1") == {
        "number": "e1", "status": "approved", "by": "eve", "notified": ["team lead", "team lead", "head of department"],
    }  # fmt: skip


def test_nobody_decides(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "e2", "amount": 900}, type="expense.requested")
    with pytest.raises(NotFinished, match="advance the time"):
        bridge.result("expense-e2")
    bridge.advance(days=7)
    assert bridge.result("expense-e2")["status"] == "expired"


def test_money_moves_under_locks(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"account": "a", "amount": 100}, type="purse.paid_in")
    for number in range(3):
        wanted = {"number": f"t{number}", "source": "a", "destination": "b", "amount": 40}
        bridge.publish("patterns", wanted, type="transfer.requested")
    results = sorted(bridge.result(f"transfer-t{number}")["status"] for number in range(3))
    assert results == ["moved", "moved", "refused"]
    assert (bridge.entity("purse_account", "a"), bridge.entity("purse_account", "b")) == (20, 80)


def test_an_eternal_orchestration_loses_no_event_between_generations(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "m1"}, type="meter.installed")
    for value in range(120):
        bridge.publish("patterns", {"number": "m1", "value": value}, type="meter.read")
    bridge.publish("patterns", {"number": "m1", "closed": True}, type="meter.closed")
    assert bridge.result("meter-m1") == {"number": "m1", "readings": 120, "total": 7140.0, "generations": 3}


def test_monitoring_ends_with_success_or_with_the_deadline(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "x1"}, type="export.started")
    bridge.advance(seconds=3)
    assert bridge.result("export-x1") == {"number": "x1", "status": "ready", "looks": 3}
    bridge.publish("patterns", {"number": "x2", "ready_after": 1000, "deadline": 100.0}, type="export.started")
    bridge.advance(seconds=100)
    assert bridge.result("export-x2") == {"number": "x2", "status": "late", "looks": 7}


def test_custom_types(bridge: LocalBridge) -> None:
    for number, weight, carrier in (("q1", 900, "bulk"), ("q2", 100, "heavy")):
        parcel = {"size": [30, 20, 100 if carrier == "bulk" else 150], "weight": weight}
        if carrier == "bulk":
            parcel["weight"] = 9000
        bridge.publish("patterns", {"number": number, "parcel": parcel}, type="quote.requested")
        assert bridge.result(f"quote-{number}")["carrier"] == carrier


def test_versions(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "p-bad"}, type="membership.requested")
    assert bridge.result("membership-p-bad") == {"number": "p-bad", "accepted": False, "rules": "2"}
    old = bridge.start("membership", {"number": "q-bad"})
    assert bridge.result(old) == {"number": "q-bad", "accepted": True, "rules": "1"}


def test_a_booking_that_is_paid(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "b1", "city": "Oslo", "price": 500}, type="booking.requested")
    assert bridge.custom_status("booking-b1")["steps"] == {
        "flight": "completed", "hotel": "completed", "payment": "running",
    }  # fmt: skip
    answer(bridge, "b1", {"receipt": "r-1"})
    result = bridge.result("booking-b1")
    assert (result["status"], result["result"]["receipt"]) == ("completed", {"receipt": "r-1"})
    assert received(bridge, "booking-b1") == ["booking.completed"]


def test_a_booking_that_is_not_paid_is_undone(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "b2", "city": "Oslo"}, type="booking.requested")
    bridge.advance(minutes=20)
    result = bridge.result("booking-b2")
    assert (result["status"], result["reason"], result["step"]) == ("compensated", "timeout", "payment")
    assert (result["compensated"][0], sorted(result["compensated"])) == ("payment", ["flight", "hotel", "payment"])
    sent = [event.type for event in bridge.published("services") if event.subject == "b2"]
    assert sent == ["payment.requested", "payment.voided"]


def test_a_booking_without_a_hotel_gives_the_flight_back(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "b3", "city": "Atlantis"}, type="booking.requested")
    result = bridge.result("booking-b3")
    assert (result["reason"], result["step"], result["compensated"]) == ("refused", "hotel", ["flight"])


def test_a_booking_is_cancelled_by_message(bridge: LocalBridge) -> None:
    bridge.publish("patterns", {"number": "b4", "city": "Oslo"}, type="booking.requested")
    bridge.publish("patterns", {"number": "b4", "reason": "ill"}, type="booking.cancelled")
    result = bridge.result("booking-b4")
    assert (result["status"], result["reason"], result["detail"]) == ("compensated", "cancelled", "ill")


def test_the_patterns_pass_the_lint() -> None:
    assert examine([ROOT / "workflows"]).findings == []
