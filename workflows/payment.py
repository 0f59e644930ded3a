"""Payments: activities that call the payment provider. The order's id is the key, and a repeat has no second effect."""

from __future__ import annotations

from typing import Any

from durabletask import task

from workflows.purchase import Order

CLOSED_ACCOUNT = "closed-account"
"""Customer to whom no refund is possible. The message decides on the failure, so samples and tests are repeatable."""


class AccountClosed(Exception):
    """Raised when a refund has no account to go to. A person must find another way."""


def request_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Ask the provider to collect the total. The provider answers later with a `payment.*` message."""
    return {"request": f"payment-{order.id}", "amount": order.total, "currency": order.currency}


def void_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Withdraw a payment request. A voided request can no longer be captured."""
    return {"voided": f"payment-{order.id}"}


def refund_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Refund a captured payment."""
    return {"refunded": f"payment-{order.id}", "amount": order.total, "currency": order.currency}


def return_payment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Refund a captured payment, or withdraw its request: the provider knows the state. Raises: AccountClosed."""
    if order.customer == CLOSED_ACCOUNT:
        raise AccountClosed("the account of the customer is closed")
    return {"returned": f"payment-{order.id}", "amount": order.total, "currency": order.currency}
