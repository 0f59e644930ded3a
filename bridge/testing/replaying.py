"""Replay tests: a recorded history runs through the current code, turn by turn, and every decision is compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from durabletask import task
from durabletask.serialization import DataConverter as AnyConverter

from bridge.core.answers import ANSWER, PUBLISH_ACTIVITY
from bridge.engines.recording import Recording
from bridge.testing.sdk_internals import replay_turn
from bridge.workflow.converter import DataConverter
from bridge.workflow.messages import message_aware

QUIET = logging.getLogger("bridge.sdk.replay")
QUIET.setLevel(logging.ERROR)

DECISIONS = frozenset(
    {
        "taskScheduled",
        "timerCreated",
        "subOrchestrationInstanceCreated",
        "eventSent",
        "entityOperationCalled",
        "entityOperationSignaled",
        "entityLockRequested",
        "entityUnlockSent",
        "executionCompleted",
        "continueAsNew",
    }
)
"""Events caused by an orchestrator's own actions. All others come from outside."""


class ReplayMismatch(AssertionError):
    """Raised when the current code decides differently from the recording. Running instances would break."""


@dataclass
class _RecordedTurn:
    """One turn of a recording.

    before: history before the turn.
    inputs: events that the orchestrator received.
    decisions: recorded events of its actions.
    """

    before: list[pb.HistoryEvent]
    inputs: list[pb.HistoryEvent] = field(default_factory=list)
    decisions: list[pb.HistoryEvent] = field(default_factory=list)


def replay(
    recording: Recording | str | Path,
    orchestrator: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    *,
    data_converter: AnyConverter | None = None,
) -> None:
    """Run a recorded history through the code, turn by turn. Returns if every decision equals the recorded one.

    recording: a Recording, or the path of a file written by `bridge instances export`.
    orchestrator: the function, or functions by registered name.

    The comparison covers activities, sub-orchestrations, timers, sent events and entity calls with their names,
    inputs and times, and the end with its status and output. It leaves out the versions of sub-orchestrations, which
    the worker may add. The last turn of an unfinished instance may decide more
    than was recorded.
    Raises: ReplayMismatch, which names the turn and both decisions; UnreadableRecording; LookupError if the recording
    is of another orchestration.
    """
    if not isinstance(recording, Recording):
        recording = Recording.from_json(Path(recording).read_bytes())
    functions = orchestrator if isinstance(orchestrator, Mapping) else {task.get_name(orchestrator): orchestrator}
    if recording.orchestration not in functions:
        raise LookupError(f"the recording is of {recording.orchestration!r}; given: {', '.join(functions)}")
    aware = {name: message_aware(function) for name, function in functions.items()}
    converter = data_converter or DataConverter()
    turns = list(_turns(recording.events))
    for number, turn in enumerate(turns, 1):
        actions = replay_turn(aware, converter, QUIET, recording.instance_id, turn.before, turn.inputs)
        decided = [decision_of_action(action) for action in actions]
        recorded = [decision_of_event(event) for event in turn.decisions]
        if number == len(turns) and not _finished(turn):
            # Its next decisions may be unknown, but an end here would differ from the recording
            more = decided[len(recorded) :]
            decided = decided[: len(recorded)] + [each for each in more if each[0] == "end"]
        if decided != recorded:
            raise ReplayMismatch(_difference(recording, number, len(turns), recorded, decided, _failure(actions)))


def _turns(events: Sequence[pb.HistoryEvent]) -> Iterator[_RecordedTurn]:
    turn: _RecordedTurn | None = None
    for position, event in enumerate(events):
        kind = event.WhichOneof("eventType")
        if kind == "orchestratorStarted":
            if turn is not None:
                yield turn
            turn = _RecordedTurn(list(events[:position]))
        if turn is None or kind == "orchestratorCompleted":
            continue
        (turn.decisions if kind in DECISIONS else turn.inputs).append(event)
    if turn is not None:
        yield turn


def _finished(turn: _RecordedTurn) -> bool:
    return any(event.HasField("executionCompleted") or event.HasField("continueAsNew") for event in turn.decisions)


def decision_of_event(event: pb.HistoryEvent) -> tuple[Any, ...]:
    """Recorded decision in comparable form."""
    kind = event.WhichOneof("eventType")
    detail = getattr(event, str(kind))
    if kind == "taskScheduled":
        return (event.eventId, "activity", detail.name, _input(detail))
    if kind == "timerCreated":
        return (event.eventId, "timer", detail.fireAt.ToJsonString())
    if kind == "subOrchestrationInstanceCreated":
        return (
            event.eventId,
            "sub-orchestration",
            detail.name,
            detail.instanceId,
            detail.input.value,
        )
    if kind == "eventSent":
        return (event.eventId, "event", detail.instanceId, detail.name, detail.input.value)
    if kind == "executionCompleted":
        return ("end", pb.OrchestrationStatus.Name(detail.orchestrationStatus), detail.result.value)
    if kind == "continueAsNew":
        return ("end", "ORCHESTRATION_STATUS_CONTINUED_AS_NEW", detail.input.value)
    return (event.eventId, "entity", kind, *_entity(kind, detail))


def decision_of_action(action: pb.OrchestratorAction) -> tuple[Any, ...]:
    """Decision of the current code in the same form."""
    kind = action.WhichOneof("orchestratorActionType")
    detail = getattr(action, str(kind))
    if kind == "scheduleTask":
        return (action.id, "activity", detail.name, _input(detail))
    if kind == "createTimer":
        return (action.id, "timer", detail.fireAt.ToJsonString())
    if kind == "createSubOrchestration":
        return (
            action.id,
            "sub-orchestration",
            detail.name,
            detail.instanceId,
            detail.input.value,
        )
    if kind == "sendEvent":
        return (action.id, "event", detail.instance.instanceId, detail.name, detail.data.value)
    if kind == "completeOrchestration":
        return ("end", pb.OrchestrationStatus.Name(detail.orchestrationStatus), detail.result.value)
    if kind == "sendEntityMessage":
        inner = str(detail.WhichOneof("EntityMessageType"))
        return (action.id, "entity", inner, *_entity(inner, getattr(detail, inner)))
    return (action.id, str(kind))


def _input(scheduled: pb.TaskScheduledEvent | pb.ScheduleTaskAction) -> str:
    """Input of an activity, without a redundant member that earlier versions did not write."""
    text: str = scheduled.input.value
    if scheduled.name != PUBLISH_ACTIVITY or f'"{ANSWER}"' not in text:
        return text
    return json.dumps({name: value for name, value in json.loads(text).items() if name != ANSWER})


def _entity(kind: str | None, detail: Any) -> tuple[Any, ...]:
    """Comparable parts of an entity event. Request ids are left out, because some differ in every replay."""
    if kind in ("entityOperationCalled", "entityOperationSignaled"):
        return (detail.targetInstanceId.value, detail.operation, detail.input.value)
    if kind == "entityLockRequested":
        return tuple(detail.lockSet)
    return (detail.targetInstanceId.value,)


def _failure(actions: Sequence[pb.OrchestratorAction]) -> str:
    """Failure of the current code, or an empty text. Not part of the comparison."""
    for action in actions:
        details = action.completeOrchestration.failureDetails
        if action.completeOrchestration.HasField("failureDetails"):
            return f"{details.errorType.rpartition('.')[2]}: {details.errorMessage}"
    return ""


def _difference(
    recording: Recording,
    number: int,
    count: int,
    recorded: list[tuple[Any, ...]],
    decided: list[tuple[Any, ...]],
    failure: str,
) -> str:
    lines = [f"{recording.orchestration} ({recording.instance_id}), turn {number} of {count}, decides differently:"]
    for position in range(max(len(recorded), len(decided))):
        before = recorded[position] if position < len(recorded) else None
        now = decided[position] if position < len(decided) else None
        if before != now:
            lines.append(f"  recorded: {_words(before)}")
            lines.append(f"  now:      {_words(now)}{failure if now is not None and now[0] == 'end' else ''}")
    lines.append("instances that are running would break: make it a new version, or a new orchestration")
    return "\n".join(lines)


def _words(decision: tuple[Any, ...] | None) -> str:
    return "nothing" if decision is None else " ".join(str(part) for part in decision)
