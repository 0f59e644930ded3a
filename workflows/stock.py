"""Stock: activities that reserve for an order, and an entity that counts arrivals."""

from __future__ import annotations

from typing import Any

from durabletask import task
from durabletask.entities import DurableEntity

from workflows.purchase import Order

OUT_OF_STOCK = "out-of-stock"
"""Article that is never in stock. The message decides on a refusal, which makes samples and tests repeatable."""

REMEMBERED_DELIVERIES = 100
"""Number of delivery ids that an entity keeps to recognise a repeated message."""


def reserve_stock(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Reserve every line. A refusal is an answer, not an exception, because a repeated call would not change it.

    The order's id is the idempotency key: a repeated call returns the same reservation.
    """
    missing = [line.sku for line in order.lines if line.sku == OUT_OF_STOCK]
    if missing:
        return {"accepted": False, "missing": missing}
    return {"accepted": True, "reservation": f"reservation-{order.id}"}


def release_stock(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    """Undo `reserve_stock`. Harmless if nothing is reserved."""
    return {"released": f"reservation-{order.id}"}


class StockLevel(DurableEntity):
    """Quantity of one article in the warehouse. The entity's key is the article."""

    __durable_entity_name__ = "stock_level"

    def receive(self, delivery: dict[str, Any]) -> int:
        """Add `quantity` of the delivery `id`, once per id. Returns the quantity in stock."""
        state = self.get_state(dict, {"quantity": 0, "deliveries": []})
        if delivery["id"] not in state["deliveries"]:
            state["quantity"] += int(delivery["quantity"])
            state["deliveries"] = [*state["deliveries"], delivery["id"]][-REMEMBERED_DELIVERIES:]
            self.set_state(state)
        return int(state["quantity"])

    def quantity(self) -> int:
        """Return the quantity in stock."""
        return int(self.get_state(dict, {"quantity": 0})["quantity"])
