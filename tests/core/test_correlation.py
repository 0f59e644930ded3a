"""Decision table of correlation: every command, state and policy; and a comparison with an engine model under races."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.commands import (
    Cancel,
    Command,
    OnExisting,
    OnFinished,
    RaiseEvent,
    Resume,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Suspend,
    Terminate,
)
from bridge.core.deduplication import DeduplicationWindow
from bridge.core.instance_protocol import (
    ENDS,
    UNKNOWN,
    CallResult,
    InstanceFacts,
    InstanceState,
    NextStep,
    may_replace,
    next_step,
    started_by,
)
from bridge.core.origin import CommandKey, MessageOrigin, Unwrapped
from tests.kit.examples import examples

SCHEDULES = [
    ScheduleOrchestration("o", "i", on_existing=policy, event="e", on_finished=late)
    for policy, late in itertools.product(OnExisting, OnFinished)
]
STARTS = [*SCHEDULES, *(StartOrRaise("o", "i", "e", on_finished=late) for late in OnFinished)]
EVENTS = [RaiseEvent("i", "e", on_finished=late) for late in OnFinished]
CONTROLS = [Terminate("i"), Suspend("i"), Resume("i")]
COMMANDS: list[Command] = [*STARTS, *EVENTS, Cancel("i"), *CONTROLS, SignalEntity("e", "k", "op")]  # type: ignore[list-item]  # wider than its annotation, on purpose


def every_knowledge() -> list[InstanceFacts]:
    lives = (None, *InstanceState)
    return [
        InstanceFacts(
            result, state, started and state is not None, has_received if state is InstanceState.FINISHED else None
        )
        for result, state, started, has_received in itertools.product(
            (None, *CallResult), lives, (False, True), (None, False, True)
        )
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_state_has_a_move_that_is_safe(command: Command) -> None:
    for known, confirms in itertools.product(every_knowledge(), (False, True)):
        move = next_step(command, known, confirms)
        if move is NextStep.REPLACE:
            # Only for an instance that was read and searched, and has not seen the command.
            assert (known.state, known.has_received) == (InstanceState.FINISHED, False)
            assert _restarts(command)
        if move is NextStep.FINISHED and not isinstance(command, Terminate | Suspend | Resume):
            assert known.has_received is False
            assert not _restarts(command)
        if move in (NextStep.START, NextStep.EXISTS):
            assert isinstance(command, ScheduleOrchestration | StartOrRaise)
        if move is NextStep.START:
            assert known.result is None or known.state is InstanceState.MISSING
        if move is NextStep.UNSURE:
            assert known.result is CallResult.UNSURE
        if move is NextStep.RAISE:
            assert not isinstance(command, Terminate | Suspend | Resume | SignalEntity)
            assert known.state is not InstanceState.FINISHED or known.result in (None, CallResult.STARTED)
        if move is NextStep.DONE and not isinstance(command, SignalEntity):
            assert known.result in (CallResult.STARTED, CallResult.RAISED, CallResult.CALLED, CallResult.UNSURE)


@pytest.mark.parametrize("command", STARTS, ids=str)
@pytest.mark.parametrize("state", [InstanceState.RUNNING, InstanceState.FINISHED])
@pytest.mark.parametrize("confirms", [False, True])
def test_the_same_message_is_always_a_repeat(command: Command, state: InstanceState, confirms: bool) -> None:
    assert next_step(command, InstanceFacts(CallResult.EXISTS, state, True), confirms) is NextStep.REPEATED
    assert next_step(command, InstanceFacts(CallResult.UNSURE, state, True), confirms) is NextStep.DONE


OTHER_MESSAGE = {
    # on_existing, state of the instance: decision about another message
    (OnExisting.IGNORE, InstanceState.RUNNING): NextStep.EXISTS,
    (OnExisting.IGNORE, InstanceState.FINISHED): NextStep.EXISTS,
    (OnExisting.DEAD_LETTER, InstanceState.RUNNING): NextStep.EXISTS,
    (OnExisting.DEAD_LETTER, InstanceState.FINISHED): NextStep.EXISTS,
    (OnExisting.RAISE, InstanceState.RUNNING): NextStep.RAISE,
    (OnExisting.RAISE, InstanceState.FINISHED): NextStep.SEARCH,
    (OnExisting.RESTART, InstanceState.RUNNING): NextStep.EXISTS,
    (OnExisting.RESTART, InstanceState.FINISHED): NextStep.SEARCH,
}


@pytest.mark.parametrize("command", SCHEDULES, ids=str)
@pytest.mark.parametrize("state", [InstanceState.RUNNING, InstanceState.FINISHED])
def test_on_existing(command: ScheduleOrchestration, state: InstanceState) -> None:
    assert (
        next_step(command, InstanceFacts(CallResult.EXISTS, state), True) is OTHER_MESSAGE[command.on_existing, state]
    )


@pytest.mark.parametrize(
    "command", [*EVENTS, Cancel("i"), *(StartOrRaise("o", "i", "e", on_finished=o) for o in OnFinished)], ids=str
)
@pytest.mark.parametrize("result", [CallResult.RAISED, CallResult.FINISHED])
def test_on_finished(command: RaiseEvent | Cancel | StartOrRaise, result: CallResult) -> None:
    late = InstanceFacts(result, InstanceState.FINISHED)
    assert next_step(command, late, False) is NextStep.SEARCH
    end = NextStep.REPLACE if command.on_finished is OnFinished.RESTART else NextStep.FINISHED
    assert next_step(command, InstanceFacts(result, InstanceState.FINISHED, has_received=False), False) is end
    end = NextStep.DONE if result is CallResult.RAISED else NextStep.REPEATED
    assert next_step(command, InstanceFacts(result, InstanceState.FINISHED, has_received=True), False) is end


@pytest.mark.parametrize("command", CONTROLS, ids=str)
def test_control_verbs_look_before_they_call(command: Command) -> None:
    moves = {
        UNKNOWN: NextStep.READ,
        InstanceFacts(state=InstanceState.MISSING): NextStep.MISSING,
        InstanceFacts(state=InstanceState.FINISHED): NextStep.FINISHED,
        InstanceFacts(state=InstanceState.RUNNING): NextStep.CALL,
        InstanceFacts(CallResult.CALLED): NextStep.DONE,
        InstanceFacts(CallResult.MISSING): NextStep.MISSING,
    }
    assert {known: next_step(command, known, True) for known in moves} == moves


def test_a_signal_is_one_call() -> None:
    command = SignalEntity("e", "k", "op")
    assert [next_step(command, known, False) for known in (UNKNOWN, InstanceFacts(CallResult.CALLED))] == [
        NextStep.CALL,
        NextStep.DONE,
    ]


def _restarts(command: Command) -> bool:
    if isinstance(command, ScheduleOrchestration) and command.on_existing is OnExisting.RESTART:
        return True
    raising = not isinstance(command, ScheduleOrchestration) or command.on_existing is OnExisting.RAISE
    return raising and getattr(command, "on_finished", None) is OnFinished.RESTART


A, B, C = (MessageOrigin(name, "r") for name in "abc")


def memory(*origins: MessageOrigin) -> dict[str, str]:
    seen = DeduplicationWindow()
    for each in origins:
        seen.add(each.key)
    return {"seen": seen.text()}


def test_who_started_an_instance() -> None:
    assert started_by(Unwrapped(1, A), A)
    assert not started_by(Unwrapped(1, A), B)
    assert started_by(Unwrapped(1, A, memory(B, C)), C)
    assert not started_by(Unwrapped(1), A)
    assert not started_by(Unwrapped(1, A), None)


def test_who_may_replace_a_finished_instance() -> None:
    assert may_replace(Unwrapped(1), Unwrapped(1, A))
    assert may_replace(Unwrapped(1, A), Unwrapped(1))
    assert may_replace(Unwrapped(1, A), Unwrapped(1, B))  # another client's own
    assert may_replace(Unwrapped(1, A), Unwrapped(1, B, memory(A)))
    assert not may_replace(Unwrapped(1, A), Unwrapped(1, B, memory(C)))  # decided before A began
    assert not may_replace(Unwrapped(1, A), Unwrapped(1, A, memory(B)))
    assert not may_replace(Unwrapped(1, B, memory(A)), Unwrapped(1, A, memory(B)))


# Engine model for races


@dataclass
class Run:
    """Run of the instance. memory: keys that its inbox has at the start. events: keys in its history, in order."""

    start: CommandKey
    memory: frozenset[CommandKey]
    events: list[CommandKey] = field(default_factory=list)
    pending: list[CommandKey] = field(default_factory=list)
    finished: bool = False

    def seen(self, key: CommandKey) -> int:
        """Return how often an orchestration with an inbox sees the message, as its start or as an event."""
        return int(self.start == key) + int(key in self.events and key != self.start and key not in self.memory)


@dataclass
class Engine:
    """Engine model.

    confirms: an accepted event is in the history before the run can end, and a replacement is decided in the engine.
    lost: keys that an engine without confirmation accepted for a run that ended then, or that had ended and was then
    replaced. A look after the raise finds most of them. It misses those whose run ends after the look, or is replaced
    before it: there the promise ends on such an engine.
    """

    confirms: bool
    run: Run | None = None
    past: list[Run] = field(default_factory=list)
    lost: set[CommandKey] = field(default_factory=set)

    def finish(self) -> None:
        if self.run is not None:
            self.run.finished = True
            self.lost.update(self.run.pending)

    def turn(self) -> None:
        if self.run is not None and not self.run.finished:
            self.run.events += self.run.pending
            self.run.pending.clear()

    def start(self, key: CommandKey, replace: bool, memory: frozenset[CommandKey]) -> CallResult:
        run = self.run
        if run is not None:
            known = self.confirms and (run.start == key or key in run.memory or (replace and run.start not in memory))
            if not replace or not run.finished or known:
                return CallResult.EXISTS
            self.past.append(run)
            self.lost.update(run.pending)
        self.run = Run(key, memory)
        return CallResult.STARTED

    def event(self, key: CommandKey) -> CallResult:
        run = self.run
        if run is None:
            return CallResult.MISSING
        if self.confirms and run.finished:
            return CallResult.FINISHED
        (run.events if self.confirms else run.pending).append(key)
        return CallResult.RAISED


@dataclass
class Delivery:
    """Delivery of a command on its way through the table."""

    engine: Engine
    command: Command
    key: CommandKey
    known: InstanceFacts = UNKNOWN
    found: frozenset[CommandKey] = frozenset()
    end: NextStep | None = None

    def step(self) -> None:
        if self.end is not None:
            return
        engine, run = self.engine, self.engine.run
        move = next_step(self.command, self.known, engine.confirms)
        if move in ENDS:
            self.end = move
        elif move is NextStep.START:
            self.known = InstanceFacts(engine.start(self.key, False, frozenset()))
        elif move is NextStep.REPLACE:
            event = isinstance(self.command, RaiseEvent)
            key = (self.key[0], self.key[1], -1) if event else self.key
            self.known = InstanceFacts(engine.start(key, True, self.found))
        elif move is NextStep.RAISE:
            self.known = InstanceFacts(engine.event(self.key))
        elif move is NextStep.READ:
            if run is None:
                self.known = InstanceFacts(self.known.result, InstanceState.MISSING)
            else:
                mine = run.start == self.key or self.key in run.memory
                state = InstanceState.FINISHED if run.finished else InstanceState.RUNNING
                starts = isinstance(self.command, ScheduleOrchestration | StartOrRaise)
                self.known = InstanceFacts(self.known.result, state, mine and starts)
        elif run is None or not run.finished:
            self.known = InstanceFacts(self.known.result)  # another run meanwhile, with another history
        else:
            assert move is NextStep.SEARCH
            self.found = run.memory | {run.start} | set(run.events)
            has_received, again = self.key in self.found, (self.key[0], self.key[1], -1) in self.found
            self.known = InstanceFacts(
                self.known.result, InstanceState.FINISHED, self.known.started_by_command, has_received, again
            )


RACERS = [command for command in COMMANDS if isinstance(command, ScheduleOrchestration | StartOrRaise | RaiseEvent)]


@settings(max_examples=examples(400), deadline=None)
@given(
    st.booleans(),
    st.lists(st.sampled_from(RACERS), min_size=1, max_size=3),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, "finish", "turn"]), max_size=60),
)
def test_whatever_races_a_message_is_seen_once_or_said_not_to_be(
    confirms: bool, commands: list[Command], schedule: list[int | str]
) -> None:
    """Two deliveries of every message at once, possibly another message's run, and an end at any moment."""
    engine = Engine(confirms)
    engine.start(("earlier", "r", 0), False, frozenset())
    deliveries = [
        Delivery(engine, command, (f"m-{number}", "r", 0)) for number, command in enumerate(commands) for _ in range(2)
    ]
    for what in schedule:
        if what == "finish":
            engine.finish()
        elif what == "turn":
            engine.turn()
        else:
            assert isinstance(what, int)
            deliveries[what % len(deliveries)].step()
    for _ in range(40):
        engine.turn()
        for delivery in deliveries:
            delivery.step()
    runs = [*engine.past, engine.run]
    for number in range(len(commands)):
        first, second = deliveries[2 * number], deliveries[2 * number + 1]
        assert first.end is not None
        assert second.end is not None
        seen = sum(run.seen(first.key) for run in runs if run is not None)
        ends = {first.end, second.end}
        if confirms or not any(_restarts(command) for command in commands):
            assert seen <= 1, (first, second, runs)
        if NextStep.DONE in ends or NextStep.REPEATED in ends:
            assert seen >= 1 or first.key in engine.lost, (first, second, runs)
        elif confirms:
            assert seen == 0, (first, second, runs)
