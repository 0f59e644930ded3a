"""Protocol client of a worker: takes single work items and answers them as the test says."""

from __future__ import annotations

import json
from queue import SimpleQueue
from typing import Any

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.leases import WorkerStream
from bridge.sqlite_engine.model.reply import DEFERRED, ThreadReply
from bridge.sqlite_engine.model.values import StringValue, timestamp
from tests.kit.waiting import TIMEOUT


def begin(database: Database, method: str, request: Any, peer: str = "") -> ThreadReply:
    """Make a call without waiting for its answer. Raises: errors that the engine raises at once."""
    reply = ThreadReply()
    answer = database.call(method, request, reply, peer)
    if answer is not DEFERRED:
        reply.settle(answer)
    return reply


def call(database: Database, method: str, request: Any, peer: str = "") -> Any:
    return begin(database, method, request, peer).future.result(TIMEOUT)


def start(database: Database, name: str, instance_id: str, data: Any = None, **fields: Any) -> None:
    request = pb.CreateInstanceRequest(
        instanceId=instance_id, name=name, input=None if data is None else text(json.dumps(data)), **fields
    )
    call(database, "StartInstance", request)


def state(database: Database, instance_id: str) -> pb.OrchestrationState:
    request = pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True)
    response = call(database, "GetInstance", request)
    assert response.exists
    return response.orchestrationState


def raise_event(database: Database, instance_id: str, name: str, data: Any = None) -> None:
    request = pb.RaiseEventRequest(instanceId=instance_id, name=name, input=text(json.dumps(data)))
    call(database, "RaiseEvent", request)


def signal(database: Database, entity_id: str, name: str, data: Any = None, **fields: Any) -> None:
    request = pb.SignalEntityRequest(instanceId=entity_id, name=name, input=text(json.dumps(data)), **fields)
    call(database, "SignalEntity", request)


def text(value: str) -> Any:
    return StringValue(value=value)


class ProtocolClient:
    """Connected protocol worker.

    peer: address of its connection. tokens: whether it sends completion tokens. sessions: see `WorkerStream`.
    """

    def __init__(
        self,
        database: Database,
        *,
        peer: str = "",
        tokens: bool = True,
        sessions: tuple[int, int] | None = None,
        **request: Any,
    ) -> None:
        self.database = database
        self._tokens = tokens
        self._items: SimpleQueue[Any] = SimpleQueue()
        self.stream = WorkerStream(pb.GetWorkItemsRequest(**request), self._items.put, peer=peer, sessions=sessions)
        database.connect(self.stream)

    def take(self) -> pb.WorkItem:
        item: pb.WorkItem = self._items.get(timeout=TIMEOUT)
        if not self._tokens:
            item.completionToken = ""
        return item

    def nothing(self) -> bool:
        """Return whether there is no work item, after all earlier requests have been processed."""
        call(self.database, "GetInstance", pb.GetInstanceRequest(instanceId="nobody"))
        call(self.database, "GetInstance", pb.GetInstanceRequest(instanceId="nobody"))
        return self.idle()

    def idle(self) -> bool:
        """Return whether every dispatched work item has been taken."""
        return self._items.empty()

    def leave(self) -> None:
        self.database.disconnect(self.stream)

    def turn(self, item: pb.WorkItem, *actions: pb.OrchestratorAction, **fields: Any) -> None:
        response = pb.OrchestratorResponse(
            instanceId=item.orchestratorRequest.instanceId,
            completionToken=item.completionToken,
            actions=actions,
            **fields,
        )
        call(self.database, "CompleteOrchestratorTask", response, self.stream.peer)

    def result(self, item: pb.WorkItem, value: Any = None, failure: pb.TaskFailureDetails | None = None) -> None:
        request = item.activityRequest
        response = pb.ActivityResponse(
            instanceId=request.orchestrationInstance.instanceId,
            taskId=request.taskId,
            completionToken=item.completionToken,
            result=text(json.dumps(value)) if failure is None else None,
            failureDetails=failure,
        )
        call(self.database, "CompleteActivityTask", response, self.stream.peer)

    def batch(self, item: pb.WorkItem, *results: Any, new_state: Any = None, **fields: Any) -> None:
        result = pb.EntityBatchResult(
            completionToken=item.completionToken,
            entityState=None if new_state is None else text(json.dumps(new_state)),
            results=fields.pop("results", None)
            or [pb.OperationResult(success={"result": text(json.dumps(each))}) for each in results],
            **fields,
        )
        call(self.database, "CompleteEntityTask", result)


def kinds(item: pb.WorkItem) -> list[str]:
    """Return the kinds of the turn's new events, without the start of the turn."""
    return [event.WhichOneof("eventType") or "" for event in item.orchestratorRequest.newEvents][1:]


def activity(number: int, name: str, data: Any = None) -> pb.OrchestratorAction:
    return helpers.new_schedule_task_action(number, name, json.dumps(data), None)


def timer(number: int, micros: int) -> pb.OrchestratorAction:
    return pb.OrchestratorAction(id=number, createTimer=pb.CreateTimerAction(fireAt=timestamp(micros)))


def child(number: int, name: str, instance_id: str, data: Any = None) -> pb.OrchestratorAction:
    return helpers.new_create_sub_orchestration_action(number, name, instance_id, json.dumps(data), None)


def complete(number: int, data: Any = None, status: int = pb.ORCHESTRATION_STATUS_COMPLETED) -> pb.OrchestratorAction:
    return helpers.new_complete_orchestration_action(number, status, json.dumps(data))  # type: ignore[arg-type]


def fail(number: int, message: str) -> pb.OrchestratorAction:
    details = pb.TaskFailureDetails(errorType="Broken", errorMessage=message)
    return helpers.new_complete_orchestration_action(number, pb.ORCHESTRATION_STATUS_FAILED, None, details)


def again(number: int, data: Any, *carried: pb.HistoryEvent) -> pb.OrchestratorAction:
    return helpers.new_complete_orchestration_action(
        number, pb.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, json.dumps(data), None, list(carried)
    )
