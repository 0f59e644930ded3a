"""Limits on everything in a listing; a request beyond a limit is refused with an error that names the limit."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from tests.kit.protocol_client import ProtocolClient, activity, call, child, complete, start, state, text
from tests.sqlite_engine.test_entity import calling, locking

LONG = "n" * 1025
TAGS = {"t": "x" * 64 * 1024}


@pytest.mark.parametrize(
    ("method", "request_", "bound"),
    [
        ("StartInstance", pb.CreateInstanceRequest(instanceId="new", name=LONG), 1024),
        ("StartInstance", pb.CreateInstanceRequest(instanceId="new", name="work", version=text(LONG)), 1024),
        ("StartInstance", pb.CreateInstanceRequest(instanceId="new", name="work", tags=TAGS), 65536),
        ("RaiseEvent", pb.RaiseEventRequest(instanceId="i", name=LONG), 1024),
        ("RaiseEvent", pb.RaiseEventRequest(instanceId="i", name="e", input=text("x" * (3 * 2**20 + 1))), 3145728),
        ("RaiseEvent", pb.RaiseEventRequest(instanceId="i", name="e", input=text("\u00e9" * (2 * 2**20))), 3145728),
        ("SignalEntity", pb.SignalEntityRequest(instanceId="@c@x", name=LONG), 1024),
        ("StartInstance", pb.CreateInstanceRequest(instanceId="new", name="work", executionId=text(LONG)), 1024),
        ("SuspendInstance", pb.SuspendRequest(instanceId="i", reason=text("x" * (3 * 2**20 + 1))), 3145728),
        ("ResumeInstance", pb.ResumeRequest(instanceId="i", reason=text("x" * (3 * 2**20 + 1))), 3145728),
        ("RewindInstance", pb.RewindInstanceRequest(instanceId="i", reason=text("x" * (3 * 2**20 + 1))), 3145728),
    ],
)
def test_a_call_beyond_a_bound_is_refused(database: Database, method: str, request_: Any, bound: int) -> None:
    start(database, "work", "i")
    with pytest.raises(Rejection, match=f"at most {bound} are allowed") as refused:
        call(database, method, request_)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not call(database, "GetInstance", pb.GetInstanceRequest(instanceId="new")).exists


def event(name: str, data: str = "") -> pb.OrchestratorAction:
    sent = pb.SendEventAction(instance=pb.OrchestrationInstance(instanceId="other"), name=name, data=text(data))
    return pb.OrchestratorAction(id=1, sendEvent=sent)


def tagged() -> pb.OrchestratorAction:
    action = activity(1, "step")
    action.scheduleTask.tags.update(TAGS)
    return action


def signaling(number: int, entity: str) -> pb.OrchestratorAction:
    signal = pb.EntityOperationSignaledEvent(requestId="r", operation="o", targetInstanceId=text(entity))
    return pb.OrchestratorAction(
        id=number, sendEntityMessage=pb.SendEntityMessageAction(entityOperationSignaled=signal)
    )


@pytest.mark.parametrize("execution", ["e\x1f5,5", "e\x1fx", "e\0"])
def test_an_execution_id_with_control_characters_is_refused(database: Database, execution: str) -> None:
    with pytest.raises(Rejection, match="control character") as refused:
        start(database, "work", "new", executionId=text(execution))
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not call(database, "GetInstance", pb.GetInstanceRequest(instanceId="new")).exists


@pytest.mark.parametrize(
    ("action", "bound"),
    [
        (activity(1, LONG), 1024),
        (tagged(), 65536),
        (child(1, LONG, "c"), 1024),
        (event(LONG), 1024),
        (event("e", "x" * (3 * 2**20 + 1)), 3145728),
        (calling(1, "@c@x", LONG, "r"), 1024),
        (calling(1, f"@c@{LONG}", "o", "r"), 1024),
        (locking(1, "section", "@c@x", f"@c@{LONG}"), 1024),
        (signaling(1, f"@c@{LONG}"), 1024),
    ],
)
def test_a_turn_beyond_a_bound_fails_once(database: Database, action: pb.OrchestratorAction, bound: int) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    remote.turn(remote.take(), action)
    failure = state(database, "i").failureDetails
    assert failure.errorType == "InvalidOrchestratorResponse"
    assert f"at most {bound} are allowed" in failure.errorMessage
    assert remote.nothing()


@pytest.mark.parametrize(("character", "most"), [("s", 1024 * 1024), ("\u00e9", 512 * 1024)])
def test_a_custom_status_is_bounded_in_bytes(database: Database, character: str, most: int) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "fits")
    remote.turn(remote.take(), complete(1), customStatus=text(character * most))
    assert state(database, "fits").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    start(database, "work", "i")
    remote.turn(remote.take(), complete(1), customStatus=text(character * (most + 1)))
    failure = state(database, "i").failureDetails
    assert "a custom status of 10" in failure.errorMessage
    assert "at most 1048576 are allowed" in failure.errorMessage
    assert not state(database, "i").customStatus.value
    assert remote.nothing()


def test_a_work_item_with_a_large_trace_context_is_not_handed_to_a_worker_that_cannot_take_it(
    database: Database,
) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "i")
    trace = pb.OrchestrationTraceContext(spanID=text("x" * 5_000_000), spanStartTime=timestamp(1))
    remote.turn(remote.take(), activity(1, "step"), orchestrationTraceContext=trace)
    remote.result(remote.take())
    ended = call(database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId="i")).orchestrationState
    assert ended.failureDetails.errorType == "HistoryTooLarge"
    assert remote.nothing()
