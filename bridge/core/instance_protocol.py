"""Decision table for one command: the next engine call that makes it take effect exactly once. Pure.

Each engine call may race with other clients. After each call, `next_step` therefore decides again from the facts known
then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from bridge.core.commands import (
    Cancel,
    Command,
    OnExisting,
    OnFinished,
    RaiseEvent,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.core.deduplication import remembers
from bridge.core.origin import MessageOrigin, Unwrapped

FINISHED = frozenset({"COMPLETED", "FAILED", "TERMINATED", "CANCELED"})
"""Runtime statuses of an instance that has ended."""


class InstanceState(StrEnum):
    """State of an instance when it was read. RUNNING includes pending and suspended."""

    MISSING = "missing"
    RUNNING = "running"
    FINISHED = "finished"


class CallResult(StrEnum):
    """Result of the last engine call."""

    STARTED = "started"
    RAISED = "raised"
    CALLED = "called"
    EXISTS = "exists"
    UNSURE = "unsure"
    """The start may or may not have happened."""
    MISSING = "missing"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """Facts known of one instance.

    result: result of the last call; None before the first call.
    state: state read after the last call; None when the state was not read.
    started_by_command: this command, or a later command that remembers it, started the running instance.
    has_received: the instance's history contains this command; None when the history was not searched.
    restarted: the instance was run again for this event and ended without it.
    """

    result: CallResult | None = None
    state: InstanceState | None = None
    started_by_command: bool = False
    has_received: bool | None = None
    restarted: bool = False


class NextStep(StrEnum):
    """Next step for a command. DONE and the members after it are final (`ENDS`)."""

    START = "start"
    REPLACE = "replace"
    """Start an instance in place of a finished one."""
    RAISE = "raise"
    CALL = "call"
    READ = "read"
    SEARCH = "search"
    DONE = "done"
    REPEATED = "repeated"
    EXISTS = "exists"
    MISSING = "missing"
    FINISHED = "finished"
    UNSURE = "unsure"
    """The error of the last call is the result."""


ENDS = frozenset(
    {NextStep.DONE, NextStep.REPEATED, NextStep.EXISTS, NextStep.MISSING, NextStep.FINISHED, NextStep.UNSURE}
)

UNKNOWN = InstanceFacts()


def next_step(command: Command, known: InstanceFacts, confirmed: bool) -> NextStep:
    """Next step for a command.

    confirmed: the engine refuses an event for an instance that will not see it, and an accepted event needs no second
    look.
    """
    match command:
        case ScheduleOrchestration():
            raises = command.on_existing is OnExisting.RAISE
            restarts = command.on_existing is OnExisting.RESTART
            return _start(known, confirmed, raises, restarts or (raises and command.on_finished is OnFinished.RESTART))
        case StartOrRaise():
            return _start(known, confirmed, True, command.on_finished is OnFinished.RESTART)
        case RaiseEvent() | Cancel():
            return _raise(known, confirmed, command.on_finished is OnFinished.RESTART)
        case SignalEntity():
            return NextStep.CALL if known.result is None else NextStep.DONE
        case _:
            return _call(known)


def _start(known: InstanceFacts, confirmed: bool, raises: bool, restarts: bool) -> NextStep:
    """Next step of a start.

    raises: a running instance gets the message as an event.
    restarts: a finished instance is replaced.
    """
    result, state = known.result, known.state
    if result is None:
        return NextStep.START
    if result is CallResult.STARTED or (result is CallResult.RAISED and (confirmed or state is InstanceState.RUNNING)):
        return NextStep.DONE
    if state is None:
        return NextStep.READ
    if state is InstanceState.MISSING:
        return NextStep.UNSURE if result is CallResult.UNSURE else NextStep.START
    if known.started_by_command:
        return NextStep.DONE if result is CallResult.UNSURE else NextStep.REPEATED
    if state is InstanceState.RUNNING:
        return NextStep.RAISE if raises else NextStep.EXISTS
    if not raises and not restarts:
        return NextStep.EXISTS
    return _late(known, restarts)


def _raise(known: InstanceFacts, confirmed: bool, restarts: bool) -> NextStep:
    result, state = known.result, known.state
    if result is None or result is CallResult.STARTED:
        return NextStep.RAISE
    if result is CallResult.RAISED and (confirmed or state is InstanceState.RUNNING):
        return NextStep.DONE
    if result is CallResult.MISSING or state is InstanceState.MISSING:
        return NextStep.MISSING
    if state is None:
        return NextStep.READ
    if state is InstanceState.RUNNING:
        return NextStep.RAISE
    return _late(known, restarts)


def _late(known: InstanceFacts, restarts: bool) -> NextStep:
    """Next step for a finished instance, by its history: it may have seen the command before it finished."""
    if known.has_received is None:
        return NextStep.SEARCH
    if known.has_received:
        return NextStep.DONE if known.result is CallResult.RAISED else NextStep.REPEATED
    if restarts and not known.restarted:
        # A replacement of unknown outcome is an engine failure, not a state of the instance
        return NextStep.UNSURE if known.result is CallResult.UNSURE else NextStep.REPLACE
    return NextStep.FINISHED


def _call(known: InstanceFacts) -> NextStep:
    if known.result is CallResult.CALLED:
        return NextStep.DONE
    if known.result is CallResult.MISSING:
        return NextStep.MISSING
    match known.state:
        case None:
            return NextStep.READ
        case InstanceState.MISSING:
            return NextStep.MISSING
        case InstanceState.FINISHED:
            return NextStep.FINISHED
        case _:
            return NextStep.CALL


def origin_of_start(origin: MessageOrigin) -> MessageOrigin:
    """Origin of a start that a command makes necessary. The command has another key: an inbox takes both."""
    return replace(origin, part=-1 - origin.part)


def started_by(unwrapped: Unwrapped, origin: MessageOrigin | None) -> bool:
    """True when a command started the instance with this start input, or when the input remembers the command."""
    if origin is None:
        return False
    if unwrapped.origin is not None and unwrapped.origin.key == origin.key:
        return True
    return remembers(str((unwrapped.inbox or {}).get("seen", "")), origin.key)


def may_replace(finished: Unwrapped, new: Unwrapped) -> bool:
    """Decide inside the engine if a start may replace a finished instance.

    The start is refused when the same message started the finished instance, or when the start was decided before that
    instance began: a start by the bridge remembers the instance that it replaces. Starts by other clients are always
    allowed.
    """
    if finished.origin is None or new.origin is None:
        return True
    if started_by(finished, new.origin):
        return False
    return new.inbox is None or remembers(str(new.inbox.get("seen", "")), finished.origin.key)
