"""Sample entities, signalled by messages; each message counts once."""

from __future__ import annotations

import json
from typing import Any

from durabletask.entities import EntityInstanceId

from tests.kit.waiting import eventually_blocking
from tests.workflows.conftest import WorkflowFixture


def settled(hub: WorkflowFixture, entity: EntityInstanceId, field: str, wanted: Any) -> Any:
    """Wait until `field` of the state is `wanted`."""
    state: dict[str, Any] = {}

    def is_wanted() -> bool:
        found = hub.client.get_entity(entity)
        state.update(json.loads(found.get_state() or "{}") if found is not None else {})
        return state.get(field) == wanted

    eventually_blocking(is_wanted, lambda: f"{entity} is {state}")
    return state


def test_a_payment_counts_once(hub: WorkflowFixture) -> None:
    account = EntityInstanceId("customer_account", "c-7")
    for payment, amount in (("p-1", 10.1), ("p-1", 10.1), ("p-2", 20.2)):
        hub.client.signal_entity(account, "paid", {"id": payment, "amount": amount})
    state = settled(hub, account, "payments", 2)
    assert state["total"] == 30.3


def test_a_delivery_counts_once(hub: WorkflowFixture) -> None:
    level = EntityInstanceId("stock_level", "tea")
    for delivery, quantity in (("d-1", 5), ("d-2", 3), ("d-1", 5)):
        hub.client.signal_entity(level, "receive", {"id": delivery, "quantity": quantity})
    hub.client.signal_entity(level, "receive", {"id": "d-3", "quantity": 1})
    settled(hub, level, "quantity", 9)


def test_many_payments_do_not_let_the_state_grow(hub: WorkflowFixture) -> None:
    account = EntityInstanceId("customer_account", "c-8")
    for number in range(130):
        hub.client.signal_entity(account, "paid", {"id": f"p-{number}", "amount": 1})
    state = settled(hub, account, "payments", 130)
    assert state["recent"] == [f"p-{number}" for number in range(30, 130)]
