"""Start of sub-orchestrations by their parent."""

from __future__ import annotations

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.bounds import check_id
from bridge.sqlite_engine.model.instance import Instance
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import text


def start_child(hub: TaskHub, parent: Instance, task_id: int, child: pb.CreateSubOrchestrationAction) -> None:
    """Start a sub-orchestration; report a failure to the parent when its id is invalid or in use.

    A finished instance of the same id is replaced, because ids recur in each generation of the parent.
    """
    after = 0
    try:
        check_id(child.instanceId, hub.limits)
    except Rejection as rejection:
        hub.deliver(parent, events.child_failed(hub.now, task_id, events.failure("InvalidInstanceId", str(rejection))))
        return
    existing = hub.find(child.instanceId)
    if existing is not None:
        if not existing.finished:
            message = f"Orchestration instance '{child.instanceId}' already exists"
            failure = events.failure("InstanceAlreadyExists", message)
            hub.deliver(parent, events.child_failed(hub.now, task_id, failure))
            return
        after = existing.turn_at
        hub.replace(existing)
    hub.create(
        child.instanceId,
        child.name,
        version=child.version if child.HasField("version") else None,
        input=child.input if child.HasField("input") else None,
        tags=dict(child.tags) if child.tags else None,
        trace=child.parentTraceContext if child.HasField("parentTraceContext") else None,
        parent=pb.ParentInstanceInfo(
            taskScheduledId=task_id,
            name=text(parent.name),
            version=text(parent.version),
            orchestrationInstance=pb.OrchestrationInstance(instanceId=parent.id, executionId=text(parent.execution)),
        ),
        after=after,
    )
