"""Fields of the protocol that may hold a large payload: inputs, events and results.

Custom statuses, states of entities, reasons and failures are no large payloads: engines and people read them often.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

_OF_CALLS = {
    pb.CreateInstanceRequest: "input",
    pb.RaiseEventRequest: "input",
    pb.SignalEntityRequest: "input",
    pb.TerminateRequest: "output",
}


def of_call(request: Any) -> Any:
    """Payload of a client's request, a StringValue; None where it has none."""
    name = _OF_CALLS.get(type(request))
    return getattr(request, name) if name is not None and request.HasField(name) else None


def of_actions(actions: Iterable[pb.OrchestratorAction]) -> Iterator[tuple[str, Any]]:
    """Payloads of a turn's actions, each with the id of the receiver: an instance or entity; empty for its own."""
    for action in actions:
        kind = action.WhichOneof("orchestratorActionType")
        if kind == "scheduleTask":
            yield "", action.scheduleTask.input
        elif kind == "completeOrchestration":
            yield "", action.completeOrchestration.result
        elif kind == "createSubOrchestration":
            yield action.createSubOrchestration.instanceId, action.createSubOrchestration.input
        elif kind == "sendEvent":
            yield action.sendEvent.instance.instanceId, action.sendEvent.data
        elif kind == "sendEntityMessage":
            message = action.sendEntityMessage
            which = message.WhichOneof("EntityMessageType")
            if which in ("entityOperationSignaled", "entityOperationCalled"):
                operation = getattr(message, which)
                yield operation.targetInstanceId.value, operation.input


def of_batch(result: pb.EntityBatchResult) -> Iterator[tuple[str, Any]]:
    """Payloads of an entity's results and actions, each with the id of the receiver; empty for a caller."""
    for each in result.results:
        if each.HasField("success"):
            yield "", each.success.result
    for action in result.actions:
        if action.HasField("sendSignal"):
            yield action.sendSignal.instanceId, action.sendSignal.input
        elif action.HasField("startNewOrchestration"):
            yield action.startNewOrchestration.instanceId, action.startNewOrchestration.input


def of_completion(method: str, request: Any) -> Iterator[str]:
    """Texts of the payloads in a worker's result."""
    if method == "CompleteActivityTask":
        yield request.result.value
    elif method == "CompleteOrchestratorTask":
        for _, field in of_actions(request.actions):
            yield field.value
    else:
        for _, field in of_batch(request):
            yield field.value
