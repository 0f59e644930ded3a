"""Construction of work items for turns, activities and batches of entity operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.hub.entities import HubEntities
from bridge.sqlite_engine.hub.leases import ACTIVITY, ENTITY, ORCHESTRATION, Lease, WorkerStream
from bridge.sqlite_engine.hub.tokenless import Tokenless
from bridge.sqlite_engine.hub.working_set import (
    OperationKind,
    Orchestration,
    Queued,
    Subject,
    WorkingSet,
    WriterOperation,
)
from bridge.sqlite_engine.model import event as events
from bridge.sqlite_engine.model.instance import ENVELOPE, StoredInstance
from bridge.sqlite_engine.model.values import Duration, StringValue, text
from bridge.sqlite_engine.model.work import Task

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

    def HasField(self, name: str) -> bool:  # noqa: N802 -- as a protobuf message has it
        return name == "orchestrationTraceContext" and self.orchestrationTraceContext.HasField("spanStartTime")

    def WhichOneof(self, name: str) -> str:  # noqa: N802 -- as a WorkItem has it
        return "orchestratorRequest"

    def continues(self, begin: int, turn: list[pb.HistoryEvent]) -> bool:
        """True when the history goes on after an earlier turn with these events: it contains the objects themselves.

        begin: position of the turn in the history. The first of its events was made for that turn alone, so another
        turn in its place is detected.
        """
        past, end = self.pastEvents, begin + len(turn)
        return len(past) >= end and past[begin] is turn[0] and past[end - 1] is turn[-1]

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
    unread: tuple[int, int]
    """Number and bytes of the events that the orchestrator holds unread after the turn. Not of the protocol."""

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
    """Builder of a hub's work items and their leases.

    fail: ends an instance whose work item no worker can receive.
    """

    def __init__(
        self,
        working: WorkingSet,
        entities: HubEntities,
        tokenless: Tokenless,
        max_work_item: int,
        fail: Callable[[StoredInstance, pb.TaskFailureDetails], None],
    ) -> None:
        self._working = working
        self._entities = entities
        self._tokenless = tokenless
        self._max_work_item = max_work_item
        self._fail = fail

    def build(self, kind: int, subject: Any, stream: WorkerStream, token: str) -> tuple[Lease, Any] | None:
        """Build the work item of a subject; None when the subject has no work, or was given up."""
        if kind == ORCHESTRATION:
            return self._turn(subject, stream, token)
        if kind == ACTIVITY:
            return self._activity(subject, stream, token)
        return self._batch(subject, stream, token)

    def _run_next(self, move: Callable[[], None], subject: Subject) -> None:
        self._working.later.append(WriterOperation(OperationKind.MOVE, move, subject=subject))

    def _turn(self, key: int, stream: WorkerStream, token: str) -> tuple[Lease, Any] | None:
        working = self._working
        instance = working.find_key(key)
        if instance is None or instance.token is not None or not instance.deliverable:
            return None
        if self._tokenless.must_wait(instance.id, stream, (instance.name, instance.version, key)):
            return None
        history = working.load_history(instance)
        turn = [events.orchestrator_started(instance.next_turn_at(working.now))]
        if instance.chunks == 0:
            turn.append(instance.start)
        waiting = [event for _, event in instance.inbox]
        turn.extend(waiting if len(waiting) < 2 else _timers_last(waiting))
        instance.begin_turn(turn, len(waiting), shared=stream.shares)
        trace = instance.trace or pb.OrchestrationTraceContext()
        request = TurnRequest(instance.id, history, turn, trace, token, instance.history_bytes)
        if stream.shares:
            item: Any = request
        else:
            item = self._remote_turn(instance, request, stream)
            if item is None:
                return None
            item.completionToken = token
        instance.lease_turn(token)
        lease = Lease(
            token, ORCHESTRATION, key, instance.name, instance.version, stream, instance.id,
            turn=turn, turn_at=instance.turn_at, taken=tuple(instance.inbox),
        )  # fmt: skip
        working.mark_in_flight(lease)
        return lease, item

    def _remote_turn(self, instance: StoredInstance, request: TurnRequest, stream: WorkerStream) -> pb.WorkItem | None:
        whole = not stream.streams_history or instance.history_bytes < STREAMED_FROM
        item = pb.WorkItem(orchestratorRequest=request.message(instance.execution, with_history=whole))
        known = request.orchestrationTraceContext.ByteSize() + (instance.history_bytes if whole else 0)
        if known + sum(event.ByteSize() for event in request.newEvents) < self._max_work_item // 2:
            return item
        size = item.ByteSize() + ENVELOPE
        if size <= self._max_work_item:
            return item
        instance.end_turn()
        failure = too_large(f"needs a work item of {size} bytes", self._max_work_item)
        self._run_next(lambda: self._fail(instance, failure), Orchestration(instance.key))
        return None

    def _activity(self, task: Task, stream: WorkerStream, token: str) -> tuple[Lease, Any] | None:
        working = self._working
        if task.key in working.cancelled and working.store.task_request(task.seq) is None:
            return None
        request = task.request or working.store.task_request(task.seq)
        if request is None:
            return None
        if not stream.shares and (size := request.ByteSize() + ENVELOPE) > self._max_work_item:
            failure = too_large(
                f"gave activity {task.name} a work item of {size} bytes", self._max_work_item, "Activity"
            )
            self._run_next(lambda: working.fail_task(task, failure), task)
            return None
        instance_id = request.orchestrationInstance.instanceId
        number = self._tokenless.number(task, instance_id, stream)
        lease = Lease(token, ACTIVITY, task, task.name, task.version, stream, instance_id, number)
        if stream.shares:
            return lease, ActivityItem(request, token)
        item = pb.WorkItem(activityRequest=request, completionToken=token)
        item.activityRequest.taskId = number
        return lease, item

    def _batch(self, entity_id: str, stream: WorkerStream, token: str) -> tuple[Lease, Any] | None:
        entity = self._entities.find(entity_id)
        if entity is None or entity.token is not None:
            return None
        runnable = entity.runnable()
        if not runnable:
            return None
        room = self._max_work_item - ENVELOPE - len((entity.state or "").encode())
        batch: list[tuple[int, pb.HistoryEvent]] = []
        for entry in runnable:
            room -= entry[1].ByteSize() + 8
            if room < 0 and not stream.shares:
                break
            batch.append(entry)
        if not batch:
            seq = runnable[0][0]
            what = "called an entity whose state and input do not fit a work item"
            failure = too_large(what, self._max_work_item, "Operation")
            self._run_next(lambda: self._entities.refuse(entity_id, seq, failure), Queued(entity_id))
            return None
        entity.begin_batch(token, batch)
        lease = Lease(token, ENTITY, entity_id, entity.name, None, stream, entity_id, taken=batch)
        self._working.mark_in_flight(lease)
        request = pb.EntityRequest(
            instanceId=entity_id,
            executionId=token,
            entityState=text(entity.state),
            operationRequests=[event for _, event in batch],
        )
        return lease, pb.WorkItem(entityRequestV2=request, completionToken=token)


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
