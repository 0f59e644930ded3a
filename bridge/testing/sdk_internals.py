"""Private parts of the SDK that the test kit uses: its in-memory backend, and its executor of turns.

`VirtualBackend` overrides private methods of the backend, and works with one minor version of the SDK. With a version
that lacks one of them, LocalBridge, `replay` and `bridge instances check` raise a RuntimeError that names it; the
daemon does not use them.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType, GeneratorType
from typing import Any

import durabletask.worker
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DataConverter
from durabletask.testing.in_memory_backend import InMemoryOrchestrationBackend, OrchestrationInstance

import bridge
from bridge.engines.base import RunListener

HEAD_START = timedelta(days=1)
"""Lead of virtual time over the clock at the start.

The backend compares some times with the clock. Times that are in the future in virtual time must be in the future on
the clock too.
"""


_OVERRIDDEN = (
    "_enqueue_orchestration", "_notify_waiters", "_process_create_timer_action", "_process_schedule_task_action",
    "_schedule_delayed_entity_operation", "_wait_for_state", "_watch_sub_orchestration",
)  # fmt: skip
"""Methods of the backend without which virtual time would stand still or run ahead."""


def _check(kind: Any, *names: str) -> None:
    """Check that a class or module of the SDK has these members. Raises: RuntimeError, which names the missing ones."""
    lacking = [name for name in names if not hasattr(kind, name)]
    if lacking:
        raise RuntimeError(
            f"the test kit does not work with the installed durabletask: {kind.__name__} has no {', '.join(lacking)}"
        )


def _executor(functions: Mapping[str, Callable[..., Any]], converter: DataConverter, logger: logging.Logger) -> Any:
    """Create the SDK's executor of turns. Raises: RuntimeError when the SDK has none."""
    _check(durabletask.worker, "_Registry", "_OrchestrationExecutor")
    registry = durabletask.worker._Registry()
    for name, function in functions.items():
        registry.add_named_orchestrator(name, function)
    return durabletask.worker._OrchestrationExecutor(registry, logger, converter)


def replay_turn(
    functions: Mapping[str, Callable[..., Any]],
    converter: DataConverter,
    logger: logging.Logger,
    instance_id: str,
    before: Sequence[pb.HistoryEvent],
    inputs: Sequence[pb.HistoryEvent],
) -> Sequence[pb.OrchestratorAction]:
    """Run one turn of an orchestration after its history; return its actions. functions: by registered name."""
    actions: Sequence[pb.OrchestratorAction] = (
        _executor(functions, converter, logger).execute(instance_id, before, inputs).actions
    )
    return actions


@dataclass
class Replayed:
    """Result of the replay of a whole history.

    created: actions of the orchestrator by id, each with its place in the user's code.
    actions: actions that the engine does not have yet, or the end.
    ended: the code ended, failed, or was refused by the SDK.
    end: end of the code in words; empty if the SDK refused it, or it goes on.
    place: place at which the code failed, or waits; else of its last action. Places are `file:line`, or empty.
    """

    created: dict[int, tuple[pb.OrchestratorAction, str]] = field(default_factory=dict)
    actions: Sequence[pb.OrchestratorAction] = ()
    ended: bool = False
    end: str = ""
    place: str = ""


def replay_history(
    functions: Mapping[str, Callable[..., Any]],
    converter: DataConverter,
    logger: logging.Logger,
    instance_id: str,
    events: Sequence[pb.HistoryEvent],
) -> Replayed:
    """Run an orchestrator once through a whole history. functions: by registered name.

    The SDK compares the actions with those of the history, as it does for a running instance.
    """
    replayed = Replayed()
    watched = _Watched(replayed)
    executor = _executor({name: watched.function(each) for name, each in functions.items()}, converter, logger)
    started = [event for event in events if event.HasField("orchestratorStarted")]
    replayed.actions = executor.execute(instance_id, events, [started[-1]]).actions
    replayed.ended = watched.context is None or watched.context._is_complete
    replayed.end = watched.end
    replayed.place = watched.failed_at or _waiting_place(watched.generator) or watched.last
    return replayed


class _Watched:
    """Record of the actions of one orchestration, written when its code creates them."""

    def __init__(self, replayed: Replayed) -> None:
        self.created = replayed.created
        self.context: Any = None
        self.generator: Any = None
        self.end = ""
        self.failed_at = ""
        self.last = ""

    def function(self, orchestrator: Callable[..., Any]) -> Callable[..., Any]:
        def started(ctx: Any, given: Any) -> Any:
            _check(ctx, "_is_complete", "_pending_actions")
            self.context = ctx
            ctx._pending_actions = _Actions(self)
            try:
                result = orchestrator(ctx, given)
            except Exception as error:
                self._failed(error)
                raise
            if not isinstance(result, GeneratorType):
                self.end = "it ends"
                return result
            self.generator = result
            return self._run(result)

        started.__annotations__ = orchestrator.__annotations__
        return started

    def _run(self, generator: Any) -> Any:
        try:
            result = yield from generator
        except Exception as error:
            self._failed(error)
            raise
        self.end = "it ends"
        return result

    def _failed(self, error: Exception) -> None:
        """Note a failure of the code. The message of an exception may contain payload and is left out."""
        self.end = f"it fails with {type(error).__name__}"
        self.failed_at = _place([frame for frame, _ in walk_tb(error.__traceback__)][::-1])


class _Actions(dict[int, pb.OrchestratorAction]):
    """Actions that are not in the history yet. The SDK adds an action here when the code creates it."""

    def __init__(self, watched: _Watched) -> None:
        super().__init__()
        self._watched = watched

    def __setitem__(self, key: int, action: pb.OrchestratorAction) -> None:
        super().__setitem__(key, action)
        place = _place(frame for frame, _ in walk_stack(sys._getframe(1)))
        if not action.HasField("completeOrchestration"):
            self._watched.created[key] = action, place
            self._watched.last = place or self._watched.last


_LIBRARIES = tuple(f"{Path(package.__file__ or '').parent}{os.sep}" for package in (durabletask, bridge))


def _place(frames: Iterable[FrameType]) -> str:
    """`file:line` of the first frame of the user's code; empty without one."""
    for frame in frames:
        if not frame.f_code.co_filename.startswith((*_LIBRARIES, "<")):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return ""


def _waiting_place(generator: Any) -> str:
    """Place of the innermost `yield` of the user's code at which a generator waits."""
    place = ""
    while isinstance(generator, GeneratorType):
        if generator.gi_frame is not None:
            place = _place([generator.gi_frame]) or place
        generator = generator.gi_yieldfrom
    return place


class VirtualBackend(InMemoryOrchestrationBackend):
    """A sidecar servicer whose turns, timers, delayed starts and delayed signals follow `now`.

    `busy` is True while work remains at the present moment.
    """

    def __init__(self) -> None:
        _check(InMemoryOrchestrationBackend, *_OVERRIDDEN)
        super().__init__()
        self.now = datetime.now(UTC) + HEAD_START
        self.run_listeners: list[RunListener] = []
        """Functions called with the ids of the instances that have finished and of those that run."""
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._activities = 0
        self._parents: dict[str, tuple[str, int]] = {}
        self._held: set[str] = set()
        self._generations: dict[str, int] = {}

    def close(self) -> None:
        self.stop()
        with self._lock:
            for waiters in self._state_waiters.values():
                for waiter in waiters:
                    waiter.event.set()

    @property
    def busy(self) -> bool:
        """True while a turn, an activity or an entity operation waits or runs."""
        with self._lock:
            return bool(
                self._orchestration_queue
                or self._orchestration_in_flight
                or self._activities
                or self._entity_queue
                or self._entity_in_flight
            )

    def next_due(self) -> datetime | None:
        """Time at which the next timer, start or signal is due; None if there is none."""
        with self._lock:
            return self._due[0][0] if self._due else None

    def move_to(self, moment: datetime) -> None:
        """Advance time and start the work that has become due.

        Wait until the backend is not busy before the next move.
        """
        with self._lock:
            self.now = max(self.now, moment)
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()

    def _at(self, moment: datetime, action: Callable[[], None]) -> None:
        if moment <= self.now:
            action()
        else:
            heapq.heappush(self._due, (moment, next(self._order), action))

    def GetWorkItems(  # noqa: N802 - the protocol's name
        self, request: pb.GetWorkItemsRequest, context: Any
    ) -> Iterator[pb.WorkItem]:
        for item in super().GetWorkItems(request, context):
            if item.HasField("orchestratorRequest"):
                self._stamp(item.orchestratorRequest)
            yield item

    def _stamp(self, request: pb.OrchestratorRequest) -> None:
        """Set the turn's clock in the worker's request and in the future history."""
        with self._lock:
            instance = self._instances.get(request.instanceId)
            kept = [] if instance is None else instance.dispatched_events
            if any(event.HasField("executionStarted") for event in request.newEvents):
                self._generations[request.instanceId] = self._generations.get(request.instanceId, -1) + 1
            # Ids derive from the time: two generations at the same moment would create the same ids
            moment = self.now + timedelta(microseconds=self._generations.get(request.instanceId, 0))
            for event in (*request.newEvents, *kept):
                if event.HasField("orchestratorStarted"):
                    event.timestamp.FromDatetime(moment)

    def StartInstance(  # noqa: N802 - the protocol's name
        self, request: pb.CreateInstanceRequest, context: Any
    ) -> pb.CreateInstanceResponse:
        if not request.HasField("scheduledStartTimestamp"):
            return super().StartInstance(request, context)
        due = request.scheduledStartTimestamp.ToDatetime(tzinfo=UTC)
        with self._lock:
            self._held.add(request.instanceId)
            response = super().StartInstance(request, context)
            self._at(due, lambda: self._release(response.instanceId))
        return response

    def _release(self, instance_id: str) -> None:
        self._held.discard(instance_id)
        if instance_id in self._instances:
            self._enqueue_orchestration(instance_id)

    def _enqueue_orchestration(self, instance_id: str) -> None:
        instance = self._instances.get(instance_id)
        if instance is not None and not self._is_terminal_status(instance.status):
            for listener in self.run_listeners:
                listener((), (instance_id,))
        if instance_id not in self._held:
            super()._enqueue_orchestration(instance_id)

    def _process_create_timer_action(self, instance: OrchestrationInstance, action: pb.OrchestratorAction) -> None:
        due = action.createTimer.fireAt.ToDatetime(tzinfo=UTC)
        instance.history.append(helpers.new_timer_created_event(action.id, due))
        if instance.status == pb.ORCHESTRATION_STATUS_PENDING:
            instance.status = pb.ORCHESTRATION_STATUS_RUNNING
        self._at(due, lambda: self._fire(instance, action.id, due))

    def _fire(self, instance: OrchestrationInstance, timer_id: int, due: datetime) -> None:
        if self._instances.get(instance.instance_id) is instance and not self._is_terminal_status(instance.status):
            instance.pending_events.append(helpers.new_timer_fired_event(timer_id, due))
            self._enqueue_orchestration(instance.instance_id)

    def _schedule_delayed_entity_operation(self, entity_id: str, event: pb.HistoryEvent, fire_at: datetime) -> None:
        self._at(fire_at, lambda: self._queue_entity_operation(entity_id, event))

    def _process_schedule_task_action(self, instance: OrchestrationInstance, action: pb.OrchestratorAction) -> None:
        self._activities += 1
        super()._process_schedule_task_action(instance, action)

    def CompleteActivityTask(  # noqa: N802 - the protocol's name
        self, request: pb.ActivityResponse, context: Any
    ) -> pb.CompleteTaskResponse:
        with self._lock:
            response = super().CompleteActivityTask(request, context)
            self._activities -= 1
        return response

    def CompleteOrchestratorTask(  # noqa: N802 - the protocol's name
        self, request: pb.OrchestratorResponse, context: Any
    ) -> pb.CompleteTaskResponse:
        with self._lock:
            response = super().CompleteOrchestratorTask(request, context)
            self._notify_parent(request.instanceId)
        return response

    def _notify_waiters(self, instance_id: str) -> None:
        super()._notify_waiters(instance_id)
        instance = self._instances.get(instance_id)
        if instance is not None and self._is_terminal_status(instance.status):
            for listener in self.run_listeners:
                listener((instance_id,), ())

    def _watch_sub_orchestration(self, parent_instance_id: str, sub_instance_id: str, task_id: int) -> None:
        # The backend waits for every child in a thread, whose progress `busy` could not see
        self._parents[sub_instance_id] = (parent_instance_id, task_id)

    def _notify_parent(self, child_id: str) -> None:
        child = self._instances.get(child_id)
        if child is None or child_id not in self._parents or not self._is_terminal_status(child.status):
            return
        parent_id, task_id = self._parents.pop(child_id)
        parent = self._instances.get(parent_id)
        if parent is None or self._is_terminal_status(parent.status):
            return
        if child.status == pb.ORCHESTRATION_STATUS_COMPLETED:
            event = helpers.new_sub_orchestration_completed_event(task_id, child.output)
        else:
            details = child.failure_details
            why = details.errorMessage if details is not None else "it was terminated"
            event = helpers.new_sub_orchestration_failed_event(task_id, Exception(why))
        parent.pending_events.append(event)
        self._enqueue_orchestration(parent_id)

    def _wait_for_state(
        self, instance_id: str, predicate: Callable[[OrchestrationInstance], bool], timeout: float | None
    ) -> OrchestrationInstance | None:
        # The backend treats None and 0 as 30 seconds
        seconds = threading.TIMEOUT_MAX if timeout is None else max(timeout, 0.001)
        return super()._wait_for_state(instance_id, predicate, seconds)
