"""Order saga in plain code on a real worker: every outcome, with its compensations."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from durabletask import task

from tests.workflows.conftest import CARRIER_IS_AWAY, WorkflowFixture
from workflows import order_plain as order_module
from workflows import order_saga
from workflows.purchase import Order, OrderLine
from workflows.stock import OUT_OF_STOCK

CAPTURED = {"status": "captured", "payment_id": "p-1", "amount": 20.0}
DISPATCHED = {"status": "dispatched", "tracking": "t-1"}
DELIVERED = {"status": "delivered", "tracking": "t-1"}
LOST = {"status": "lost", "tracking": "t-1"}
ALL_STEPS = ["stock_reserved", "payment_requested", "payment_captured", "shipment_requested", "dispatched", "delivered"]


def order(name: str, **changes: Any) -> Order:
    lines = [OrderLine("tea", 2), OrderLine("cup", 1)]
    return dataclasses.replace(Order(id=name, customer="c-1", total=20.0, lines=lines), **changes)


def begin(hub: WorkflowFixture, what: Order) -> str:
    instance_id = f"order-{what.id}"
    hub.start(order_saga, instance_id, what)
    return instance_id


def outcome(hub: WorkflowFixture, instance_id: str) -> dict[str, Any]:
    """Return the result, after a check that exactly this result was published, once."""
    result = hub.result(instance_id)
    published = hub.published_for(result["order_id"])
    assert [(event["type"], event["data"]) for event in published] == [(f"order.{result['status']}", result)]
    assert published[0]["target"] == "order-results"
    assert published[0]["key"] == result["order_id"]
    return result


def test_a_delivered_order_completes(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("delivered"))
    hub.reaches(instance_id, "awaiting payment")
    hub.tell(instance_id, "payment", CAPTURED)
    hub.reaches(instance_id, "awaiting shipment")
    hub.tell(instance_id, "shipment", DISPATCHED)
    hub.reaches(instance_id, "dispatched")
    hub.tell(instance_id, "shipment", DELIVERED)
    assert outcome(hub, instance_id) == {
        "order_id": "delivered", "status": "completed", "steps": ALL_STEPS, "compensated": [],
    }  # fmt: skip


def test_the_input_may_be_the_message_as_it_is(hub: WorkflowFixture) -> None:
    message = {**dataclasses.asdict(order("as-message")), "note": "fields that the workflow does not know"}
    hub.start("order_saga", "order-as-message", message)
    hub.tell("order-as-message", "payment", CAPTURED)
    hub.tell("order-as-message", "shipment", DELIVERED)
    assert outcome(hub, "order-as-message")["status"] == "completed"


def test_events_that_come_early_and_twice_are_taken_once_and_in_order(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("early"))
    for name, data in (
        ("shipment", DISPATCHED), ("shipment", DISPATCHED), ("shipment", DELIVERED), ("shipment", DELIVERED),
        ("payment", CAPTURED), ("payment", CAPTURED),
    ):  # fmt: skip
        hub.tell(instance_id, name, data)
    assert outcome(hub, instance_id)["steps"] == ALL_STEPS


def test_out_of_stock_has_nothing_to_undo(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("no-stock", lines=[OrderLine("tea"), OrderLine(OUT_OF_STOCK)]))
    result = outcome(hub, instance_id)
    assert (result["status"], result["reason"], result["detail"]) == ("compensated", "out_of_stock", OUT_OF_STOCK)
    assert (result["steps"], result["compensated"]) == ([], [])


def test_a_failed_payment_releases_the_stock(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("declined"))
    hub.tell(instance_id, "payment", {"status": "failed", "reason": "card declined"})
    result = outcome(hub, instance_id)
    assert (result["status"], result["reason"], result["detail"]) == ("compensated", "payment_failed", "card declined")
    assert result["compensated"] == ["payment_voided", "stock_released"]


def test_no_payment_in_time_releases_the_stock(hub: WorkflowFixture) -> None:
    result = outcome(hub, begin(hub, order("unpaid", payment_deadline=0.2)))
    assert result["reason"] == "payment_timeout"
    assert result["compensated"] == ["payment_voided", "stock_released"]


def test_a_lost_shipment_is_undone_in_reverse_order(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("lost"))
    hub.tell(instance_id, "payment", CAPTURED)
    hub.tell(instance_id, "shipment", DISPATCHED)
    hub.tell(instance_id, "shipment", LOST)
    result = outcome(hub, instance_id)
    assert (result["reason"], result["detail"]) == ("shipment_lost", "t-1")
    assert result["steps"] == ALL_STEPS[:-1]
    assert result["compensated"] == ["shipment_cancelled", "payment_refunded", "stock_released"]


def test_no_shipment_in_time_is_undone(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("stuck", shipment_deadline=0.2))
    hub.tell(instance_id, "payment", CAPTURED)
    result = outcome(hub, instance_id)
    assert result["reason"] == "shipment_timeout"
    assert result["compensated"] == ["shipment_cancelled", "payment_refunded", "stock_released"]


def test_cancel_before_the_first_step_ends(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("cancelled-at-once"))
    hub.tell(instance_id, "cancel", {"reason": "changed my mind"})
    result = outcome(hub, instance_id)
    assert (result["reason"], result["detail"]) == ("cancelled", "changed my mind")
    assert result["compensated"] == ["payment_voided", "stock_released"]


@pytest.mark.parametrize("data", [None, "too slow", {"reason": "too slow"}], ids=["nothing", "text", "object"])
def test_cancel_while_waiting_for_the_payment(hub: WorkflowFixture, data: Any) -> None:
    name = f"cancelled-unpaid-{type(data).__name__}"
    instance_id = begin(hub, order(name))
    hub.reaches(instance_id, "awaiting payment")
    hub.tell(instance_id, "cancel", data)
    result = outcome(hub, instance_id)
    assert (result["reason"], result["detail"]) == ("cancelled", "too slow" if data else "")
    assert result["compensated"] == ["payment_voided", "stock_released"]


def test_cancel_while_waiting_for_the_shipment(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("cancelled-paid"))
    hub.tell(instance_id, "payment", CAPTURED)
    hub.reaches(instance_id, "awaiting shipment")
    hub.tell(instance_id, "cancel")
    result = outcome(hub, instance_id)
    assert result["reason"] == "cancelled"
    assert result["compensated"] == ["shipment_cancelled", "payment_refunded", "stock_released"]


def test_what_is_on_its_way_is_no_longer_cancelled(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("cancelled-late"))
    hub.tell(instance_id, "payment", CAPTURED)
    hub.tell(instance_id, "shipment", DISPATCHED)
    hub.reaches(instance_id, "dispatched")
    hub.tell(instance_id, "cancel")
    hub.tell(instance_id, "shipment", DELIVERED)
    assert outcome(hub, instance_id)["status"] == "completed"


def test_a_suspended_order_keeps_what_arrives(hub: WorkflowFixture) -> None:
    instance_id = begin(hub, order("held"))
    hub.reaches(instance_id, "awaiting payment")
    hub.client.suspend_orchestration(instance_id)
    hub.tell(instance_id, "payment", CAPTURED)
    hub.tell(instance_id, "shipment", DELIVERED)
    hub.client.resume_orchestration(instance_id)
    assert outcome(hub, instance_id)["status"] == "completed"


def test_an_activity_that_keeps_failing_is_undone(hub: WorkflowFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=2)
    monkeypatch.setattr(order_module, "RETRY", impatient)
    instance_id = begin(hub, order(CARRIER_IS_AWAY))
    hub.tell(instance_id, "payment", CAPTURED)
    result = outcome(hub, instance_id)
    assert result["reason"] == "activity_failed"
    assert result["detail"].endswith("ConnectionError")
    # The carrier may have taken the order; the shipment is therefore cancelled too.
    assert result["compensated"] == ["shipment_cancelled", "payment_refunded", "stock_released"]
