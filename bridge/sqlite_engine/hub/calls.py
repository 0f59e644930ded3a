"""Calls of clients, decided inside the transaction that makes them durable."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import chain
from typing import Any, TypeVar

from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.unknown_fields import UnknownFieldSet

from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.hub.rewind import rewind
from bridge.sqlite_engine.hub.waiting_calls import DeferredRaise, Waiter, found
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.bounds import MAX_NAME, BeyondBound, check_execution, check_id, check_name, check_tags
from bridge.sqlite_engine.model.instance import (
    FAILED,
    FINISHED,
    PENDING,
    RUNNING,
    SUSPENDED,
    TERMINATED,
    StoredInstance,
)
from bridge.sqlite_engine.model.reply import (
    ANSWERED,
    DEFERRED,
    Conflict,
    Reply,
    already_exists,
    instance_finished,
    invalid_argument,
    not_found,
    precondition,
)
from bridge.sqlite_engine.model.turn import BadResponse, entity_id
from bridge.sqlite_engine.model.values import due, new_id

T = TypeVar("T")

_OPEN = frozenset({PENDING, RUNNING, SUSPENDED})

_IGNORE = 1
"""Action of an earlier form of the reuse policy: leave the existing instance alone."""


def _earlier_action(policy: pb.OrchestrationIdReusePolicy) -> int | None:
    """Action in the second field of the reuse policy, or None.

    Clients of an earlier form of the protocol, such as Go's, send it.
    """
    for field in UnknownFieldSet(policy):
        if field.field_number == 2 and field.wire_type == 0:
            return int(field.data)
    return None


def _replaceable(request: pb.CreateInstanceRequest) -> Collection[int]:
    """Statuses of an existing instance that the start may replace. Raises: Rejection."""
    if not request.HasField("orchestrationIdReusePolicy"):
        return FINISHED
    policy = request.orchestrationIdReusePolicy
    found = frozenset(policy.replaceableStatus)
    if found & _OPEN and TERMINATED not in found and _earlier_action(policy) is None:
        # A running instance is replaced by terminating it. The scheduler answers with these words.
        raise invalid_argument(
            "Invalid reusable statuses: cannot exclude 'Terminated' while also allowing reuse of running instances"
        )
    return found


def _checked(check: Callable[..., T], *args: Any) -> T:
    """Result of a check of a call's input. Raises: Rejection."""
    try:
        return check(*args)
    except (BadResponse, BeyondBound) as error:
        raise invalid_argument(f"The call {error}") from error


class Calls:
    """Handlers of client calls, one method each.

    Each method runs in the writer's thread, and raises Rejection before it changes anything.
    """

    def __init__(self, hub: TaskHub) -> None:
        self._hub = hub

    def start(self, request: pb.CreateInstanceRequest) -> pb.CreateInstanceResponse:
        hub = self._hub
        if not request.name:
            raise invalid_argument("The orchestration's name is empty")
        if len(request.name) > MAX_NAME or request.HasField("version") or request.tags:
            _checked(check_name, "an orchestration's name", request.name)
            _checked(check_name, "a version", request.version.value)
            _checked(check_tags, request.tags)
        replaceable = _replaceable(request)
        instance_id = check_id(request.instanceId, hub.limits) if request.instanceId else new_id()
        _checked(hub.limits.check_payload, "an orchestration's input", request.input.value)
        if request.HasField("executionId"):
            check_execution(request.executionId.value)
        existing = hub.find(instance_id)
        after = 0
        if existing is not None:
            earlier, later = existing.start.executionStarted.input.value, request.input.value
            if existing.reported not in replaceable or not hub.rules.may_replace(earlier, later):
                status = pb.OrchestrationStatus.Name(existing.reported).removeprefix("ORCHESTRATION_STATUS_")
                conflict = Conflict(status, hub.rules.is_repeated_start(earlier, later))
                raise already_exists(f"Orchestration instance '{instance_id}' already exists", conflict)
            if _earlier_action(request.orchestrationIdReusePolicy) == _IGNORE:
                return pb.CreateInstanceResponse(instanceId=instance_id)
            after = existing.turn_at
            hub.replace(existing)
        start_at = due(request.scheduledStartTimestamp) if request.HasField("scheduledStartTimestamp") else None
        hub.create(instance_id, request, execution=request.executionId.value, start_at=start_at, after=after)
        return pb.CreateInstanceResponse(instanceId=instance_id)

    def _existing(self, instance_id: str) -> StoredInstance:
        """Find an instance. Raises: Rejection when it does not exist."""
        instance = self._hub.find(instance_id)
        if instance is None:
            raise not_found(instance_id)
        return instance

    def get(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        instance = self._hub.find(request.instanceId)
        if instance is None:
            return pb.GetInstanceResponse(exists=False)
        return found(instance, request.getInputsAndOutputs)

    def wait(self, request: pb.GetInstanceRequest, for_start: bool, reply: Reply) -> Any:
        """Answer at once when the awaited state is reached, and otherwise defer the answer.

        An unknown instance is waited for as well.
        """
        waiter = Waiter(reply, request.getInputsAndOutputs, for_start)
        instance = self._hub.find(request.instanceId)
        if instance is not None and waiter.satisfied_by(instance):
            return found(instance, waiter.payloads)
        self._hub.waiters.add(request.instanceId, waiter)
        return DEFERRED

    def raise_event(self, request: pb.RaiseEventRequest, reply: Reply) -> Any:
        """Raise an event. An answer without an error confirms that the instance has received it.

        While a turn is in flight, which may be the last one, the answer waits for the end of that turn. The event is
        then either delivered to the next turn or refused. Only a termination can still drop it.
        """
        hub = self._hub
        if not request.name:
            raise invalid_argument("The event's name is empty")
        _checked(check_name, "an event's name", request.name)
        _checked(hub.limits.check_event, request.input.value, "an event's data")
        instance = self._existing(request.instanceId)
        if instance.finished:
            raise instance_finished(request.instanceId)
        if hub.rules.is_accepted_once(request.name):
            self._check_accepted_once(instance, request)
        data = request.input if request.HasField("input") else None
        event = events.event_raised(hub.now, request.name, data)
        size = event.ByteSize()
        if hub.unread.refuses(instance, size):
            raise hub.refuse_event(instance)
        hub.deliver(instance, event)
        hub.index.raised(instance, data)
        instance.count_unread(size)
        hub.instances.measure(instance)
        if instance.token is not None:
            hub.deferred.add(instance.key, DeferredRaise(reply, instance.id, instance.inbox[-1][0]))
            return DEFERRED
        return pb.RaiseEventResponse()

    def _check_accepted_once(self, instance: StoredInstance, answer: pb.RaiseEventRequest) -> None:
        """Refuse every event of this name but the first. Raises: Rejection."""
        waiting = (event for _, event in instance.inbox)
        for event in chain(self._hub.load_history(instance), instance.turn or (), waiting):
            if event.HasField("eventRaised") and event.eventRaised.name == answer.name:
                is_repeat = self._hub.rules.is_repeated_event(event.eventRaised.input.value, answer.input.value)
                raise already_exists("The request was answered before", Conflict(ANSWERED, is_repeat))

    def terminate(self, request: pb.TerminateRequest) -> pb.TerminateResponse:
        """End the instance at once, without its worker. An unknown or finished instance is left unchanged."""
        instance = self._hub.find(request.instanceId)
        if instance is not None:
            self.terminate_instance(instance, request)
        return pb.TerminateResponse()

    def terminate_instance(self, instance: StoredInstance, request: pb.TerminateRequest) -> None:
        hub = self._hub
        open_ids = [instance.id]
        seen: set[str] = set()
        while open_ids:
            instance_id = open_ids.pop()
            if instance_id in seen:
                continue
            seen.add(instance_id)
            each = hub.find(instance_id)
            if each is None:
                continue
            if not each.finished:
                output = request.output if request.HasField("output") else None
                cause = events.execution_terminated(hub.now, output, request.recursive)
                hub.end(each, TERMINATED, None if output is None else output.value, None, cause)
            if request.recursive:
                hub.tx.flush()
                open_ids.extend(hub.store.children(instance_id))

    def suspend(self, request: pb.SuspendRequest) -> pb.SuspendResponse:
        hub = self._hub
        _checked(hub.limits.check_event, request.reason.value, "a reason")
        instance = self._existing(request.instanceId)
        if not instance.finished and not instance.suspended:
            instance.suspend()
            hub.touch(instance)
            reason = request.reason if request.HasField("reason") else None
            hub.deliver(instance, events.execution_suspended(hub.now, reason))
        return pb.SuspendResponse()

    def resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        hub = self._hub
        _checked(hub.limits.check_event, request.reason.value, "a reason")
        instance = self._existing(request.instanceId)
        if instance.suspended and not instance.finished:
            instance.resume()
            hub.touch(instance)
            reason = request.reason if request.HasField("reason") else None
            hub.deliver(instance, events.execution_resumed(hub.now, reason))
        return pb.ResumeResponse()

    def restart(self, request: pb.RestartInstanceRequest) -> pb.RestartInstanceResponse:
        hub = self._hub
        instance = self._existing(request.instanceId)
        if not instance.finished and not request.restartWithNewInstanceId:
            raise precondition(f"Orchestration instance '{instance.id}' is not in a terminal state")
        instance_id = new_id() if request.restartWithNewInstanceId else instance.id
        started = instance.start.executionStarted
        if instance_id == instance.id:
            hub.replace(instance)
        hub.create(instance_id, started, after=instance.turn_at)
        return pb.RestartInstanceResponse(instanceId=instance_id)

    def rewind(self, request: pb.RewindInstanceRequest) -> pb.RewindInstanceResponse:
        hub = self._hub
        _checked(hub.limits.check_event, request.reason.value, "a reason")
        instance = self._existing(request.instanceId)
        if instance.status != FAILED:
            raise precondition(f"Orchestration instance '{instance.id}' is not in a failed state")
        rewind(hub, instance, request.reason.value if request.HasField("reason") else None)
        return pb.RewindInstanceResponse()

    def signal_entity(self, request: pb.SignalEntityRequest) -> pb.SignalEntityResponse:
        hub = self._hub
        target = _checked(entity_id, request.instanceId)
        _checked(hub.limits.check_id, "an entity's id", target)
        if not request.name:
            raise invalid_argument("The operation's name is empty")
        _checked(check_name, "an operation's name", request.name)
        if hub.index.is_index(target):
            hub.index.record(request.input.value, hub.now)
            return pb.SignalEntityResponse()
        hub.entities.signal(target, request, request.requestId or new_id())
        hub.index.signaled(target, request.name, request.input.value, hub.now)
        return pb.SignalEntityResponse()

    def get_entity(self, request: pb.GetEntityRequest) -> pb.GetEntityResponse:
        entity = self._hub.entities.find(_checked(entity_id, request.instanceId))
        if entity is None or entity.state is None:
            # Without a state the entity only passes operations on or holds a lock; clients do not see it.
            return pb.GetEntityResponse(exists=False)
        return pb.GetEntityResponse(exists=True, entity=entity.metadata(request.includeState))

    def skip_graceful_terminations(
        self, request: pb.SkipGracefulOrchestrationTerminationsRequest
    ) -> pb.SkipGracefulOrchestrationTerminationsResponse:
        """Terminate a batch of instances; answer with the ids that could not be terminated."""
        left = []
        for instance_id in request.instanceBatch.instanceIds:
            instance = self._hub.find(instance_id)
            if instance is None or instance.finished:
                left.append(instance_id)
            else:
                self.terminate_instance(instance, pb.TerminateRequest(instanceId=instance_id, output=request.reason))
        return pb.SkipGracefulOrchestrationTerminationsResponse(unterminatedInstanceIds=left)
