"""Order saga in plain Durable Task code: reserve stock, collect the payment, ship; after a failure, undo.

`workflows.order` does the same with the kit, under another name: running instances of this one end with this code.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from durabletask import task

from bridge.workflow import Inbox, publish
from workflows.payment import refund_payment, request_payment, void_payment
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
Undo = Callable[[task.ActivityContext, Order], dict[str, Any]]


class _OrderFailed(Exception):
    """Raised when the order cannot be fulfilled. `reason` is a stable word for the outcome."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass
class _Journal:
    """Completed steps, and pairs of name and activity that undo them."""

    steps: list[str] = field(default_factory=list)
    undo: list[tuple[str, Undo]] = field(default_factory=list)


def order_saga(ctx: task.OrchestrationContext, order: Order) -> Steps:
    """Fulfil one order. Returns status (completed or compensated), reason, steps and compensated steps.

    Events: `payment` and `shipment` with a `status` field, and `cancel` until the goods are dispatched. Termination
    of the instance skips the compensation; send `cancel` to stop an order in an orderly way.
    """
    journal = _Journal()
    failure: _OrderFailed | None = None
    cancel = ctx.wait_for_external_event("cancel")
    try:
        yield from _fulfil(ctx, order, cancel, journal)
    except _OrderFailed as error:
        failure = error
    except task.TaskFailedError as error:
        failure = _OrderFailed("activity_failed", error.details.error_type)
    cancel.cancel()

    result: dict[str, Any] = {"order_id": order.id, "status": "completed", "steps": journal.steps, "compensated": []}
    if failure is not None:
        result |= {"status": "compensated", "reason": failure.reason, "detail": failure.detail}
        for name, activity in reversed(journal.undo):
            ctx.set_custom_status({"stage": "compensating", "reason": failure.reason, "next": name})
            yield ctx.call_activity(activity, input=order, retry_policy=RETRY)
            result["compensated"].append(name)
    yield publish(ctx, RESULTS, result, type=f"order.{result['status']}", subject=order.id, key=order.id)
    ctx.set_custom_status({"stage": result["status"]})
    return result


def _fulfil(
    ctx: task.OrchestrationContext, order: Order, cancel: task.CancellableTask[Any], journal: _Journal
) -> Steps:
    # Each undo is recorded before its step runs: after a failure it is unknown whether the step had an effect
    ctx.set_custom_status({"stage": "reserving stock"})
    journal.undo.append(("stock_released", release_stock))
    reservation = yield ctx.call_activity(reserve_stock, input=order, retry_policy=RETRY)
    if not reservation["accepted"]:
        journal.undo.pop()
        raise _OrderFailed("out_of_stock", ", ".join(reservation["missing"]))
    journal.steps.append("stock_reserved")

    ctx.set_custom_status({"stage": "awaiting payment"})
    journal.undo.append(("payment_voided", void_payment))
    yield ctx.call_activity(request_payment, input=order, retry_policy=RETRY)
    journal.steps.append("payment_requested")
    deadline = ctx.current_utc_datetime + timedelta(seconds=order.payment_deadline)
    payment = yield from _await(ctx, "payment", deadline, cancel)
    if payment.get("status") != "captured":
        raise _OrderFailed("payment_failed", str(payment.get("reason", "")))
    journal.undo[-1] = ("payment_refunded", refund_payment)
    journal.steps.append("payment_captured")

    ctx.set_custom_status({"stage": "awaiting shipment"})
    journal.undo.append(("shipment_cancelled", cancel_shipment))
    yield ctx.call_activity(request_shipment, input=order, retry_policy=RETRY)
    journal.steps.append("shipment_requested")
    deadline = ctx.current_utc_datetime + timedelta(seconds=order.shipment_deadline)
    while journal.steps[-1] != "delivered":
        # Dispatched goods can be lost but no longer cancelled
        on_its_way = "dispatched" in journal.steps
        shipment = yield from _await(ctx, "shipment", deadline, None if on_its_way else cancel)
        status = shipment.get("status")
        if status == "lost":
            raise _OrderFailed("shipment_lost", str(shipment.get("tracking", "")))
        if status in ("dispatched", "delivered") and status not in journal.steps:
            journal.steps.append(status)
            ctx.set_custom_status({"stage": status})


def _await(
    ctx: task.OrchestrationContext, name: str, deadline: datetime, cancel: task.CancellableTask[Any] | None
) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Data of the next message `name`. Raises: _OrderFailed if `cancel` or the deadline comes first.

    The inbox drops repeats of messages that were taken before.
    """
    inbox = Inbox(ctx)
    timer = ctx.create_timer(deadline)
    while True:
        event = inbox.task(name)
        waits: list[task.Task[Any]] = [event, timer] if cancel is None else [cancel, event, timer]
        winner = yield task.when_any(waits)
        if winner is not event:
            break
        message = inbox.accept(event)
        if message is not None:
            timer.cancel()
            return message.data if isinstance(message.data, dict) else {}
    if winner is not timer:
        timer.cancel()
    event.cancel()
    if winner is timer:
        raise _OrderFailed(f"{name}_timeout")
    raise _OrderFailed("cancelled", _reason(winner.get_result()))


def _reason(data: Any) -> str:
    return str(data.get("reason") or "") if isinstance(data, dict) else str(data or "")
