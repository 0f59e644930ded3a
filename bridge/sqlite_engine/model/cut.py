"""Point at which a rewind cuts a history, and the answers that the part before it still waits for. Pure.

A history is a sequence of turns. Each turn begins with `orchestratorStarted`, followed by the events that the turn took
and by the orchestrator's decisions. The cut is the beginning of the turn in which the instance failed. No decision
before the cut is taken back. The orchestrator therefore replays to that point, with all retries, timers and handled
failures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.turn import entity_id
from bridge.sqlite_engine.model.values import micros

Reference = int | str
"""Reference to a step of an instance: the id of a task, or the request id of an entity call."""

_SCHEDULED = ("taskScheduled", "subOrchestrationInstanceCreated")

_RESULTS = (
    "taskCompleted", "taskFailed", "subOrchestrationInstanceCompleted", "subOrchestrationInstanceFailed",
)  # fmt: skip

_DECISIONS = frozenset(
    {
        *_SCHEDULED, "timerCreated", "eventSent", "entityOperationSignaled", "entityOperationCalled",
        "entityLockRequested", "entityUnlockSent",
    }
)  # fmt: skip

_STEP_FAILED = ("TaskFailedError", "TaskFailedException")
"""Error types with which the SDKs report a failed step to its orchestrator."""

_CODE_CHANGED = ("NonDeterminismError", "OrchestratorNotRegisteredError")
"""Error types of a worker whose code does not fit the history. The failed turn runs again with the right code."""


class CannotRewind(Exception):
    """Reason why an instance cannot be rewound, with the remedy, as a sentence."""


@dataclass(slots=True)
class CriticalSection:
    """Critical section. `held` has the entities whose locks the section had at the cut."""

    request: pb.EntityLockRequestedEvent
    granted: bool = False
    held: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Open:
    """Steps of a history that have no answer yet."""

    activities: dict[int, pb.HistoryEvent] = field(default_factory=dict)
    children: dict[int, pb.HistoryEvent] = field(default_factory=dict)
    timers: dict[int, pb.HistoryEvent] = field(default_factory=dict)
    calls: dict[str, pb.HistoryEvent] = field(default_factory=dict)
    sections: dict[str, CriticalSection] = field(default_factory=dict)
    suspended: bool = False


@dataclass(slots=True)
class Cut:
    """Parts of a history that a rewind keeps, delivers again or repeats. `kept` is empty when the first turn failed.

    delivered: events that the next turn takes.
    asked: failed steps that are run again, with their failures.
    started: children that the failed turn had started.
    """

    kept: list[pb.HistoryEvent]
    delivered: list[pb.HistoryEvent]
    open: Open
    asked: dict[Reference, pb.TaskFailureDetails]
    pauses: dict[Reference, tuple[int, ...]]
    """Pauses of the retry policy between the attempts of the repeated steps, in microseconds."""
    started: list[str]
    by_worker: bool
    """True when the orchestrator failed, False when the engine ended the instance between two turns."""


def cut(history: list[pb.HistoryEvent], late: list[pb.HistoryEvent], *, by_worker: bool) -> Cut:
    """Cut the history of a failed instance.

    late: events that the last turn did not take.
    by_worker: True when the last turn failed, False when the engine ended the instance between two turns.
    Raises: CannotRewind.
    """
    last = history[-1].executionCompleted
    end = len(history) - 1
    begin = end
    if by_worker:
        begin = max(index for index in range(end) if history[index].HasField("orchestratorStarted"))
    kept, failed_turn = history[:begin], history[begin:end]
    if not any(event.HasField("orchestratorStarted") for event in kept):
        kept = []
    delivered = [event for event in failed_turn if _is_delivered(event)]
    void = _asked_by(failed_turn)
    delivered += [event for event in late if _answered(event) not in void and _failed(event) not in void]
    answered = {_answered(event) for event in delivered} - {None}
    failures = {reference: event for event in delivered if (reference := _failed(event)) is not None}
    handled = not failures
    for reference, event in _unhandled(kept, last.failureDetails).items():
        failures.setdefault(reference, event)
        handled = False
    if handled and by_worker and _raised_again(kept, last.failureDetails):
        raise CannotRewind(
            "it made further decisions after the failure of a step, and ended with that failure later: it handled the "
            "failure, or took it up too late to tell. Start it anew, or restart it"
        )
    taken_back = {id(event) for event in failures.values()}
    taken_back.update(id(event) for event in delivered if _failed(event) in failures)
    kept = [event for event in kept if id(event) not in taken_back]
    delivered = [event for event in delivered if id(event) not in taken_back]
    asked = {reference: _details(event) for reference, event in failures.items() if reference not in answered}
    return Cut(
        kept,
        delivered,
        open_of([*kept, *delivered]),
        asked,
        _pauses(history, asked),
        [
            event.subOrchestrationInstanceCreated.instanceId
            for event in failed_turn
            if event.HasField("subOrchestrationInstanceCreated")
        ],
        by_worker,
    )


def code_changed(failure: pb.TaskFailureDetails) -> bool:
    """True for the failure of an orchestrator whose code no longer fits its history."""
    return failure.errorType.rpartition(".")[2] in _CODE_CHANGED


def open_of(events: Iterable[pb.HistoryEvent]) -> Open:
    """Collect the steps among the events that have no answer."""
    found = Open()
    for event in events:
        kind = event.WhichOneof("eventType")
        if kind == "taskScheduled":
            found.activities[event.eventId] = event
        elif kind == "subOrchestrationInstanceCreated":
            found.children[event.eventId] = event
        elif kind == "timerCreated":
            found.timers[event.eventId] = event
        elif kind == "timerFired":
            found.timers.pop(event.timerFired.timerId, None)
        elif kind == "entityOperationCalled":
            found.calls[event.entityOperationCalled.requestId] = event
        elif kind == "entityLockRequested":
            request = event.entityLockRequested
            found.sections[request.criticalSectionId] = CriticalSection(request)
        elif kind == "entityLockGranted":
            section = found.sections.get(event.entityLockGranted.criticalSectionId)
            if section is not None:
                section.granted = True
                section.held = {entity_id(each) for each in section.request.lockSet}
        elif kind == "entityUnlockSent":
            _unlock(found, event.entityUnlockSent)
        elif kind in ("executionSuspended", "executionResumed"):
            found.suspended = kind == "executionSuspended"
        elif kind in ("entityOperationCompleted", "entityOperationFailed"):
            found.calls.pop(getattr(event, kind).requestId, None)
        elif kind in _RESULTS:
            task_id = getattr(event, kind).taskScheduledId
            found.activities.pop(task_id, None)
            found.children.pop(task_id, None)
    return found


def turn_times(events: Iterable[pb.HistoryEvent]) -> dict[int, int]:
    """Time of the turn that created each timer, in microseconds, by the timer's id."""
    found: dict[int, int] = {}
    turn = 0
    for event in events:
        if event.HasField("orchestratorStarted"):
            turn = micros(event.timestamp)
        elif event.HasField("timerCreated"):
            found[event.eventId] = turn
    return found


def _unlock(found: Open, sent: pb.EntityUnlockSentEvent) -> None:
    section = found.sections.get(sent.criticalSectionId)
    if section is not None:
        section.held.discard(entity_id(sent.targetInstanceId.value))
        if section.granted and not section.held:
            del found.sections[sent.criticalSectionId]


def _asked_by(turn: Iterable[pb.HistoryEvent]) -> set[Reference]:
    """References of the steps that a turn scheduled. Their results are void when the turn runs again."""
    return {
        event.entityOperationCalled.requestId if event.HasField("entityOperationCalled") else event.eventId
        for event in turn
        if event.WhichOneof("eventType") in (*_SCHEDULED, "entityOperationCalled")
    }


def _is_delivered(event: pb.HistoryEvent) -> bool:
    """False for decisions, and for the events with which each turn or instance begins."""
    kind = event.WhichOneof("eventType")
    return kind not in _DECISIONS and kind not in ("orchestratorStarted", "executionStarted")


def _answered(event: pb.HistoryEvent) -> Reference | None:
    """Reference of the step that the event completes, or None."""
    kind = event.WhichOneof("eventType")
    if kind == "taskCompleted":
        return event.taskCompleted.taskScheduledId
    if kind == "subOrchestrationInstanceCompleted":
        return event.subOrchestrationInstanceCompleted.taskScheduledId
    if kind == "entityOperationCompleted":
        return event.entityOperationCompleted.requestId
    return None


def _failed(event: pb.HistoryEvent) -> Reference | None:
    """Reference of the step that the event reports as failed, or None."""
    kind = event.WhichOneof("eventType")
    if kind == "taskFailed":
        return event.taskFailed.taskScheduledId
    if kind == "subOrchestrationInstanceFailed":
        return event.subOrchestrationInstanceFailed.taskScheduledId
    if kind == "entityOperationFailed":
        return event.entityOperationFailed.requestId
    return None


def _details(event: pb.HistoryEvent) -> pb.TaskFailureDetails:
    return getattr(event, str(event.WhichOneof("eventType"))).failureDetails  # type: ignore[no-any-return]


@dataclass(slots=True)
class _PastTurn:
    at: int
    failures: list[tuple[Reference, pb.HistoryEvent]] = field(default_factory=list)
    timers: list[int] = field(default_factory=list)
    """Times at which the timers of this turn fire, in microseconds."""
    repeated: list[Reference] = field(default_factory=list)
    """Further attempts of steps that earlier turns scheduled."""
    decided: bool = False
    """True when the turn made other decisions than timers and further attempts."""


def _turns(history: Iterable[pb.HistoryEvent]) -> Iterator[_PastTurn]:
    seen: set[int] = set()
    turn: _PastTurn | None = None
    for event in history:
        kind = event.WhichOneof("eventType")
        if kind == "orchestratorStarted":
            if turn is not None:
                yield turn
            turn = _PastTurn(micros(event.timestamp))
        elif turn is None:
            continue
        elif (reference := _failed(event)) is not None:
            turn.failures.append((reference, event))
        elif kind == "timerCreated":
            turn.timers.append(micros(event.timerCreated.fireAt))
        elif kind in _SCHEDULED and event.eventId in seen:
            # SDKs that retry by a policy repeat the id; SDKs that retry in the orchestrator take a new one.
            turn.repeated.append(event.eventId)
        elif kind in _DECISIONS:
            turn.decided = True
            if kind in _SCHEDULED:
                seen.add(event.eventId)
    if turn is not None:
        yield turn


def _final_failures(turns: Iterable[_PastTurn]) -> dict[Reference, tuple[int, pb.HistoryEvent]]:
    """Failures without a further attempt, with the number of their turn, in order."""
    found: dict[Reference, tuple[int, pb.HistoryEvent]] = {}
    for number, turn in enumerate(turns):
        for reference, event in turn.failures:
            found.pop(reference, None)
            found[reference] = (number, event)
        for reference in turn.repeated:
            found.pop(reference, None)
    return found


def _unhandled(kept: list[pb.HistoryEvent], cause: pb.TaskFailureDetails) -> dict[Reference, pb.HistoryEvent]:
    """Failures of earlier turns that ended the instance later.

    An example is one failed step of a fan-out that waits for the other steps. The failure of the instance names such a
    failure, and only further attempts of other steps were decided after it. Later failures count as unhandled too,
    because the orchestrator was still waiting.
    """
    turns = list(_turns(kept))
    final = _final_failures(turns)
    quiet = len(turns)
    while quiet and _is_quiet(turns[quiet - 1], final):
        quiet -= 1
    recent = {reference: event for reference, (number, event) in final.items() if number >= quiet}
    named = _named(recent, cause)
    first = next((index for index, reference in enumerate(recent) if reference in named), len(recent))
    return dict(list(recent.items())[first:])


def _is_quiet(turn: _PastTurn, final: dict[Reference, tuple[int, pb.HistoryEvent]]) -> bool:
    """True when the turn only scheduled further attempts of failed steps."""
    retried = sum(1 for reference, event in turn.failures if final.get(reference, (0, None))[1] is not event)
    return not turn.decided and len(turn.timers) <= retried


def _raised_again(kept: list[pb.HistoryEvent], cause: pb.TaskFailureDetails) -> bool:
    """True when the instance failed with the failure of a step that came before other decisions.

    An error of the orchestrator's own code is another failure, even when it was raised while a step's failure was
    handled.
    """
    if cause.errorType.rpartition(".")[2] not in _STEP_FAILED:
        return False
    return bool(_named({reference: event for reference, (_, event) in _final_failures(_turns(kept)).items()}, cause))


def _named(failures: dict[Reference, pb.HistoryEvent], cause: pb.TaskFailureDetails) -> set[Reference]:
    """References of the steps whose failures caused the instance's failure; those named by id where any are."""
    chain = [cause]
    while chain[-1].HasField("innerFailure"):
        chain.append(chain[-1].innerFailure)
    messages = [each.errorMessage for each in chain if each.errorType.rpartition(".")[2] in _STEP_FAILED]
    by_id = {
        reference
        for reference, event in failures.items()
        if any(message.endswith(f" task #{reference} failed: {_details(event).errorMessage}") for message in messages)
    }
    if by_id:
        return by_id
    kinds = {(each.errorType, each.errorMessage) for each in chain}
    return {
        reference
        for reference, event in failures.items()
        if (_details(event).errorType, _details(event).errorMessage) in kinds
    }


def _pauses(history: list[pb.HistoryEvent], steps: Collection[Reference]) -> dict[Reference, tuple[int, ...]]:
    """Pauses between the attempts of the steps, in microseconds, as their retry policies made them."""
    found: dict[Reference, tuple[int, ...]] = {}
    failed: dict[Reference, _PastTurn] = {}
    for turn in _turns(history):
        failed.update((reference, turn) for reference, _ in turn.failures if reference in steps)
        for reference in turn.repeated:
            before = failed.pop(reference, None)
            if before is not None:
                # The timer of a retry is one of the timers that the turn with the failure created, and has fired by
                # now.
                lengths = [fire_at - before.at for fire_at in before.timers if fire_at <= turn.at]
                pause = max(lengths, default=turn.at - before.at)
                found[reference] = (*found.get(reference, ()), pause)
    return found
