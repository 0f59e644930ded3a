"""Rewind: a failed instance and its failed children continue from the beginning of the turn in which they failed.

The engine rewrites the history itself, which works with every worker. The rewind first checks the whole tree of
instances, and is refused before any change. All instances are then changed in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.cut import CannotRewind, Cut, Open, code_changed, cut, open_of, turn_times
from bridge.sqlite_engine.model.failures import bound_event
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, StoredInstance
from bridge.sqlite_engine.model.reply import Rejection, precondition
from bridge.sqlite_engine.model.turn import entity_call, entity_id, lock_request
from bridge.sqlite_engine.model.values import new_id
from bridge.sqlite_engine.model.work import pauses_of, with_pauses

_NEVER_STARTED = ("InstanceAlreadyExists", "InvalidInstanceId")
"""Error types of children that the engine could not create."""


def rewind(hub: TaskHub, instance: StoredInstance, reason: str | None) -> None:
    """Continue a failed instance. Raises: Rejection, before any change."""
    _apply(hub, _survey(hub, instance), reason)


@dataclass(slots=True)
class _Survey:
    """Instances to rewind, parents first.

    Their histories are read twice rather than kept in memory, because a tree may be large.
    """

    instances: list[StoredInstance] = field(default_factory=list)
    locks: dict[str, str] = field(default_factory=dict)
    """Owner of each lock to take again, by entity."""


def _survey(hub: TaskHub, root: StoredInstance) -> _Survey:
    hub.tx.flush()
    found = _Survey()
    waiting = [root]
    while waiting:
        instance = waiting.pop()
        try:
            parts = _cut(hub, instance)
            _check_unhandled(hub, instance, parts)
            _check_locks(hub, instance, parts.open, found.locks)
            _check_calls(hub, instance, parts)
            _check_started(hub, instance, parts)
            waiting += _failed_children(hub, instance, parts)
        except CannotRewind as error:
            child = "" if instance is root else f"its sub-orchestration '{instance.id}' cannot: "
            raise precondition(f"Orchestration instance '{root.id}' cannot be rewound: {child}{error}") from error
        found.instances.append(instance)
    return found


def _cut(hub: TaskHub, instance: StoredInstance) -> Cut:
    history, _ = hub.store.history(instance.key)
    if not history or not history[-1].HasField("executionCompleted"):
        raise CannotRewind("its history does not end with its failure. Restart it")
    late = [event for _, event in hub.store.inbox(instance.key)]
    # A turn is written as one chunk, and so is the end of an instance that the engine ends itself.
    by_worker = hub.store.begin_of_last_chunk(instance.key).HasField("orchestratorStarted")
    return cut(history, late, by_worker=by_worker)


def _check_unhandled(hub: TaskHub, instance: StoredInstance, parts: Cut) -> None:
    """Refuse an orchestration that has handled its failure itself, and then ended. Raises: CannotRewind.

    Its last turn would only reach the same end.
    """
    failure = instance.failure or pb.TaskFailureDetails()
    if parts.asked or not parts.by_worker or code_changed(failure) or not instance.custom_status:
        return
    reason = hub.rules.reason_against_rewind(instance.custom_status)
    if reason is not None:
        raise CannotRewind(reason)


def _check_locks(hub: TaskHub, instance: StoredInstance, waiting: Open, locks: dict[str, str]) -> None:
    for section in waiting.sections.values():
        for each in section.held:
            entity = hub.entities.find(each)
            owner = locks.get(each) or (None if entity is None else entity.owner)
            if owner is not None:
                raise CannotRewind(
                    f"it failed while it held the lock of entity '{each}', which '{owner}' holds now. "
                    "Rewind it when the lock is free"
                )
        locks.update(dict.fromkeys(section.held, instance.id))


def _check_calls(hub: TaskHub, instance: StoredInstance, parts: Cut) -> None:
    queued = _queued_calls(hub, instance, parts.open)
    for request_id, event in parts.open.calls.items():
        if request_id not in parts.asked and request_id not in queued:
            target = event.entityOperationCalled.targetInstanceId.value
            raise CannotRewind(f"the answer to its call of entity '{target}' was not kept. Restart it")


def _queued_calls(hub: TaskHub, instance: StoredInstance, waiting: Open) -> dict[str, tuple[int, pb.HistoryEvent]]:
    """Calls of the instance that entities have not answered, with their sequence numbers, by request id."""
    targets = {entity_id(event.entityOperationCalled.targetInstanceId.value) for event in waiting.calls.values()}
    entities = [entity for target in targets if (entity := hub.entities.find(target)) is not None]
    return {
        event.entityOperationCalled.requestId: (seq, event)
        for entity in entities
        for seq, event in entity.queue
        if event.entityOperationCalled.parentInstanceId.value == instance.id
    }


def _check_started(hub: TaskHub, instance: StoredInstance, parts: Cut) -> None:
    """Refuse a rewind while a child of the failed turn still runs. Raises: CannotRewind.

    The failed turn runs again, and starts its children again.
    """
    for child_id in parts.started:
        child = hub.find(child_id)
        if child is not None and child.parent == instance.id and not child.finished:
            raise CannotRewind(
                f"sub-orchestration '{child_id}', which it started as it failed, still runs. "
                "Rewind it when that has finished, or terminate that first"
            )


def _failed_children(hub: TaskHub, instance: StoredInstance, parts: Cut) -> list[StoredInstance]:
    """Children to rewind with the instance. Raises: CannotRewind."""
    found = []
    for task_id, event in parts.open.children.items():
        child = _child_of(hub, instance, event, instance.execution)
        if child is None:
            failure = parts.asked.get(task_id)
            if failure is not None and failure.errorType in _NEVER_STARTED:
                continue
            missing = event.subOrchestrationInstanceCreated.instanceId
            raise CannotRewind(f"its sub-orchestration '{missing}' is gone and would repeat every step. Restart it")
        if child.status == FAILED:
            found.append(child)
        elif child.finished and child.status != COMPLETED:
            raise CannotRewind(f"its sub-orchestration '{child.id}' was terminated. Restart it")
    return found


def _child_of(hub: TaskHub, parent: StoredInstance, event: pb.HistoryEvent, execution: str) -> StoredInstance | None:
    """Child that this execution of the parent started with the event, if it still exists."""
    child = hub.find(event.subOrchestrationInstanceCreated.instanceId)
    if child is None:
        return None
    link = child.start.executionStarted.parentInstance
    of, _ = pauses_of(link.orchestrationInstance.executionId.value)
    started_by = (link.orchestrationInstance.instanceId, link.taskScheduledId, of)
    return child if started_by == (parent.id, event.eventId, execution) else None


def _apply(hub: TaskHub, survey: _Survey, reason: str | None) -> None:
    for instance in survey.instances:
        hub.instances.add(instance)  # parents find these same objects
    for instance in survey.instances:
        parts = _cut(hub, instance)
        link = instance.start.executionStarted.parentInstance.orchestrationInstance.executionId.value
        instance.reopen(suspended=parts.open.suspended)
        hub.mark_started(instance)
        hub.touch(instance)
        hub.tx.clear(instance, "inbox")
        _go_on(hub, instance, parts)
        for event in (events.execution_rewound(hub.now, reason, pauses_of(link)[0] or None), *parts.delivered):
            hub.deliver(instance, event)
        hub.tx.flush()


def take_over(hub: TaskHub, instance: StoredInstance, history: list[pb.HistoryEvent]) -> None:
    """Continue with a history that a worker has rewritten. Children that cannot be rewound fail again."""
    waiting = open_of(history)
    rewound = next((event.executionRewound for event in history if event.HasField("executionRewound")), None)
    reason = rewound.reason.value if rewound is not None and rewound.HasField("reason") else None
    for task_id, event in waiting.children.items():
        child = _child_of(hub, instance, event, instance.execution)
        if child is None or not child.finished or child.status == COMPLETED:
            continue
        try:
            if child.status != FAILED:
                raise precondition("it was terminated")
            _apply(hub, _survey(hub, child), reason)
        except Rejection:
            failure = child.failure or events.failure("SubOrchestrationTerminated", "Sub-orchestration was terminated")
            failed = events.child_failed(hub.now, task_id, failure)
            bound_event(failed)
            hub.deliver(instance, failed)
    _go_on(hub, instance, Cut(history, [], waiting, {}, {}, [], by_worker=True))
    hub.deliver(instance, events.generic(hub.now, "rewound"))


def _go_on(hub: TaskHub, instance: StoredInstance, parts: Cut) -> None:
    """Begin a new execution behind the cut, and create everything that it waits for."""
    former = instance.execution
    instance.begin_execution(new_id())
    hub.tx.clear(instance, "history", "timers")
    hub.drop_history(instance)
    hub.change_generation(instance)
    hub.tx.flush()
    if parts.kept:
        instance.unload_history()  # a tree of instances need not be in memory at once
        hub.append(instance, (_of_execution(event, instance) for event in parts.kept))
    turns = turn_times(parts.kept)
    for timer_id, event in parts.open.timers.items():
        hub.add_timer(instance, timer_id, event.timerCreated.fireAt, turns.get(timer_id, hub.now))
    _activities(hub, instance, parts, former)
    for task_id, event in parts.open.children.items():
        _child(hub, instance, event, former, parts.pauses.get(task_id, ()))
    _entities(hub, instance, parts)


def _of_execution(event: pb.HistoryEvent, instance: StoredInstance) -> pb.HistoryEvent:
    if not event.HasField("executionStarted"):
        return event
    started = pb.HistoryEvent()
    started.CopyFrom(event)
    started.executionStarted.CopyFrom(instance.start.executionStarted)
    if started.executionStarted.HasField("parentInstance"):
        link = started.executionStarted.parentInstance.orchestrationInstance.executionId
        link.value, _ = pauses_of(link.value)
    return started


def _activities(hub: TaskHub, instance: StoredInstance, parts: Cut, former: str) -> None:
    """Keep the activities that run or wait for a worker, and schedule those again that failed or were not kept."""
    wanted = {task_id: event for task_id, event in parts.open.activities.items() if task_id not in parts.asked}
    kept: dict[int, tuple[int, ...]] = {}
    gone = []
    for seq, task_id, stored in hub.store.tasks_of(instance.key):
        execution, pauses = pauses_of(stored)
        if execution == former and wanted.pop(task_id, None) is not None:
            kept[seq] = pauses
        else:
            gone.append(seq)
    hub.tx.move_tasks({seq: with_pauses(instance.execution, pauses) for seq, pauses in kept.items()})
    if gone:
        hub.tx.remove("tasks", gone)
        hub.void_tasks(instance.key)
    for task_id, event in parts.open.activities.items():
        if task_id in wanted or task_id in parts.asked:
            hub.add_task(instance, _request(instance, event), parts.pauses.get(task_id, ()))


def _request(instance: StoredInstance, scheduled: pb.HistoryEvent) -> pb.ActivityRequest:
    request = pb.ActivityRequest(taskId=scheduled.eventId)
    request.orchestrationInstance.instanceId = instance.id
    request.orchestrationInstance.executionId.value = instance.execution
    events.copy_spec(scheduled.taskScheduled, request)
    return request


def _child(hub: TaskHub, parent: StoredInstance, event: pb.HistoryEvent, former: str, pauses: tuple[int, ...]) -> None:
    child = _child_of(hub, parent, event, former)
    if child is None:
        hub.start_child(parent, event.eventId, event.subOrchestrationInstanceCreated)
    elif child.status == COMPLETED:
        hub.deliver(parent, events.child_completed(hub.now, event.eventId, child.output))
    elif child.status == FAILED or not child.finished:
        link = child.start.executionStarted.parentInstance.orchestrationInstance
        link.executionId.value = with_pauses(parent.execution, pauses)
        hub.change_generation(child)


def _entities(hub: TaskHub, instance: StoredInstance, parts: Cut) -> None:
    """Take locks again, request those again that were not granted, and repeat failed operations."""
    for section_id, section in parts.open.sections.items():
        if section.granted:
            for each in sorted(section.held):
                hub.entities.lock(each, section_id, instance)
        else:
            hub.entities.request_lock(lock_request(instance.id, section.request), instance.execution)
    queued = _queued_calls(hub, instance, parts.open)
    for request_id, event in parts.open.calls.items():
        target = entity_id(event.entityOperationCalled.targetInstanceId.value)
        if request_id in parts.asked:
            hub.entities.operate(target, entity_call(instance, event.entityOperationCalled, hub.now))
        elif request_id in queued:
            seq, call = queued[request_id]
            call.entityOperationCalled.parentExecutionId.value = instance.execution
            hub.tx.change_operation(seq, call)
