"""Payments: activities that call the payment provider. The order's id is the key, and a repeat has no second effect."""

from __future__ import annotations

from typing import Any

from durabletask import task

from workflows.purchase import Order


def request_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Ask the provider to collect the total. The provider answers later with a `payment.*` message."""
    return {"request": f"payment-{order.id}", "amount": order.total, "currency": order.currency}


def void_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Withdraw a payment request. A voided request can no longer be captured."""
    return {"voided": f"payment-{order.id}"}


def refund_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Refund a captured payment."""
    return {"refunded": f"payment-{order.id}", "amount": order.total, "currency": order.currency}
