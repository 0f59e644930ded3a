"""Sample saga of the configuration in virtual time; the tests play the services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.testing import LocalBridge

SAMPLE = Path(__file__).parents[3] / "config" / "sagas.yaml"
ORDER = {"id": "p-1", "total": 25.0, "lines": [{"sku": "tea", "quantity": 2}]}
ID = "purchase-p-1"


@pytest.fixture
def bridge() -> Iterator[LocalBridge]:
    with LocalBridge(SAMPLE) as running:
        running.publish("purchases", ORDER, type="purchase.requested", key="p-1")
        yield running


def types(bridge: LocalBridge, target: str) -> list[str]:
    return [event.type for event in bridge.published(target)]


def outcome(bridge: LocalBridge) -> dict[str, Any]:
    (received,) = bridge.published("results")
    output: dict[str, Any] = bridge.result(ID)
    assert received.data == output
    assert received.type == f"purchase.{output['status']}"
    return output


def test_all_goes_well(bridge: LocalBridge) -> None:
    assert bridge.custom_status(ID)["steps"] == {"stock": "running", "payment": "running", "parcel": "waiting"}
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    bridge.answer("payments", {"status": "authorised", "id": "a-1"})
    (booked,) = bridge.published("parcels")
    assert booked.data == {"order": "p-1", "reservation": "r-1"}
    assert (booked.subject, booked.headers["reply-to"]) == ("p-1", "answers")
    bridge.answer("parcels", {"tracking": "t-1"})
    assert outcome(bridge)["result"] == {"parcel": "t-1", "authorisation": "a-1"}
    assert types(bridge, "stock") == ["stock.reserve"]
    assert bridge.published("payments")[0].data == {"amount": 25.0, "currency": "EUR"}


def test_a_refusal_undoes_what_else_was_done(bridge: LocalBridge) -> None:
    bridge.answer("payments", {"status": "authorised", "id": "a-1"})
    bridge.answer("stock", {"status": "sold_out", "missing": "tea"})
    done = outcome(bridge)
    assert (done["status"], done["reason"], done["step"], done["detail"]) == ("compensated", "refused", "stock", "tea")
    assert done["compensated"] == ["payment"]
    authorise, void = bridge.published("payments")
    assert (void.type, void.data) == ("payment.void", {"authorisation": "a-1"})
    assert void.headers == {"step-key": authorise.headers["step-key"]}
    assert types(bridge, "stock") == ["stock.reserve"]


def test_silence_is_compensated_without_knowing(bridge: LocalBridge) -> None:
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    bridge.advance(minutes=15)
    done = outcome(bridge)
    assert (done["reason"], done["step"]) == ("timeout", "payment")
    assert bridge.published("payments")[-1].data == {"authorisation": None}
    assert types(bridge, "stock") == ["stock.reserve", "stock.release"]
    assert bridge.custom_status(ID)["steps"] == {"stock": "compensated", "payment": "compensated"}


def test_an_answer_that_failed_is_asked_again_as_a_new_message_under_the_same_key(bridge: LocalBridge) -> None:
    bridge.answer("payments", {"status": "try_again"})
    assert len(bridge.published("payments")) == 1
    bridge.advance(seconds=10)
    first, second = bridge.published("payments")
    assert first.data == second.data
    assert first.headers["step-key"] == second.headers["step-key"]
    assert first.id != second.id
    assert first.headers["correlation-id"] != second.headers["correlation-id"]
    bridge.answer("payments", {"status": "try_again"})
    bridge.advance(seconds=20)
    bridge.answer("payments", {"status": "try_again"})
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    done = outcome(bridge)
    assert (done["reason"], done["step"]) == ("failed", "payment")
    # They ran in parallel, and are undone in parallel: their order is free.
    assert sorted(done["compensated"]) == ["payment", "stock"]


def test_cancel_is_heard_until_the_point_of_no_return(bridge: LocalBridge) -> None:
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    bridge.publish("purchases", {"id": "p-1", "reason": "too dear"}, type="purchase.cancelled", key="p-1")
    done = outcome(bridge)
    assert (done["status"], done["reason"], done["detail"]) == ("compensated", "cancelled", "too dear")


def test_behind_it_the_command_is_sent_until_it_is_answered(bridge: LocalBridge) -> None:
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    bridge.answer("payments", {"status": "authorised", "id": "a-1"})
    bridge.publish("purchases", {"id": "p-1", "reason": "too late"}, type="purchase.cancelled", key="p-1")
    bridge.advance(hours=3)
    assert len(bridge.published("parcels")) == 3
    assert len({event.headers["step-key"] for event in bridge.published("parcels")}) == 1
    assert bridge.status(ID) == "RUNNING"
    for _ in range(3):
        bridge.answer("parcels", {"tracking": "t-1"})
    assert outcome(bridge)["status"] == "completed"


def test_an_answer_that_nobody_waits_for_is_no_trouble(bridge: LocalBridge) -> None:
    headers = dict(bridge.published("stock")[0].headers)
    bridge.answer("stock", {"status": "reserved", "id": "r-1"})
    bridge.publish("answers", {"status": "sold_out"}, type="again", headers=headers)
    assert bridge.custom_status(ID)["steps"]["stock"] == "completed"


@pytest.mark.parametrize("headers", [{}, {"correlation-id": "x@purchase-p-1"}], ids=["without", "made up"])
def test_an_answer_to_no_question_is_a_dead_letter(bridge: LocalBridge, headers: dict[str, str]) -> None:
    bridge.publish("answers", {"status": "reserved"}, type="answer", headers=headers)
    assert bridge.outcomes("answers") == {"dead_lettered": 1}
