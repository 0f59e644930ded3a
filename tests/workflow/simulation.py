"""One orchestration on the SDK's own replay executor, in virtual time: no sleep, and every run is repeatable.

Every turn is executed twice from the whole history, as after a crash between decision and commit, and once in a session
that continues from the turn before; all results must agree. A test can request more crashes: lost turns, repeated later
with newly arrived events, and activity runs with lost results.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import _OrchestrationExecutor, _Registry

from bridge.engines.embedded.session import Session
from bridge.sqlite_engine.hub.work_items import TurnRequest
from bridge.workflow import DataConverter, message_aware

START = datetime(2031, 5, 1)  # noqa: DTZ001 -- the SDK's clock is naive UTC
QUIET = logging.getLogger("tests.simulation")
QUIET.setLevel(logging.CRITICAL)

Answer = tuple[float, Any]
"""Seconds that an activity takes, and its result or the exception that it raises."""


@dataclass(frozen=True)
class Scheduled:
    """Activity or child that an orchestrator scheduled, and its time (seconds from the start).

    turn: number of the deciding turn. over, answer: time and value of the answer that counts. instance_id: of a child.
    """

    at: float
    name: str
    input: Any
    turn: int = 0
    over: float = 0.0
    answer: Any = None
    instance_id: str = ""


@dataclass
class Running:
    """Child that may still be running. done: its pending answer."""

    scheduled: int
    action: int
    done: pb.HistoryEvent


@dataclass
class Simulation:
    """Simulation of an orchestration. Entities are not simulated.

    answers: effect of the activity or child with a name and an input. received: reaction of a child to an event; None
    when the child ignores it. lost_turns: one entry per executed turn: None, or the seconds between the crash that lost
    the turn and its repetition. lost_runs: the same for each run of an activity, which then has had its effect.
    """

    orchestrator: Callable[..., Any]
    answers: Callable[[str, Any], Answer]
    input: Any = None
    instance_id: str = "simulated"
    together: float = 0.0
    """Events that are due within this number of seconds reach the orchestrator in one turn."""
    received: Callable[[str, Any], Answer | None] = lambda name, data: None
    lost_turns: Iterator[float | None] = field(default_factory=lambda: iter(()))
    lost_runs: Iterator[float | None] = field(default_factory=lambda: iter(()))
    history: list[pb.HistoryEvent] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    """Number of history events before and after each turn."""
    decisions: list[list[bytes]] = field(default_factory=list)
    generations: list[pb.CompleteOrchestrationAction] = field(default_factory=list)
    """Final action of each generation but the last."""
    scheduled: list[Scheduled] = field(default_factory=list)
    sent: list[tuple[str, str, Any]] = field(default_factory=list)
    """Events to children: instance, name, data."""
    statuses: list[Any] = field(default_factory=list)
    shown: list[tuple[int, Any]] = field(default_factory=list)
    """Turn and custom status."""
    status: str = "RUNNING"
    output: Any = None
    failure: str = ""
    now: float = 0.0
    _due: list[tuple[float, int, pb.HistoryEvent]] = field(default_factory=list)
    _number: int = 0
    _children: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._registry = _Registry()
        self._registry.add_named_orchestrator("simulated", message_aware(self.orchestrator))
        self._begin(self.input)

    def _begin(self, given: Any) -> None:
        self._at(self.now, helpers.new_execution_started_event("simulated", self.instance_id, json.dumps(given)))

    def event(self, at: float, name: str, data: Any = None) -> None:
        self._at(at, helpers.new_event_raised_event(name, json.dumps(data)))

    def run(self, max_turns: int = 2000) -> Simulation:
        """Run until the orchestration has finished, or no event is due."""
        while self._due and self.status == "RUNNING":
            assert len(self.turns) < max_turns, "it never ends"
            self.turn()
        return self

    def turn(self) -> None:
        self.now = max(self.now, self._due[0][0])
        arrived: list[pb.HistoryEvent] = []
        new = self._arrive(arrived)
        while (down := next(self.lost_turns, None)) is not None:
            self.execute(self.history, new)
            self.now += down
            new = self._arrive(arrived)
        actions, status = self.execute(self.history, new)
        again, _ = self.execute(self.history, new)
        decided = _decided(actions)
        assert decided == _decided(again)
        assert self._go_on(new) == (decided, status)
        self.turns.append((len(self.history), len(self.history) + len(new)))
        self.decisions.append(decided)
        self.history += new
        if status:
            self.statuses.append(json.loads(status))
            self.shown.append((len(self.turns), self.statuses[-1]))
        for action in actions:
            self._act(action)

    def _arrive(self, arrived: list[pb.HistoryEvent]) -> list[pb.HistoryEvent]:
        """Return the events of the next turn: those that arrived before, and those that arrive until now."""
        last = self.now + self.together
        while self._due and self._due[0][0] <= last:
            at, _, event = heapq.heappop(self._due)
            self.now = max(self.now, at)
            arrived.append(event)
        return [helpers.new_orchestrator_started_event(START + timedelta(seconds=self.now)), *arrived]

    def execute(
        self, old: list[pb.HistoryEvent], new: list[pb.HistoryEvent]
    ) -> tuple[list[pb.OrchestratorAction], str | None]:
        executor = _OrchestrationExecutor(self._registry, QUIET, DataConverter())
        result = executor.execute(self.instance_id, old, new)
        return list(result.actions), result.encoded_custom_status

    def _go_on(self, new: list[pb.HistoryEvent]) -> tuple[list[bytes], str | None]:
        """Execute the turn in a session."""
        request = TurnRequest(self.instance_id, list(self.history), new, pb.OrchestrationTraceContext(), "", 0)
        if self.history:
            assert self._session.follows(request)  # type: ignore[has-type]  # mypy meets it too early
        else:
            self._session = Session(self._registry, QUIET, DataConverter())
        result = self._session.run(request)
        return _decided(result.actions), result.encoded_custom_status

    def replay(self) -> None:
        """Execute every turn once more, from the present history; the decisions must be the same."""
        for (before, after), decided in zip(self.turns, self.decisions, strict=True):
            actions, _ = self.execute(self.history[:before], self.history[before:after])
            assert _decided(actions) == decided

    def _continue_as_new(self, done: pb.CompleteOrchestrationAction) -> None:
        """Begin the next generation: an empty history, the carried events, and the events that have not arrived yet."""
        self.replay()
        self.status, self.output = "RUNNING", None
        self.generations.append(done)
        for kept in (self.history, self.turns, self.decisions):
            kept.clear()
        self._due = [each for each in self._due if each[2].HasField("eventRaised")]
        heapq.heapify(self._due)
        arrived = self._due
        self._due = []
        self._begin(json.loads(done.result.value))
        for event in done.carryoverEvents:
            self._at(self.now, event)
        for at, _, event in sorted(arrived, key=lambda each: each[:2]):
            self._at(at, event)

    def _at(self, at: float, event: pb.HistoryEvent) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, event))

    def _act(self, action: pb.OrchestratorAction) -> None:
        if action.HasField("scheduleTask"):
            name, text = action.scheduleTask.name, action.scheduleTask.input.value
            self.history.append(helpers.new_task_scheduled_event(action.id, name, text))
            given = json.loads(text) if text else None
            takes, answer = self.answers(name, given)
            while (down := next(self.lost_runs, None)) is not None:
                again, answer = self.answers(name, given)
                takes += down + again
            self._scheduled(name, given, takes, answer)
            if isinstance(answer, Exception):
                event = helpers.new_task_failed_event(action.id, answer)
            else:
                event = helpers.new_task_completed_event(action.id, json.dumps(answer))
            self._at(self.now + takes, event)
        elif action.HasField("createSubOrchestration"):
            child = action.createSubOrchestration
            self.history.append(
                helpers.new_sub_orchestration_created_event(action.id, child.name, child.instanceId, child.input.value)
            )
            assert child.instanceId not in self._children
            given = json.loads(child.input.value)
            takes, answer = self.answers(child.name, given)
            self._scheduled(child.name, given, takes, answer, child.instanceId)
            self._child(child.instanceId, len(self.scheduled) - 1, action.id)
        elif action.HasField("sendEvent"):
            target, name = action.sendEvent.instance.instanceId, action.sendEvent.name
            data = json.loads(action.sendEvent.data.value)
            self.history.append(helpers.new_event_sent_event(action.id, target, action.sendEvent.data.value, name=name))
            self.sent.append((target, name, data))
            self._notify(target, name, data)
        elif action.HasField("createTimer"):
            due = action.createTimer.fireAt.ToDatetime()
            self.history.append(helpers.new_timer_created_event(action.id, due))
            seconds = (due - START).total_seconds()
            self._at(max(self.now, seconds), helpers.new_timer_fired_event(action.id, due))
        elif action.HasField("completeOrchestration"):
            done = action.completeOrchestration
            self.status = pb.OrchestrationStatus.Name(done.orchestrationStatus).removeprefix("ORCHESTRATION_STATUS_")
            self.output = json.loads(done.result.value) if done.result.value else None
            if self.status == "CONTINUED_AS_NEW":
                self._continue_as_new(done)
            self.failure = f"{done.failureDetails.errorType}: {done.failureDetails.errorMessage}"
        else:
            raise AssertionError(f"not simulated: {action}")

    def _scheduled(self, name: str, given: Any, takes: float, answer: Any, instance_id: str = "") -> None:
        turn, over = len(self.turns), self.now + takes
        self.scheduled.append(Scheduled(self.now, name, given, turn, over, answer, instance_id))

    def _child(self, instance_id: str, scheduled: int, action: int) -> None:
        """Schedule the answer of the child for the time of its end."""
        one = self.scheduled[scheduled]
        if isinstance(one.answer, Exception):
            done = helpers.new_sub_orchestration_failed_event(action, one.answer)
        else:
            done = helpers.new_sub_orchestration_completed_event(action, json.dumps(one.answer))
        self._children[instance_id] = Running(scheduled, action, done)
        self._at(one.over, done)

    def _notify(self, instance_id: str, name: str, data: Any) -> None:
        child = self._children[instance_id]
        waiting = [each for each in self._due if each[2] is not child.done]
        one = self.scheduled[child.scheduled]
        reaction = self.received(name, one.input)
        if len(waiting) == len(self._due) or reaction is None or self.now + reaction[0] >= one.over:
            return
        self._due = waiting
        heapq.heapify(self._due)
        self.scheduled[child.scheduled] = replace(one, over=self.now + reaction[0], answer=reaction[1])
        self._child(instance_id, child.scheduled, child.action)


def _decided(actions: Sequence[pb.OrchestratorAction]) -> list[bytes]:
    """Return the actions in a comparable form, without stack traces, which depend on the executor."""
    found = []
    for action in actions:
        kept = pb.OrchestratorAction()
        kept.CopyFrom(action)
        if kept.completeOrchestration.HasField("failureDetails"):
            kept.completeOrchestration.failureDetails.ClearField("stackTrace")
        found.append(kept.SerializeToString(deterministic=True))
    return found
