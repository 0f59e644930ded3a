"""Durable entities with locks: money moves between two accounts, and no other transfer sees an intermediate state."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from durabletask import task
from durabletask.entities import DurableEntity, EntityInstanceId

from bridge.workflow import publish
from workflows.patterns.chaining import RESULTS


class PurseAccount(DurableEntity):
    """A balance in cents. The entity's key is the account's number."""

    __durable_entity_name__ = "purse_account"

    def change(self, amount: int) -> int:
        """Add an amount, which may be negative. Returns the balance."""
        balance = self.get_state(int, 0) + amount
        self.set_state(balance)
        return balance

    def balance(self) -> int:
        """Return the balance."""
        return self.get_state(int, 0)


@dataclass
class Transfer:
    """Input of `transfer`. amount is in cents; source and destination are account numbers."""

    number: str
    source: str
    destination: str
    amount: int


def transfer(ctx: task.OrchestrationContext, wanted: Transfer) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Move the amount if the source has it. While both accounts are locked no other transfer can access them."""
    source = EntityInstanceId(PurseAccount.__durable_entity_name__, wanted.source)
    destination = EntityInstanceId(PurseAccount.__durable_entity_name__, wanted.destination)
    with (yield ctx.lock_entities([source, destination])):
        balance = yield ctx.call_entity(source, "balance")
        moved = balance >= wanted.amount
        if moved:
            yield ctx.call_entity(source, "change", -wanted.amount)
            yield ctx.call_entity(destination, "change", wanted.amount)
    result = {"number": wanted.number, "status": "moved" if moved else "refused"}
    yield publish(ctx, RESULTS, result, type=f"transfer.{result['status']}", subject=wanted.number)
    return result
