"""Calls of clients, decided inside the transaction that makes them durable."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.unknown_fields import UnknownFieldSet

from bridge.core.answers import answered_by
from bridge.core.instance_protocol import ANSWERED, may_replace, started_by, telling
from bridge.core.origin import read_origin
from bridge.sqlite_engine.hub.hub import Deferred, TaskHub
from bridge.sqlite_engine.hub.rewind import rewind
from bridge.sqlite_engine.hub.waiters import Waiter, found
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.bounds import MAX_NAME, BeyondBound, check_name, check_tags
from bridge.sqlite_engine.model.clock import due
from bridge.sqlite_engine.model.identity import check_execution, check_id, new_id
from bridge.sqlite_engine.model.instance import FAILED, FINISHED, PENDING, RUNNING, SUSPENDED, TERMINATED, Instance
from bridge.sqlite_engine.model.rejection import (
    Rejection,
    instance_finished,
    invalid_argument,
    not_found,
    precondition,
    unread_full,
)
from bridge.sqlite_engine.model.reply import Reply
from bridge.sqlite_engine.model.turn import BadResponse, entity_id
from bridge.sqlite_engine.model.unread import note

DEFERRED: Any = object()
"""Placeholder: the answer follows later."""


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


def _bounded(what: str, name: str, version: str = "", tags: Mapping[str, str] | None = None) -> None:
    """Check a name, a version and tags against their limits. Raises: Rejection."""
    try:
        check_name(what, name)
        check_name("a version", version)
        check_tags(tags or {})
    except BeyondBound as error:
        raise invalid_argument(f"The call {error}") from error


class Calls:
    """Handlers of client calls, one method each.

    Each method runs in the writer's thread, and raises Rejection before it changes anything.
    """

    def __init__(self, hub: TaskHub, *, certain_raise: bool = True) -> None:
        self._hub = hub
        self._certain_raise = certain_raise

    def start(self, request: pb.CreateInstanceRequest) -> pb.CreateInstanceResponse:
        hub = self._hub
        if not request.name:
            raise invalid_argument("The orchestration's name is empty")
        if len(request.name) > MAX_NAME or request.HasField("version") or request.tags:
            _bounded("an orchestration's name", request.name, request.version.value, request.tags)
        replaceable = _replaceable(request)
        instance_id = check_id(request.instanceId, hub.limits) if request.instanceId else new_id()
        self._bounded_payload("an orchestration's input", request.input.value)
        if request.HasField("executionId"):
            check_execution(request.executionId.value)
        existing = hub.find(instance_id)
        after = 0
        if existing is not None:
            old, new = read_origin(existing.start.executionStarted.input.value), read_origin(request.input.value)
            if existing.reported not in replaceable or not may_replace(old, new):
                status = pb.OrchestrationStatus.Name(existing.reported).removeprefix("ORCHESTRATION_STATUS_")
                why = telling(status, started_by(old, new.origin))
                raise Rejection(
                    grpc.StatusCode.ALREADY_EXISTS, f"Orchestration instance '{instance_id}' already exists{why}"
                )
            if _earlier_action(request.orchestrationIdReusePolicy) == _IGNORE:
                return pb.CreateInstanceResponse(instanceId=instance_id)
            after = existing.turn_at
            hub.replace(existing)
        start_at = due(request.scheduledStartTimestamp) if request.HasField("scheduledStartTimestamp") else None
        hub.create(
            instance_id,
            request.name,
            execution=request.executionId.value,
            version=request.version if request.HasField("version") else None,
            input=request.input if request.HasField("input") else None,
            tags=dict(request.tags) if request.tags else None,
            start_at=start_at,
            trace=request.parentTraceContext if request.HasField("parentTraceContext") else None,
            after=after,
        )
        return pb.CreateInstanceResponse(instanceId=instance_id)

    def _bounded_payload(self, what: str, payload: str) -> None:
        """Check a payload against its limit. Raises: Rejection."""
        try:
            self._hub.limits.check_payload(what, payload)
        except BeyondBound as error:
            raise invalid_argument(f"The call {error}") from error

    def _bounded_event(self, what: str, data: str) -> None:
        """Check an event's data, or a reason, against the limit of events. Raises: Rejection."""
        try:
            self._hub.limits.check_event(data, what)
        except BeyondBound as error:
            raise invalid_argument(f"The call {error}") from error

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
        _bounded("an event's name", request.name)
        self._bounded_event("an event's data", request.input.value)
        instance = hub.find(request.instanceId)
        if instance is None:
            raise not_found(request.instanceId)
        if instance.finished:
            raise instance_finished(request.instanceId)
        if answered_by(request.name) is not None:
            self._unanswered(instance, request)
        data = request.input if request.HasField("input") else None
        event = events.event_raised(hub.now, request.name, data)
        size = event.ByteSize()
        if hub.unread.refuses(instance, size):
            hub.events_refused += 1
            raise unread_full(instance.unread_events, instance.unread_bytes)
        hub.deliver(instance, event)
        note(instance, size)
        hub.instances.measure(instance)
        if self._certain_raise and instance.token is not None:
            hub.defer(instance, Deferred(reply, pb.RaiseEventResponse(), instance.inbox[-1][0]))
            return DEFERRED
        return pb.RaiseEventResponse()

    def _unanswered(self, instance: Instance, answer: pb.RaiseEventRequest) -> None:
        """Refuse every answer to a request but the first.

        Raises: Rejection, whose text says whether the first answer came from the same message.
        """
        waiting = (event for _, event in instance.inbox)
        for event in chain(self._hub.load_history(instance), instance.turn or (), waiting):
            if event.HasField("eventRaised") and event.eventRaised.name == answer.name:
                first, again = read_origin(event.eventRaised.input.value), read_origin(answer.input.value)
                same = first.origin is not None and again.origin is not None and first.origin.key == again.origin.key
                raise Rejection(
                    grpc.StatusCode.ALREADY_EXISTS, f"The request was answered before{telling(ANSWERED, same)}"
                )

    def terminate(self, request: pb.TerminateRequest) -> pb.TerminateResponse:
        """End the instance at once, without its worker. An unknown or finished instance is left unchanged."""
        instance = self._hub.find(request.instanceId)
        if instance is not None:
            self.terminate_instance(instance, request)
        return pb.TerminateResponse()

    def terminate_instance(self, instance: Instance, request: pb.TerminateRequest) -> None:
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
        self._bounded_event("a reason", request.reason.value)
        instance = hub.find(request.instanceId)
        if instance is None:
            raise not_found(request.instanceId)
        if not instance.finished and not instance.suspended:
            instance.suspended = True
            hub.touch(instance)
            reason = request.reason if request.HasField("reason") else None
            hub.deliver(instance, events.execution_suspended(hub.now, reason))
        return pb.SuspendResponse()

    def resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        hub = self._hub
        self._bounded_event("a reason", request.reason.value)
        instance = hub.find(request.instanceId)
        if instance is None:
            raise not_found(request.instanceId)
        if instance.suspended and not instance.finished:
            instance.suspended = False
            instance.failure = None  # the reason why the engine suspended it
            hub.touch(instance)
            reason = request.reason if request.HasField("reason") else None
            hub.deliver(instance, events.execution_resumed(hub.now, reason))
        return pb.ResumeResponse()

    def restart(self, request: pb.RestartInstanceRequest) -> pb.RestartInstanceResponse:
        hub = self._hub
        instance = hub.find(request.instanceId)
        if instance is None:
            raise not_found(request.instanceId)
        if not instance.finished and not request.restartWithNewInstanceId:
            raise precondition(f"Orchestration instance '{instance.id}' is not in a terminal state")
        instance_id = new_id() if request.restartWithNewInstanceId else instance.id
        started = instance.start.executionStarted
        if instance_id == instance.id:
            hub.replace(instance)
        hub.create(
            instance_id,
            instance.name,
            version=started.version if started.HasField("version") else None,
            input=started.input if started.HasField("input") else None,
            tags=dict(started.tags) if started.tags else None,
            trace=started.parentTraceContext if started.HasField("parentTraceContext") else None,
            after=instance.turn_at,
        )
        return pb.RestartInstanceResponse(instanceId=instance_id)

    def rewind(self, request: pb.RewindInstanceRequest) -> pb.RewindInstanceResponse:
        hub = self._hub
        self._bounded_event("a reason", request.reason.value)
        instance = hub.find(request.instanceId)
        if instance is None:
            raise not_found(request.instanceId)
        if instance.status != FAILED:
            raise precondition(f"Orchestration instance '{instance.id}' is not in a failed state")
        rewind(hub, instance, request.reason.value if request.HasField("reason") else None)
        return pb.RewindInstanceResponse()

    def signal_entity(self, request: pb.SignalEntityRequest) -> pb.SignalEntityResponse:
        hub = self._hub
        try:
            target = entity_id(request.instanceId)
            hub.limits.check_id("an entity's id", target)
        except (BadResponse, BeyondBound) as error:
            raise invalid_argument(f"The call {error}") from error
        if not request.name:
            raise invalid_argument("The operation's name is empty")
        _bounded("an operation's name", request.name)
        event = events.signal(
            hub.now,
            target,
            request.name,
            request.input if request.HasField("input") else None,
            request.requestId or new_id(),
        )
        hub.entities.operate(target, event, due(request.scheduledTime) if request.HasField("scheduledTime") else None)
        return pb.SignalEntityResponse()

    def get_entity(self, request: pb.GetEntityRequest) -> pb.GetEntityResponse:
        try:
            entity = self._hub.entities.find(entity_id(request.instanceId))
        except BadResponse as error:
            raise invalid_argument(f"The call {error}") from error
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
