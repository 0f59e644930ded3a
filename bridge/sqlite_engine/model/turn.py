"""Interpretation of an orchestrator's response: new history, and the consequences of its actions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.bounds import MAX_NAME, check_custom_status, check_name, check_tags
from bridge.sqlite_engine.model.event import copy_spec, history_event, new_event
from bridge.sqlite_engine.model.instance import CONTINUED_AS_NEW, FINISHED, TERMINATED, StoredInstance
from bridge.sqlite_engine.model.values import StringValue, Timestamp


class BadResponse(Exception):
    """Raised for a response that no orchestrator may give."""


@dataclass(slots=True)
class TurnOutcome:
    """Consequences of a turn. The lists are in the order of the orchestrator's actions."""

    history: list[pb.HistoryEvent]
    """New events of the turn, followed by the events that confirm the actions."""
    activities: list[pb.ActivityRequest] = field(default_factory=list)
    timers: list[tuple[int, Timestamp]] = field(default_factory=list)
    """Timer id, and time at which the timer fires."""
    children: list[tuple[int, pb.CreateSubOrchestrationAction]] = field(default_factory=list)
    raised: list[tuple[str, str, StringValue | None]] = field(default_factory=list)
    """Instance id, event name and data."""
    operations: list[tuple[str, pb.HistoryEvent]] = field(default_factory=list)
    """Entity id, and a signal or call."""
    locks: list[pb.EntityLockRequestedEvent] = field(default_factory=list)
    unlocks: list[tuple[str, str]] = field(default_factory=list)
    """Entity id and critical section."""
    terminations: list[pb.TerminateOrchestrationAction] = field(default_factory=list)
    completion: pb.CompleteOrchestrationAction | None = None
    completion_id: int = -1
    """Id of the action that completes the orchestration."""
    rewind: list[pb.HistoryEvent] | None = None


def apply(
    instance: StoredInstance, turn: Sequence[pb.HistoryEvent], response: pb.OrchestratorResponse, now: int
) -> TurnOutcome:
    """Interpret the response to a turn with these new events.

    Raises: BadResponse, BeyondBound.
    """
    outcome = TurnOutcome(history=list(turn))
    terminated = False
    if response.HasField("customStatus"):
        check_custom_status(response.customStatus.value)
    for action in response.actions:
        kind = action.WhichOneof("orchestratorActionType")
        if kind == "completeOrchestration":
            if outcome.completion is not None:
                raise BadResponse("completes the orchestration twice")
            status = action.completeOrchestration.orchestrationStatus
            if status not in FINISHED and status != CONTINUED_AS_NEW:
                raise BadResponse(f"completes the orchestration with status {status}")
            outcome.completion, outcome.completion_id = action.completeOrchestration, action.id
            if status == CONTINUED_AS_NEW:
                check_name("a version", outcome.completion.newVersion.value)
                check_tags(outcome.completion.tags)
            terminated = status == TERMINATED
        elif kind == "rewindOrchestration":
            outcome.rewind = list(action.rewindOrchestration.newHistory)
    for action in response.actions:
        _act(instance, action, outcome, now, terminated)
    return outcome


def _act(
    instance: StoredInstance, action: pb.OrchestratorAction, outcome: TurnOutcome, now: int, terminated: bool
) -> None:
    kind = action.WhichOneof("orchestratorActionType")
    if kind == "sendEntityMessage":
        _send_entity_message(instance, action.id, action.sendEntityMessage, outcome, now)
    elif kind == "scheduleTask" and not terminated:
        _schedule_task(instance, action.id, action.scheduleTask, outcome, now)
    elif kind == "createTimer" and not terminated:
        outcome.timers.append((action.id, action.createTimer.fireAt))
        created = pb.TimerCreatedEvent(fireAt=action.createTimer.fireAt)
        outcome.history.append(history_event(now, action.id, timerCreated=created))
    elif kind == "createSubOrchestration" and not terminated:
        child = action.createSubOrchestration
        if not child.name:
            raise BadResponse("creates a sub-orchestration without a name")
        check_name("a sub-orchestration's name", child.name)
        check_name("a sub-orchestration's version", child.version.value)
        check_tags(child.tags)
        if not child.instanceId:
            child.instanceId = f"{instance.id}:{instance.execution[:8]}:{action.id:04x}"
        outcome.children.append((action.id, child))
        event = new_event(now, action.id)
        event.subOrchestrationInstanceCreated.instanceId = child.instanceId
        copy_spec(child, event.subOrchestrationInstanceCreated)
        outcome.history.append(event)
    elif kind == "sendEvent":
        sent = action.sendEvent
        check_name("an event's name", sent.name)
        data = sent.data if sent.HasField("data") else None
        outcome.raised.append((sent.instance.instanceId, sent.name, data))
        event_sent = pb.EventSentEvent(instanceId=sent.instance.instanceId, name=sent.name, input=data)
        outcome.history.append(history_event(now, action.id, eventSent=event_sent))
    elif kind == "terminateOrchestration":
        outcome.terminations.append(action.terminateOrchestration)
    elif kind is None:
        raise BadResponse("has an action that this engine does not know")


def _schedule_task(
    instance: StoredInstance, task_id: int, task: pb.ScheduleTaskAction, outcome: TurnOutcome, now: int
) -> None:
    if not task.name:
        raise BadResponse("schedules an activity without a name")
    if len(task.name) > MAX_NAME or task.HasField("version") or task.tags:
        check_name("an activity's name", task.name)
        check_name("an activity's version", task.version.value)
        check_tags(task.tags)
    request = pb.ActivityRequest(taskId=task_id)
    request.orchestrationInstance.instanceId = instance.id
    request.orchestrationInstance.executionId.value = instance.execution
    copy_spec(task, request)
    event = new_event(now, task_id)
    copy_spec(task, event.taskScheduled)
    outcome.activities.append(request)
    outcome.history.append(event)


def _send_entity_message(
    instance: StoredInstance, action_id: int, message: pb.SendEntityMessageAction, outcome: TurnOutcome, now: int
) -> None:
    kind = message.WhichOneof("EntityMessageType")
    if kind == "entityOperationSignaled":
        signaled = message.entityOperationSignaled
        check_name("an operation's name", signaled.operation)
        outcome.history.append(history_event(now, action_id, entityOperationSignaled=signaled))
        operation = history_event(now, entityOperationSignaled=signaled)
        outcome.operations.append((entity_id(signaled.targetInstanceId.value), operation))
    elif kind == "entityOperationCalled":
        called = message.entityOperationCalled
        check_name("an operation's name", called.operation)
        outcome.history.append(history_event(now, action_id, entityOperationCalled=called))
        operation = entity_call(instance, called, now)
        outcome.operations.append((entity_id(called.targetInstanceId.value), operation))
    elif kind == "entityLockRequested":
        request = message.entityLockRequested
        if not request.lockSet:
            raise BadResponse("asks for locks on no entity")
        outcome.history.append(history_event(now, action_id, entityLockRequested=request))
        outcome.locks.append(lock_request(instance.id, request))
    elif kind == "entityUnlockSent":
        unlock = message.entityUnlockSent
        outcome.history.append(history_event(now, action_id, entityUnlockSent=unlock))
        outcome.unlocks.append((entity_id(unlock.targetInstanceId.value), unlock.criticalSectionId))
    else:
        raise BadResponse("has an entity message that this engine does not know")


def entity_call(instance: StoredInstance, called: pb.EntityOperationCalledEvent, now: int) -> pb.HistoryEvent:
    """Create a call for an entity's queue, with its caller's execution id."""
    operation = history_event(now, entityOperationCalled=called)
    operation.entityOperationCalled.parentInstanceId.value = instance.id
    operation.entityOperationCalled.parentExecutionId.value = instance.execution
    return operation


def lock_request(owner: str, request: pb.EntityLockRequestedEvent) -> pb.EntityLockRequestedEvent:
    """Create a request for locks at its first entity. Entities are locked in the order of their ids.

    Raises: BadResponse when the request names something other than an entity.
    """
    lock = pb.EntityLockRequestedEvent()
    lock.CopyFrom(request)
    lock.parentInstanceId.value = owner
    lock.position = 0
    ordered = sorted({entity_id(each) for each in request.lockSet})
    del lock.lockSet[:]
    lock.lockSet.extend(ordered)
    return lock


def entity_id(value: str) -> str:
    """Normalise an entity id: names of entities do not distinguish case.

    Raises: BadResponse when the id is not `@name@key`.
    """
    if value.startswith("@"):
        name, separator, key = value[1:].partition("@")
        if separator and name:
            return f"@{name.lower()}@{key}"
    raise BadResponse(f"names an entity by '{value[:256]}', which is not @name@key")
