"""Order saga: reserve stock, collect the payment, ship. After a failure the kit undoes the steps, last step first."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.workflow import Saga, SagaAborted, SagaOutcome, Step
from workflows.payment import request_payment, return_payment
from workflows.purchase import Order
from workflows.shipping import cancel_shipment, request_shipment
from workflows.stock import release_stock, reserve_stock

RESULTS = "order-results"
"""Target of the configuration to which outcomes are published."""

RETRY = task.RetryPolicy(
    first_retry_interval=timedelta(seconds=1),
    max_number_of_attempts=5,
    backoff_coefficient=2.0,
    max_retry_interval=timedelta(seconds=30),
)

Steps = Generator[task.Task[Any], Any, Any]


def fulfil_order(ctx: task.OrchestrationContext, order: Order) -> Generator[task.Task[Any], Any, SagaOutcome]:
    """Fulfil one order. Publishes and returns the outcome of the saga.

    Events: `payment` and `shipment` with a `status` field, and `cancel` until the goods are delivered. Termination
    of the instance skips the compensations; send `cancel` to stop an order in an orderly way.
    """
    saga = Saga(ctx, "order", publish_outcome=RESULTS, plan=("stock", "payment", "shipment"))
    return (yield from saga.run(_fulfil(ctx, order, saga)))


def _fulfil(ctx: task.OrchestrationContext, order: Order, saga: Saga) -> Steps:
    reservation = yield from saga.step(_step("stock", order, reserve_stock, release_stock))
    if not reservation["accepted"]:
        raise SagaAborted("out_of_stock", ", ".join(reservation["missing"]))

    yield from saga.step(_step("payment", order, request_payment, return_payment))
    payment = _object((yield from saga.wait_for_event("payment", timedelta(seconds=order.payment_deadline))))
    if payment.get("status") != "captured":
        raise SagaAborted("payment_failed", str(payment.get("reason", "")))

    yield from saga.step(_step("shipment", order, request_shipment, cancel_shipment))
    deadline = ctx.current_utc_datetime + timedelta(seconds=order.shipment_deadline)
    while True:
        left = max(deadline - ctx.current_utc_datetime, timedelta(0))
        shipment = _object((yield from saga.wait_for_event("shipment", left)))
        match shipment.get("status"):
            case "lost":
                raise SagaAborted("shipment_lost", str(shipment.get("tracking", "")))
            case "delivered":
                return {"order_id": order.id, "tracking": shipment.get("tracking")}


def _step(name: str, order: Order, action: Any, compensation: Any) -> Step:
    # Activities get the order itself: its id is the idempotency key of all of them
    return Step(name, action, order, compensation=compensation, retry=RETRY, compensation_retry=RETRY, keyed=False)


def _object(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}
