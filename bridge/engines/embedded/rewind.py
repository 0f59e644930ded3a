"""A failed instance goes on from the history that its worker has rewritten."""

from __future__ import annotations

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded import event as events
from bridge.engines.embedded.calls import Calls
from bridge.engines.embedded.child import start_child
from bridge.engines.embedded.clock import micros
from bridge.engines.embedded.hub import TaskHub
from bridge.engines.embedded.identity import new_id
from bridge.engines.embedded.instance import COMPLETED, FAILED, Instance, text
from bridge.engines.embedded.store import TIMER_FIRES, Timer


def rewind(hub: TaskHub, calls: Calls, instance: Instance, history: list[pb.HistoryEvent]) -> None:
    """The worker has rewritten the history; what it still waits for is set going again."""
    execution = ""
    done: set[int] = set()
    fired: set[int] = set()
    reason: str | None = None
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind == "executionStarted":
            instance.start = event
            execution = event.executionStarted.orchestrationInstance.executionId.value
        elif kind == "taskCompleted":
            done.add(event.taskCompleted.taskScheduledId)
        elif kind == "subOrchestrationInstanceCompleted":
            done.add(event.subOrchestrationInstanceCompleted.taskScheduledId)
        elif kind == "timerFired":
            fired.add(event.timerFired.timerId)
        elif kind == "executionRewound":
            reason = event.executionRewound.reason.value
    instance.execution = execution or new_id()
    instance.start.executionStarted.orchestrationInstance.executionId.value = instance.execution
    hub.tx.clear(instance, "tasks", "timers")
    hub.drop_history(instance)
    hub.tx.change_generation(instance)
    hub.tx.flush()
    hub.append(instance, history)
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind == "taskScheduled" and event.eventId not in done:
            hub.add_task(instance, _activity_again(instance, event))
        elif kind == "timerCreated" and event.eventId not in fired:
            fire_at = micros(event.timerCreated.fireAt)
            timer = events.timer_fired(fire_at, event.eventId, fire_at)
            hub.tx.add_timer(Timer(hub.next_seq(), fire_at, TIMER_FIRES, instance.key, event=timer))
        elif kind == "subOrchestrationInstanceCreated" and event.eventId not in done:
            _rewind_child(hub, calls, instance, event, reason)
    hub.deliver(instance, events.generic(hub.now, "rewound"))


def _rewind_child(hub: TaskHub, calls: Calls, parent: Instance, event: pb.HistoryEvent, reason: str | None) -> None:
    created = event.subOrchestrationInstanceCreated
    child = hub.find(created.instanceId)
    if child is not None and child.status == FAILED:
        link = child.start.executionStarted.parentInstance
        link.taskScheduledId = event.eventId
        link.orchestrationInstance.instanceId = parent.id
        link.orchestrationInstance.executionId.value = parent.execution
        hub.tx.change_generation(child)
        calls.rewind_instance(child, reason, parent.execution)
        return
    if child is not None and child.status == COMPLETED:
        hub.deliver(parent, events.child_completed(hub.now, event.eventId, child.output))
        return
    if child is not None and not child.finished:
        child.start.executionStarted.parentInstance.orchestrationInstance.executionId.value = parent.execution
        hub.tx.change_generation(child)
        return
    action = pb.CreateSubOrchestrationAction(
        instanceId=created.instanceId,
        name=created.name,
        version=created.version if created.HasField("version") else None,
        input=created.input if created.HasField("input") else None,
        parentTraceContext=created.parentTraceContext if created.HasField("parentTraceContext") else None,
        tags=created.tags,
    )
    start_child(hub, parent, event.eventId, action)


def _activity_again(instance: Instance, scheduled: pb.HistoryEvent) -> pb.ActivityRequest:
    task = scheduled.taskScheduled
    return pb.ActivityRequest(
        name=task.name,
        version=task.version if task.HasField("version") else None,
        input=task.input if task.HasField("input") else None,
        orchestrationInstance=pb.OrchestrationInstance(instanceId=instance.id, executionId=text(instance.execution)),
        taskId=scheduled.eventId,
        parentTraceContext=task.parentTraceContext if task.HasField("parentTraceContext") else None,
        tags=task.tags,
    )
