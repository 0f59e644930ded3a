"""Recorded histories, run again from their beginning, lead to the recorded decisions."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import JsonDataConverter
from durabletask.worker import _OrchestrationExecutor

import workflows
from tests.workflows.conftest import WorkflowFixture
from workflows.approval import ApprovalRequest
from workflows.parcel import Parcel
from workflows.purchase import Order, OrderLine

ORDER = Order(id="", customer="c-1", total=9.5, lines=[OrderLine("tea", 2)])
EVENTS: dict[str, tuple[Any, Any, list[tuple[str, Any]]]] = {
    "replay-completed": (
        workflows.fulfil_order,
        dataclasses.replace(ORDER, id="replay-completed"),
        [("payment", {"status": "captured"}), ("shipment", {"status": "dispatched"}),
         ("shipment", {"status": "delivered"})],
    ),
    "replay-lost": (
        workflows.fulfil_order,
        dataclasses.replace(ORDER, id="replay-lost"),
        [("payment", {"status": "captured"}), ("shipment", {"status": "lost"})],
    ),
    "replay-timeout": (
        workflows.fulfil_order, dataclasses.replace(ORDER, id="replay-timeout", payment_deadline=0.1), [],
    ),
    "replay-cancelled": (workflows.fulfil_order, dataclasses.replace(ORDER, id="replay-cancelled"), [("cancel", None)]),
    "replay-plain": (
        workflows.order_saga,
        dataclasses.replace(ORDER, id="replay-plain"),
        [("payment", {"status": "captured"}), ("cancel", None)],
    ),
    "replay-approval": (workflows.approval, ApprovalRequest("replay-approval", remind_after=0.05, deadline=0.2), []),
    "replay-parcel": (
        workflows.shipment_watch,
        Parcel("replay-parcel", "o-1", "dispatched", silent_after=0.1),
        [("scan", {"status": "scanned"}), ("scan", {"status": "delivered"})],
    ),
}  # fmt: skip


def turns(events: list[pb.HistoryEvent]) -> list[list[pb.HistoryEvent]]:
    """Return the history, cut at the beginning of each turn of the orchestrator."""
    cut: list[list[pb.HistoryEvent]] = []
    for event in events:
        if event.HasField("orchestratorStarted"):
            cut.append([])
        cut[-1].append(event)
    return cut


def decide(
    hub: WorkflowFixture, instance_id: str, old: list[pb.HistoryEvent], new: list[pb.HistoryEvent]
) -> tuple[Any, ...]:
    executor = _OrchestrationExecutor(hub.worker._registry, logging.getLogger("tests.replay"), JsonDataConverter())
    result = executor.execute(instance_id, old, new)
    actions = [action.SerializeToString(deterministic=True) for action in result.actions]
    return actions, result.encoded_custom_status


@pytest.mark.parametrize("instance_id", EVENTS)
def test_a_history_leads_to_the_same_decisions_again(hub: WorkflowFixture, instance_id: str) -> None:
    orchestrator, input_, events = EVENTS[instance_id]
    hub.start(orchestrator, instance_id, input_)
    for name, data in events:
        time.sleep(0.15)  # spread over turns: timers and events meet in several ways
        hub.tell(instance_id, name, data)
    recorded = hub.result(instance_id)

    history = [
        event for event in hub.backend._instances[instance_id].history if not event.HasField("executionCompleted")
    ]
    cut = turns(history)
    assert len(cut) > 1
    for number in range(len(cut)):
        old = [event for turn in cut[:number] for event in turn]
        assert decide(hub, instance_id, old, cut[number]) == decide(hub, instance_id, old, cut[number])
    # The whole history at once, and turn by turn with all earlier turns replayed, ends in the recorded output.
    for old, new in (([], history), (history[: -len(cut[-1])], cut[-1])):
        executor = _OrchestrationExecutor(hub.worker._registry, logging.getLogger("tests.replay"), JsonDataConverter())
        done = [a.completeOrchestration for a in executor.execute(instance_id, old, new).actions
                if a.HasField("completeOrchestration")]  # fmt: skip
        assert len(done) == 1
        assert done[0].orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
        assert JsonDataConverter().deserialize(done[0].result.value) == recorded
