"""Results that workers report (turns, activities, batches), inside the transaction that records them."""

from __future__ import annotations

import logging
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.calls import Calls
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Lease, WorkerStream
from bridge.sqlite_engine.hub.rewind import take_over
from bridge.sqlite_engine.hub.work_items import TurnResponse
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.bounds import BeyondBound, check_name
from bridge.sqlite_engine.model.entity import StoredEntity
from bridge.sqlite_engine.model.failures import bound, bound_turn
from bridge.sqlite_engine.model.instance import CONTINUED_AS_NEW, RUNNING, StoredInstance
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.turn import BadResponse, TurnOutcome, apply, entity_id
from bridge.sqlite_engine.model.values import due, new_id, text, timestamp
from bridge.sqlite_engine.model.work import due_at

logger = logging.getLogger(__name__)

NAME_LIMIT = 100
"""Largest number of characters of an unknown name that a failure repeats."""

PLAIN = frozenset({"scheduleTask", "createTimer", "createSubOrchestration"})
"""Actions without failures, events or entity ids, whose payloads have a limit only where one is configured."""


class Completions:
    """Handlers of worker results. Each runs in the writer's thread with a lease that its caller has taken."""

    def __init__(self, hub: TaskHub, calls: Calls) -> None:
        self._hub = hub
        self._calls = calls

    def turn(self, lease: Lease, response: Any) -> None:
        """Record a turn. response: a TurnResponse, or an OrchestratorResponse from another process."""
        hub = self._hub
        hub.dispatcher.end_lease(lease, done=True)
        instance = hub.find_key(lease.subject)
        if instance is None or instance.token != lease.token or instance.turn is None:
            return
        kinds = {action.WhichOneof("orchestratorActionType") for action in response.actions}
        is_plain = kinds <= PLAIN
        if not is_plain:
            bound_turn(response)
        try:
            if not is_plain or hub.limits.payload_bytes is not None:
                hub.limits.check_turn(response)
            outcome = apply(instance, instance.turn, response, hub.now)
        except (BadResponse, BeyondBound) as error:
            failure = events.failure("InvalidOrchestratorResponse", f"The worker's answer {error}")
            hub.fail(instance, failure)
            return
        hub.release(instance.key)
        taken = [instance.inbox.popleft()[0] for _ in range(instance.taken)]
        instance.end_turn()
        reported = response.unread if isinstance(response, TurnResponse) else None
        if taken:
            hub.tx.remove("inbox", taken)
        if instance.unread_events or instance.inbox or (reported is not None and reported[0]):
            if kinds or reported is not None:
                instance.recount_unread(reported)
            hub.instances.measure(instance)
        if response.HasField("customStatus"):
            instance.custom_status = response.customStatus.value
        if response.HasField("orchestrationTraceContext"):
            instance.trace = response.orchestrationTraceContext
        if instance.status != RUNNING:
            instance.status = RUNNING
        hub.touch(instance)
        if hub.tracing is not None:
            hub.tracing.turn(instance, outcome)
        if outcome.rewind is not None:
            take_over(hub, instance, outcome.rewind)
        else:
            self._record(instance, outcome, lease.stream)
        moves = outcome.completion is None and bool(outcome.activities)
        group = (instance.name, instance.version)
        hub.dispatcher.motion.turned(instance.key, group, instance.history_bytes, moves=moves)
        if hub.deferred:
            hub.settle_deferred(instance)
        hub.wake(instance)

    def _record(self, instance: StoredInstance, outcome: TurnOutcome, caller: WorkerStream) -> None:
        hub = self._hub
        completion = outcome.completion
        self._follow_up(instance, outcome, caller)
        if completion is None:
            hub.append(instance, outcome.history)
            return
        result = completion.result.value if completion.HasField("result") else None
        if completion.orchestrationStatus == CONTINUED_AS_NEW:
            self._continue_as_new(instance, completion)
            return
        failure = completion.failureDetails if completion.HasField("failureDetails") else None
        status = completion.orchestrationStatus
        outcome.history.append(events.execution_completed(hub.now, status, result, failure, outcome.completion_id))
        hub.append(instance, outcome.history)
        hub.finish(instance, status, result, failure)

    def _follow_up(self, instance: StoredInstance, outcome: TurnOutcome, caller: WorkerStream) -> None:
        hub = self._hub
        lost = hub.dispatcher.is_lost
        for request in outcome.activities:
            if lost(caller, ACTIVITY, request.name):
                hub.deliver(
                    instance, events.task_failed(hub.now, request.taskId, _unregistered("Activity", request.name))
                )
            else:
                hub.add_task(instance, request)
                hub.index.called(instance, request.name, request.input.value)
        for timer_id, moment in outcome.timers:
            hub.add_timer(instance, timer_id, moment, instance.turn_at)
        for task_id, child in outcome.children:
            if lost(caller, ORCHESTRATION, child.name):
                failure = _unregistered("Orchestrator", child.name)
                hub.deliver(instance, events.child_failed(hub.now, task_id, failure))
            else:
                hub.start_child(instance, task_id, child)
        for target, event in outcome.operations:
            if event.HasField("entityOperationCalled") and lost(caller, ENTITY, target.split("@")[1].lower()):
                failure = _unregistered("Entity", target.split("@")[1])
                hub.deliver(instance, events.operation_failed(hub.now, event.entityOperationCalled.requestId, failure))
                continue
            # A field of another kind of event reads as empty.
            signal = event.entityOperationSignaled
            later = None
            if signal.HasField("scheduledTime"):
                wanted = due(signal.scheduledTime)
                later = due_at(hub.now, wanted, wanted, instance.turn_at)
                event.timestamp.CopyFrom(timestamp(instance.turn_at))
            hub.entities.operate(target, event, later)
        for target, section in outcome.unlocks:
            entity = hub.entities.find(target)
            if entity is not None and entity.section == section and entity.owner == instance.id:
                hub.entities.unlock(entity)
        for lock in outcome.locks:
            hub.entities.request_lock(lock, instance.execution)
        for target, name, data in outcome.raised:
            receiver = hub.find(target)
            if receiver is not None and not receiver.finished:
                hub.deliver(receiver, events.event_raised(hub.now, name, data))
                hub.index.raised(receiver, data)
        for termination in outcome.terminations:
            receiver = hub.find(termination.instanceId)
            if receiver is not None and receiver is not instance:
                reason = termination.reason if termination.HasField("reason") else None
                request = pb.TerminateRequest(
                    instanceId=termination.instanceId, output=reason, recursive=termination.recurse
                )
                self._calls.terminate_instance(receiver, request)

    def _continue_as_new(self, instance: StoredInstance, completion: pb.CompleteOrchestrationAction) -> None:
        hub = self._hub
        old = instance.start.executionStarted
        instance.execution = new_id()
        if completion.HasField("newVersion"):
            instance.version = completion.newVersion.value
        instance.start = events.execution_started(
            hub.now,
            pb.ExecutionStartedEvent(
                name=instance.name,
                version=text(instance.version),
                input=completion.result if completion.HasField("result") else None,
                tags=completion.tags or old.tags,
                parentTraceContext=old.parentTraceContext if old.HasField("parentTraceContext") else None,
            ),
            instance.id,
            instance.execution,
            parent=old.parentInstance if old.HasField("parentInstance") else None,
        )
        instance.custom_status = None
        instance.trace = None
        hub.tx.clear(instance, "timers")
        hub.drop_history(instance)
        hub.change_generation(instance)
        kept = [event for _, event in instance.inbox if _outlives_generation(event)]
        hub.tx.remove("inbox", [seq for seq, _ in instance.inbox])
        instance.inbox.clear()
        unread = (*completion.carryoverEvents, *kept)
        hub.index.continued(instance, completion.result.value, unread)
        for event in unread:
            hub.deliver(instance, event)
        instance.recount_unread()
        hub.instances.measure(instance)
        hub.entities.release_locks(instance)

    def activity(self, lease: Lease, response: pb.ActivityResponse) -> None:
        hub = self._hub
        if not hub.dispatcher.is_current(lease):
            return
        hub.dispatcher.end_lease(lease, done=True)
        task = lease.subject
        instance = hub.waiting_for(task)
        failed = response.HasField("failureDetails")
        if failed:
            bound(response.failureDetails)
        if failed and instance is not None and hub.try_again(instance, lease, response.failureDetails):
            return
        hub.tx.remove("tasks", [task.seq])
        if instance is None:
            return
        if failed:
            event = events.task_failed(hub.now, task.task_id, response.failureDetails)
        elif hub.limits.payload_bytes is not None and (
            (failure := self._too_large("an activity's output", response.result.value)) is not None
        ):
            event = events.task_failed(hub.now, task.task_id, failure)
        else:
            result = response.result if response.HasField("result") else None
            event = events.task_completed(hub.now, task.task_id, result)
        hub.answer(instance, event)

    def _too_large(self, what: str, payload: str) -> pb.TaskFailureDetails | None:
        """Failure of a step whose result is beyond the payload limit, or None."""
        try:
            self._hub.limits.check_payload(what, payload)
        except BeyondBound as error:
            return events.failure("PayloadTooLarge", f"The worker's answer {error}")
        return None

    def batch(self, lease: Lease, result: pb.EntityBatchResult) -> None:
        hub = self._hub
        hub.dispatcher.end_lease(lease, done=True)
        entity = hub.entities.find(lease.subject)
        if entity is None or entity.token != lease.token or entity.batch is None:
            return
        batch = entity.batch
        hub.release(entity.id)
        entity.end_batch()
        processed = batch[: len(result.results)]
        failure = self._too_large("an entity's state", result.entityState.value)
        if failure is not None:
            logger.warning("The state of an entity %s is too large, and stays as it was", entity.name)
            refused = pb.OperationResult(failure=pb.OperationResultFailure(failureDetails=failure))
            for _, operation in processed:
                hub.entities.answer(operation, refused)
        else:
            for (_, operation), answer in zip(processed, result.results, strict=False):
                if answer.HasField("failure"):
                    bound(answer.failure.failureDetails)
                hub.entities.answer(operation, answer)
            entity.state = result.entityState.value if result.HasField("entityState") else None
            entity.modified_at = hub.now
            hub.tx.change_entity(entity)
            for action in result.actions:
                self._side_effect(entity, action)
        seqs = {seq for seq, _ in processed}
        entity.remove(seqs)
        hub.tx.remove("operations", seqs)
        hub.index.processed(entity)
        hub.entities.settle(entity)

    def _side_effect(self, entity: StoredEntity, action: pb.OperationAction) -> None:
        """Apply a signal or start that an entity requested.

        An invalid request is logged, because no caller waits for its result.
        """
        hub = self._hub
        try:
            if action.HasField("sendSignal"):
                signal = action.sendSignal
                target = entity_id(signal.instanceId)
                hub.limits.check_id("an entity's id", target)
                check_name("an operation's name", signal.name)
                hub.entities.signal(target, signal, new_id())
            elif action.HasField("startNewOrchestration"):
                start = action.startNewOrchestration
                self._calls.start(
                    pb.CreateInstanceRequest(
                        instanceId=start.instanceId,
                        name=start.name,
                        version=start.version if start.HasField("version") else None,
                        input=start.input if start.HasField("input") else None,
                        scheduledStartTimestamp=start.scheduledTime if start.HasField("scheduledTime") else None,
                        parentTraceContext=start.parentTraceContext if start.HasField("parentTraceContext") else None,
                    )
                )
        except (BadResponse, BeyondBound, Rejection) as error:
            logger.warning("An action of entity %s was dropped: %s", entity.id, error)

    def abandon(self, lease: Lease) -> None:
        """Requeue work that its worker returned, after a pause."""
        hub = self._hub
        if not hub.dispatcher.is_current(lease):
            return
        hub.dispatcher.end_lease(lease, done=False)
        if self._end_in_flight(lease):
            hub.after.append(lambda: hub.dispatcher.requeue_later(lease))

    def drained(self, token: str) -> None:
        """Requeue work at once that a stopping worker returned."""
        lease = self._hub.dispatcher.leases.take(token)
        if lease is not None:
            self._hub.dispatcher.retire(lease.stream)
            self.lost(lease)
        elif self._hub.losses is not None:
            self._hub.losses.answered(token)

    def lost(self, lease: Lease) -> None:
        """Requeue work at once after its worker disconnected or took too long, and restore the worker's credit."""
        if self._taken_back(lease):
            self._queue_again(lease)

    def died(self, lease: Lease) -> None:
        """Requeue work of a worker that died, and record that the work may be the cause."""
        losses = self._hub.losses
        assert losses is not None
        if self._taken_back(lease) and losses.lost(lease):
            self._queue_again(lease)

    def _taken_back(self, lease: Lease) -> bool:
        """Release the lease; return True when its work still has to be done."""
        self._hub.dispatcher.end_lease(lease, done=False)
        return self._hub.dispatcher.is_current(lease) and self._end_in_flight(lease)

    def _queue_again(self, lease: Lease) -> None:
        ready = self._hub.dispatcher.ready[lease.kind]
        self._hub.after.append(lambda: ready.add(lease.name, lease.version, lease.subject))

    def release(self, lease: Lease) -> None:
        """Restore the worker's credit after an answer that no longer counts."""
        self._hub.dispatcher.end_lease(lease, done=True)

    def _end_in_flight(self, lease: Lease) -> bool:
        """Mark the leased work as no longer in flight; return True when it still has to be done."""
        hub = self._hub
        if lease.kind == ORCHESTRATION:
            instance = hub.find_key(lease.subject)
            if instance is None or instance.token != lease.token:
                return False
            hub.release(instance.key)
            instance.end_turn()
            hub.settle_deferred(instance)
            return True
        if lease.kind == ENTITY:
            entity = hub.entities.find(lease.subject)
            if entity is None or entity.token != lease.token:
                return False
            hub.release(entity.id)
            entity.end_batch()
            hub.entities.advance(entity)
            return True
        assert lease.kind == ACTIVITY
        return True


def _unregistered(kind: str, name: str) -> pb.TaskFailureDetails:
    """Failure of a call that no worker accepts, with the SDK's own error type."""
    return events.failure(
        f"durabletask.worker.{kind}NotRegisteredError",
        f"{kind} '{name[:NAME_LIMIT]}' is not registered; correct the name, or list it under `workflows.external` "
        "where another worker runs it",
    )


_OF_GENERATION = frozenset(
    {
        "taskCompleted",
        "taskFailed",
        "timerFired",
        "subOrchestrationInstanceCompleted",
        "subOrchestrationInstanceFailed",
        "entityOperationCompleted",
        "entityOperationFailed",
        "entityLockGranted",
    }
)


def _outlives_generation(event: pb.HistoryEvent) -> bool:
    """True for an event, not yet taken by a turn, that the next generation receives too, as it does raised events."""
    return event.WhichOneof("eventType") not in _OF_GENERATION
