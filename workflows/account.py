"""A customer's account as a durable entity. Messages signal it, and each payment counts once."""

from __future__ import annotations

from typing import Any

from durabletask.entities import DurableEntity

REMEMBERED_PAYMENTS = 100
"""Number of payment ids that an account keeps to recognise a repeated message."""


class CustomerAccount(DurableEntity):
    """Total payments of a customer. The entity's key is the customer's number."""

    __durable_entity_name__ = "customer_account"

    def paid(self, payment: dict[str, Any]) -> None:
        """Add the `amount` of the payment `id`, once per id, because signals are delivered at least once."""
        state = self._state()
        if payment["id"] in state["recent"]:
            return
        state["total"] = round(state["total"] + float(payment["amount"]), 2)
        state["payments"] += 1
        state["recent"] = [*state["recent"], payment["id"]][-REMEMBERED_PAYMENTS:]
        self.set_state(state)

    def balance(self) -> dict[str, Any]:
        """Return the total and the number of payments."""
        state = self._state()
        return {"total": state["total"], "payments": state["payments"]}

    def _state(self) -> dict[str, Any]:
        return dict(self.get_state(dict, {"total": 0.0, "payments": 0, "recent": []}))
