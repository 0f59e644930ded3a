"""The calls of clients, decided inside the transaction that makes them durable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]  # protobuf ships no types

from bridge.correlation import may_replace, started_by, telling
from bridge.engines.embedded import event as events
from bridge.engines.embedded.bounds import BeyondBound, check_name, check_tags
from bridge.engines.embedded.clock import micros
from bridge.engines.embedded.hub import TaskHub
from bridge.engines.embedded.identity import MAX_ID, check_id, new_id
from bridge.engines.embedded.instance import FAILED, TERMINATED, Instance
from bridge.engines.embedded.rejection import Rejection, invalid, late, missing, precondition
from bridge.engines.embedded.reply import Reply
from bridge.engines.embedded.rewind import rewind
from bridge.engines.embedded.turn import BadResponse, entity_id
from bridge.engines.embedded.waiters import Waiter, found
from bridge.origin import head_of

DEFERRED: Any = object()
"""The answer comes later."""


def _leaves_alone(policy: pb.OrchestrationIdReusePolicy) -> bool:
    """Whether the client asks for the start to be left undone where the instance is in one of the policy's states.

    So say clients of an earlier form of the protocol, as Go's is, in a second field: 1 means ignore.
    """
    return any(
        field.field_number == 2 and field.wire_type == 0 and field.data == 1 for field in UnknownFieldSet(policy)
    )


def _bounded(what: str, name: str, version: str = "", tags: Mapping[str, str] | None = None) -> None:
    """Raises: Rejection for something beyond its bound."""
    try:
        check_name(what, name)
        check_name("a version", version)
        check_tags(tags or {})
    except BeyondBound as error:
        raise invalid(f"The call {error}") from error


class Calls:
    """One method per call. Each runs in the writer's thread and raises Rejection before it changes anything."""

    def __init__(self, hub: TaskHub, *, certain_raise: bool = True) -> None:
        self._hub = hub
        self._certain_raise = certain_raise

    def start(self, request: pb.CreateInstanceRequest) -> pb.CreateInstanceResponse:
        hub = self._hub
        if not request.name:
            raise invalid("The orchestration's name is empty")
        _bounded("an orchestration's name", request.name, request.version.value, request.tags)
        instance_id = check_id(request.instanceId) if request.instanceId else new_id()
        existing = hub.find(instance_id)
        after = 0
        if existing is not None:
            old, new = head_of(existing.start.executionStarted.input.value), head_of(request.input.value)
            replaceable = request.orchestrationIdReusePolicy.replaceableStatus
            if existing.reported not in replaceable or not may_replace(old, new):
                status = pb.OrchestrationStatus.Name(existing.reported).removeprefix("ORCHESTRATION_STATUS_")
                why = telling(status, started_by(old, new.origin))
                raise Rejection(
                    grpc.StatusCode.ALREADY_EXISTS, f"Orchestration instance '{instance_id}' already exists{why}"
                )
            if _leaves_alone(request.orchestrationIdReusePolicy):
                return pb.CreateInstanceResponse(instanceId=instance_id)
            after = existing.turn_at
            hub.replace(existing)
        start_at = micros(request.scheduledStartTimestamp) if request.HasField("scheduledStartTimestamp") else None
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

    def get(self, request: pb.GetInstanceRequest) -> pb.GetInstanceResponse:
        instance = self._hub.find(request.instanceId)
        if instance is None:
            return pb.GetInstanceResponse(exists=False)
        return found(instance, request.getInputsAndOutputs)

    def wait(self, request: pb.GetInstanceRequest, for_start: bool, reply: Reply) -> Any:
        """Answers at once when there is nothing to wait for. An unknown instance is waited for, too."""
        waiter = Waiter(reply, request.getInputsAndOutputs, for_start)
        instance = self._hub.find(request.instanceId)
        if instance is not None and waiter.satisfied_by(instance):
            return found(instance, waiter.payloads)
        self._hub.waiters.add(request.instanceId, waiter)
        return DEFERRED

    def raise_event(self, request: pb.RaiseEventRequest, reply: Reply) -> Any:
        """Taken for certain when answered without an error.

        While a turn is in flight that may be the last one, the answer waits for its end: then the event is either
        in the next turn's hands or refused. Only termination can still drop it.
        """
        hub = self._hub
        if not request.name:
            raise invalid("The event's name is empty")
        _bounded("an event's name", request.name)
        instance = hub.find(request.instanceId)
        if instance is None:
            raise missing(request.instanceId)
        if instance.finished:
            raise late(request.instanceId)
        data = request.input if request.HasField("input") else None
        hub.deliver(instance, events.event_raised(hub.now, request.name, data))
        if self._certain_raise and instance.token is not None:
            instance.deferred.append((reply, pb.RaiseEventResponse()))
            instance.in_doubt.append(instance.inbox[-1][0])
            return DEFERRED
        return pb.RaiseEventResponse()

    def terminate(self, request: pb.TerminateRequest) -> pb.TerminateResponse:
        """Ends the instance at once, without its worker; an unknown or finished one is left alone."""
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
        instance = hub.find(request.instanceId)
        if instance is None:
            raise missing(request.instanceId)
        if not instance.finished and not instance.suspended:
            instance.suspended = True
            hub.touch(instance)
            reason = request.reason if request.HasField("reason") else None
            hub.deliver(instance, events.execution_suspended(hub.now, reason))
        return pb.SuspendResponse()

    def resume(self, request: pb.ResumeRequest) -> pb.ResumeResponse:
        hub = self._hub
        instance = hub.find(request.instanceId)
        if instance is None:
            raise missing(request.instanceId)
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
            raise missing(request.instanceId)
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
        instance = hub.find(request.instanceId)
        if instance is None:
            raise missing(request.instanceId)
        if instance.status != FAILED:
            raise precondition(f"Orchestration instance '{instance.id}' is not in a failed state")
        rewind(hub, instance, request.reason.value if request.HasField("reason") else None)
        return pb.RewindInstanceResponse()

    def signal_entity(self, request: pb.SignalEntityRequest) -> pb.SignalEntityResponse:
        hub = self._hub
        try:
            target = entity_id(request.instanceId)
        except BadResponse as error:
            raise invalid(f"The call {error}") from error
        if len(target) > MAX_ID:
            raise invalid(f"The entity id has {len(target)} characters; at most {MAX_ID} are allowed")
        if not request.name:
            raise invalid("The operation's name is empty")
        _bounded("an operation's name", request.name)
        event = events.signal(
            hub.now,
            target,
            request.name,
            request.input if request.HasField("input") else None,
            request.requestId or new_id(),
        )
        hub.entities.operate(
            target, event, micros(request.scheduledTime) if request.HasField("scheduledTime") else None
        )
        return pb.SignalEntityResponse()

    def get_entity(self, request: pb.GetEntityRequest) -> pb.GetEntityResponse:
        try:
            entity = self._hub.entities.find(entity_id(request.instanceId))
        except BadResponse as error:
            raise invalid(f"The call {error}") from error
        if entity is None or entity.state is None:
            # Without a state it only passes operations on, or holds a lock; to clients it is not there.
            return pb.GetEntityResponse(exists=False)
        return pb.GetEntityResponse(exists=True, entity=entity.metadata(request.includeState))

    def skip_graceful_terminations(
        self, request: pb.SkipGracefulOrchestrationTerminationsRequest
    ) -> pb.SkipGracefulOrchestrationTerminationsResponse:
        """Terminates a batch of instances; answers the ids it could not terminate."""
        left = []
        for instance_id in request.instanceBatch.instanceIds:
            instance = self._hub.find(instance_id)
            if instance is None or instance.finished:
                left.append(instance_id)
            else:
                self.terminate_instance(instance, pb.TerminateRequest(instanceId=instance_id, output=request.reason))
        return pb.SkipGracefulOrchestrationTerminationsResponse(unterminatedInstanceIds=left)
