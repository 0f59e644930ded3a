"""Shipping: activities that call the carrier. The order's id is the key, and a repeat has no second effect."""

from __future__ import annotations

from typing import Any

from durabletask import task

from workflows.purchase import Order


def request_shipment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Hand the order to the carrier. The carrier answers later with `shipment.*` messages."""
    return {"shipment": f"shipment-{order.id}"}


def cancel_shipment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Recall the shipment, or open a claim if it is lost."""
    return {"cancelled": f"shipment-{order.id}"}
