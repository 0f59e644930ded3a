"""A failed instance runs again from the last that went well.

The engine rewrites the history itself, as the SDK's worker would, so that it works with every worker. What a worker has
rewritten is taken, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded import event as events
from bridge.engines.embedded.child import start_child
from bridge.engines.embedded.clock import micros
from bridge.engines.embedded.hub import TaskHub
from bridge.engines.embedded.identity import new_id
from bridge.engines.embedded.instance import COMPLETED, FAILED, RUNNING, Instance, text
from bridge.engines.embedded.store import TIMER_FIRES, Timer


def rewind(hub: TaskHub, instance: Instance, reason: str | None, parent_execution: str | None = None) -> None:
    """Let a failed instance run again. `parent_execution` is its parent's new one, where that is rewound."""
    history = hub.load_history(instance)
    hub.instances.add(instance)
    instance.status = RUNNING
    instance.finished_at = None
    instance.output = None
    instance.failure = None
    hub.touch(instance)
    hub.started[instance.key] = instance
    hub.tx.flush()
    again(hub, instance, rewritten(history, events.execution_rewound(hub.now, reason, parent_execution)))


def rewritten(history: Iterable[pb.HistoryEvent], rewound: pb.HistoryEvent) -> list[pb.HistoryEvent]:
    """The history without what failed, under a new execution.

    An activity that failed is as if it had never been scheduled; a child that failed is still there, to be rewound.
    Timers between the attempts of an activity with retries stay, as they do where workers rewrite.
    """
    history = list(history)
    failed = {event.taskFailed.taskScheduledId for event in history if event.HasField("taskFailed")}
    found: list[pb.HistoryEvent] = []
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind in ("taskFailed", "subOrchestrationInstanceFailed", "executionCompleted"):
            continue
        if kind == "taskScheduled" and event.eventId in failed:
            continue
        if kind == "executionStarted":
            started = pb.HistoryEvent()
            started.CopyFrom(event)
            started.executionStarted.orchestrationInstance.executionId.value = new_id()
            parent = rewound.executionRewound.parentExecutionId.value
            if parent and started.executionStarted.HasField("parentInstance"):
                started.executionStarted.parentInstance.orchestrationInstance.executionId.value = parent
            event = started  # the copy takes its place
        found.append(event)
    return [*found, rewound]


def again(hub: TaskHub, instance: Instance, history: list[pb.HistoryEvent]) -> None:
    """Go on with this history; what it still waits for is set going."""
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
            _rewind_child(hub, instance, event, reason)
    hub.deliver(instance, events.generic(hub.now, "rewound"))


def _rewind_child(hub: TaskHub, parent: Instance, event: pb.HistoryEvent, reason: str | None) -> None:
    created = event.subOrchestrationInstanceCreated
    child = hub.find(created.instanceId)
    if child is not None and child.status == FAILED:
        link = child.start.executionStarted.parentInstance
        link.taskScheduledId = event.eventId
        link.orchestrationInstance.instanceId = parent.id
        link.orchestrationInstance.executionId.value = parent.execution
        hub.tx.change_generation(child)
        rewind(hub, child, reason, parent.execution)
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
