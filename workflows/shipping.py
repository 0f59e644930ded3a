"""Shipping: activities towards the carrier, keyed by the order's id so that a repeat has no second effect."""

from __future__ import annotations

from typing import Any

from durabletask import task

from workflows.purchase import Order


def request_shipment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Hand the order to the carrier; the carrier answers later with `shipment.*` messages."""
    return {"shipment": f"shipment-{order.id}"}


def cancel_shipment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Call the shipment back, or open a claim when it is lost."""
    return {"cancelled": f"shipment-{order.id}"}
