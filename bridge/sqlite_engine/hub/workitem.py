"""Construction of work items for turns, activities and batches of entity operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.dispatch import ACTIVITY, ENTITY, ORCHESTRATION, Lease, Stream
from bridge.sqlite_engine.hub.operation import Kind, Operation, Orchestration, Queued, Subject
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import Instance, text
from bridge.sqlite_engine.model.unread import ENVELOPE
from bridge.sqlite_engine.model.wire import Duration, StringValue
from bridge.sqlite_engine.storage.store import Task

if TYPE_CHECKING:
    from bridge.sqlite_engine.hub.hub import TaskHub

STREAMED_FROM = 256 * 1024
"""Size in bytes from which on histories are streamed to workers that support it."""


@dataclass(slots=True)
class TurnRequest:
    """OrchestratorRequest in this process: the history is the engine's own list, not a copy."""

    instanceId: str  # noqa: N815 -- named as in the protocol
    pastEvents: list[pb.HistoryEvent]  # noqa: N815
    newEvents: list[pb.HistoryEvent]  # noqa: N815
    orchestrationTraceContext: pb.OrchestrationTraceContext  # noqa: N815
    completionToken: str  # noqa: N815
    historyBytes: int  # noqa: N815 -- not of the protocol
    unread: tuple[int, int] | None = None
    """Number and bytes of the events that the orchestrator holds unread after the turn; set by its worker."""

    def HasField(self, name: str) -> bool:  # noqa: N802 -- as a protobuf message has it
        return name == "orchestrationTraceContext" and self.orchestrationTraceContext.HasField("spanStartTime")

    def WhichOneof(self, name: str) -> str:  # noqa: N802 -- as a WorkItem has it
        return "orchestratorRequest"

    def message(self, execution: str, *, with_history: bool = True) -> pb.OrchestratorRequest:
        """Convert the request to a message of the protocol, with copies of the events."""
        request = pb.OrchestratorRequest(
            instanceId=self.instanceId,
            executionId=text(execution),
            # Without entity parameters some workers assume that the engine does not support entities.
            entityParameters=pb.OrchestratorEntityParameters(entityMessageReorderWindow=Duration()),
            requiresHistoryStreaming=not with_history,
        )
        if with_history:
            request.pastEvents.extend(self.pastEvents)
        request.newEvents.extend(self.newEvents)
        if self.HasField("orchestrationTraceContext"):
            request.orchestrationTraceContext.CopyFrom(self.orchestrationTraceContext)
        return request


@dataclass(slots=True)
class TurnResponse:
    """OrchestratorResponse in this process: the actions are the worker's own messages, not copies."""

    instanceId: str  # noqa: N815 -- named as in the protocol
    actions: list[pb.OrchestratorAction]
    completionToken: str  # noqa: N815
    customStatus: StringValue | None  # noqa: N815
    orchestrationTraceContext: pb.OrchestrationTraceContext | None  # noqa: N815

    isPartial = False  # noqa: N815
    requiresHistory = False  # noqa: N815

    def HasField(self, name: str) -> bool:  # noqa: N802 -- as a protobuf message has it
        return getattr(self, name) is not None


@dataclass(slots=True)
class ActivityItem:
    """Work item of an activity in this process: the request is the engine's own, not a copy."""

    activityRequest: pb.ActivityRequest  # noqa: N815 -- named as in the protocol
    completionToken: str  # noqa: N815

    def WhichOneof(self, name: str) -> str:  # noqa: N802 -- as a WorkItem has it
        return "activityRequest"


class WorkItems:
    """Builder of a hub's work items and their leases."""

    def __init__(self, hub: TaskHub, max_message: int) -> None:
        self._hub = hub
        self._max_message = max_message
        self._token = 0

    def build(
        self, kind: int, name: str, version: str | None, subject: Any, stream: Stream
    ) -> tuple[Lease, Any] | None:
        """Build the work item of a subject; None when the subject has no work, or was given up."""
        if kind == ORCHESTRATION:
            return self._turn(subject, stream)
        if kind == ACTIVITY:
            return self._activity(subject, stream)
        return self._batch(subject, stream)

    def _lease(
        self, kind: int, subject: Any, name: str, version: str | None, stream: Stream, instance_id: str
    ) -> Lease:
        self._token += 1
        token = f"{self._hub.dispatcher.epoch}-{self._token}"
        return Lease(token, kind, subject, name, version, stream, instance_id, self._hub.dispatcher.epoch)

    def _later(self, move: Callable[[], None], subject: Subject) -> None:
        self._hub.later.append(Operation(Kind.MOVE, move, subject=subject))

    def _turn(self, key: int, stream: Stream) -> tuple[Lease, Any] | None:
        hub = self._hub
        instance = hub.find_key(key)
        if instance is None or instance.token is not None or not instance.deliverable:
            return None
        if hub.tokenless.must_wait(instance.id, stream, (instance.name, instance.version, key)):
            return None
        history = hub.load_history(instance)
        instance.turn_at = max(hub.now, instance.turn_at + 1)
        turn = [events.orchestrator_started(instance.turn_at)]
        if instance.chunks == 0:
            turn.append(instance.start)
        waiting = [event for _, event in instance.inbox]
        turn.extend(waiting if len(waiting) < 2 else _timers_last(waiting))
        instance.turn = turn
        instance.taken = len(waiting)
        trace = instance.trace or pb.OrchestrationTraceContext()
        request = TurnRequest(instance.id, history, turn, trace, "", instance.history_bytes)
        lease = self._lease(ORCHESTRATION, key, instance.name, instance.version, stream, instance.id)
        request.completionToken = lease.token
        instance.shared = stream.shares
        if stream.shares:
            item: Any = request
            instance.request = request
        else:
            item = self._remote_turn(instance, request, stream)
            if item is None:
                return None
            item.completionToken = lease.token
        instance.token = lease.token
        lease.turn, lease.turn_at = turn, instance.turn_at
        lease.taken = tuple(instance.inbox)
        hub.hold(lease)
        return lease, item

    def _remote_turn(self, instance: Instance, request: TurnRequest, stream: Stream) -> pb.WorkItem | None:
        whole = not stream.streams_history or instance.history_bytes < STREAMED_FROM
        item = pb.WorkItem(orchestratorRequest=request.message(instance.execution, with_history=whole))
        known = request.orchestrationTraceContext.ByteSize() + (instance.history_bytes if whole else 0)
        if known + sum(event.ByteSize() for event in request.newEvents) < self._max_message // 2:
            return item
        size = item.ByteSize() + ENVELOPE
        if size <= self._max_message:
            return item
        instance.turn = None
        failure = too_large(f"needs a work item of {size} bytes", self._max_message)
        self._later(lambda: self._hub.fail(instance, failure), Orchestration(instance.key))
        return None

    def _activity(self, task: Task, stream: Stream) -> tuple[Lease, Any] | None:
        hub = self._hub
        if task.key in hub.cancelled and hub.store.task_request(task.seq) is None:
            return None
        request = task.request or hub.store.task_request(task.seq)
        if request is None:
            return None
        if not stream.shares and (size := request.ByteSize() + ENVELOPE) > self._max_message:
            failure = too_large(f"gave activity {task.name} a work item of {size} bytes", self._max_message, "Activity")
            self._later(lambda: hub.fail_task(task, failure), task)
            return None
        instance_id = request.orchestrationInstance.instanceId
        lease = self._lease(ACTIVITY, task, task.name, task.version, stream, instance_id)
        lease.task_id = hub.tokenless.number(task, instance_id, stream)
        if stream.shares:
            return lease, ActivityItem(request, lease.token)
        item = pb.WorkItem(activityRequest=request, completionToken=lease.token)
        item.activityRequest.taskId = lease.task_id
        return lease, item

    def _batch(self, entity_id: str, stream: Stream) -> tuple[Lease, Any] | None:
        hub = self._hub
        entity = hub.entities.find(entity_id)
        if entity is None or entity.token is not None:
            return None
        runnable = entity.runnable()
        if not runnable:
            return None
        room = self._max_message - ENVELOPE - len((entity.state or "").encode())
        batch: list[tuple[int, pb.HistoryEvent]] = []
        for entry in runnable:
            room -= entry[1].ByteSize() + 8
            if room < 0 and not stream.shares:
                break
            batch.append(entry)
        if not batch:
            seq = runnable[0][0]
            what = "called an entity whose state and input do not fit a work item"
            failure = too_large(what, self._max_message, "Operation")
            self._later(lambda: hub.entities.refuse(entity_id, seq, failure), Queued(entity_id))
            return None
        entity.batch = batch
        lease = self._lease(ENTITY, entity_id, entity.name, None, stream, entity_id)
        entity.token = lease.token
        lease.taken = batch
        hub.hold(lease)
        request = pb.EntityRequest(
            instanceId=entity_id,
            executionId=lease.token,
            entityState=text(entity.state),
            operationRequests=[event for _, event in batch],
        )
        return lease, pb.WorkItem(entityRequestV2=request, completionToken=lease.token)


def _timers_last(waiting: list[pb.HistoryEvent]) -> list[pb.HistoryEvent]:
    """Events of a turn, with its timers moved to the end.

    A message that was accepted before the orchestrator could react to its timeout therefore still arrives, even when
    the orchestrator ends at the timeout.
    """
    return sorted(waiting, key=_is_timer)


def _is_timer(event: pb.HistoryEvent) -> bool:
    return bool(event.HasField("timerFired"))


def too_large(what: str, limit: int, subject: str = "History") -> pb.TaskFailureDetails:
    return events.failure(
        f"{subject}TooLarge",
        f"The orchestration {what}, and its worker takes at most {limit}. Use continue_as_new, smaller payloads, "
        "or a payload store.",
    )
