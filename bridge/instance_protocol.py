"""What to do next so that one command takes effect once, whatever its instance is doing. Pure.

An engine is asked in small steps, each of which may race with other clients: so every step is followed by a new
decision on what is known then. `next_move` is the whole table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from bridge.commands import (
    Cancel,
    Command,
    OnExisting,
    OnFinished,
    RaiseEvent,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.deduplication import remembers
from bridge.origin import MessageOrigin, Unwrapped

FINISHED = frozenset({"COMPLETED", "FAILED", "TERMINATED", "CANCELED"})
"""Statuses of an instance that does not go on."""


class InstanceState(StrEnum):
    """An instance at the moment of a look. RUNNING: also pending and suspended."""

    MISSING = "missing"
    RUNNING = "running"
    FINISHED = "finished"


class CallResult(StrEnum):
    """What came of the last call."""

    STARTED = "started"
    RAISED = "raised"
    CALLED = "called"
    EXISTS = "exists"
    UNSURE = "unsure"
    """A start may have happened, or not."""
    MISSING = "missing"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What is known of an instance.

    said: of the last call, None before the first. life: of the look after it, None when there was none.
    started_by_it: the instance runs because of this very command, or of a later one that remembers it.
    held: its history has this very command; None when it was not searched. restarted: it ran once more for this very
    event, and ended without it.
    """

    said: CallResult | None = None
    life: InstanceState | None = None
    started_by_it: bool = False
    held: bool | None = None
    restarted: bool = False


class NextStep(StrEnum):
    """What to do. The second half ends it."""

    START = "start"
    REPLACE = "replace"
    """Start where a finished instance is."""
    RAISE = "raise"
    CALL = "call"
    LOOK = "look"
    SEARCH = "search"
    DONE = "done"
    REPEATED = "repeated"
    EXISTS = "exists"
    MISSING = "missing"
    FINISHED = "finished"
    UNSURE = "unsure"
    """The last call's own error tells it."""


ENDS = frozenset(
    {NextStep.DONE, NextStep.REPEATED, NextStep.EXISTS, NextStep.MISSING, NextStep.FINISHED, NextStep.UNSURE}
)

UNKNOWN = InstanceFacts()


def next_step(command: Command, known: InstanceFacts, certain: bool) -> NextStep:
    """The next move for a command.

    certain: the engine refuses an event for an instance that will not see it, so that an accepted one needs no look.
    """
    match command:
        case ScheduleOrchestration():
            raises = command.on_existing is OnExisting.RAISE
            restarts = command.on_existing is OnExisting.RESTART
            return _start(known, certain, raises, restarts or (raises and command.on_finished is OnFinished.RESTART))
        case StartOrRaise():
            return _start(known, certain, True, command.on_finished is OnFinished.RESTART)
        case RaiseEvent() | Cancel():
            return _raise(known, certain, command.on_finished is OnFinished.RESTART)
        case SignalEntity():
            return NextStep.CALL if known.said is None else NextStep.DONE
        case _:
            return _call(known)


def _start(known: InstanceFacts, certain: bool, raises: bool, restarts: bool) -> NextStep:
    """raises: an instance that runs gets it as an event. restarts: a finished one is replaced."""
    said, life = known.said, known.life
    if said is None:
        return NextStep.START
    if said is CallResult.STARTED or (said is CallResult.RAISED and (certain or life is InstanceState.RUNNING)):
        return NextStep.DONE
    if life is None:
        return NextStep.LOOK
    if life is InstanceState.MISSING:
        return NextStep.UNSURE if said is CallResult.UNSURE else NextStep.START
    if known.started_by_it:
        return NextStep.DONE if said is CallResult.UNSURE else NextStep.REPEATED
    if life is InstanceState.RUNNING:
        return NextStep.RAISE if raises else NextStep.EXISTS
    if not raises and not restarts:
        return NextStep.EXISTS
    return _late(known, restarts)


def _raise(known: InstanceFacts, certain: bool, restarts: bool) -> NextStep:
    said, life = known.said, known.life
    if said is None or said is CallResult.STARTED:
        return NextStep.RAISE
    if said is CallResult.RAISED and (certain or life is InstanceState.RUNNING):
        return NextStep.DONE
    if said is CallResult.MISSING or life is InstanceState.MISSING:
        return NextStep.MISSING
    if life is None:
        return NextStep.LOOK
    if life is InstanceState.RUNNING:
        return NextStep.RAISE
    return _late(known, restarts)


def _late(known: InstanceFacts, restarts: bool) -> NextStep:
    """The instance has finished: did it see the command before it did?"""
    if known.held is None:
        return NextStep.SEARCH
    if known.held:
        return NextStep.DONE if known.said is CallResult.RAISED else NextStep.REPEATED
    if restarts and not known.restarted:
        # A replacement of unknown outcome is the engine's trouble, not the instance's.
        return NextStep.UNSURE if known.said is CallResult.UNSURE else NextStep.REPLACE
    return NextStep.FINISHED


def _call(known: InstanceFacts) -> NextStep:
    if known.said is CallResult.CALLED:
        return NextStep.DONE
    if known.said is CallResult.MISSING:
        return NextStep.MISSING
    match known.life:
        case None:
            return NextStep.LOOK
        case InstanceState.MISSING:
            return NextStep.MISSING
        case InstanceState.FINISHED:
            return NextStep.FINISHED
        case _:
            return NextStep.CALL


def restart_of(origin: MessageOrigin) -> MessageOrigin:
    """What starts an instance again for a late event. The event itself comes after it, under its own key."""
    return replace(origin, part=-1 - origin.part)


def started_by(unwrapped: Unwrapped, origin: MessageOrigin | None) -> bool:
    """Whether the instance with this start input runs because of a command, or remembers it from an earlier run."""
    if origin is None:
        return False
    if unwrapped.origin is not None and unwrapped.origin.key == origin.key:
        return True
    return remembers(str((unwrapped.inbox or {}).get("seen", "")), origin.key)


ANSWERED = "ANSWERED"
"""In place of a status: a request has its answer."""

_TOLD = re.compile(r" \[([A-Z]+), (this|another) message\]$")


def telling(status: str, started_by_it: bool) -> str:
    """What an engine of ours adds to the refusal of a start: what a look would tell, as of that very moment."""
    return f" [{status}, {'this' if started_by_it else 'another'} message]"


def read_refusal(details: str) -> tuple[str, bool] | None:
    """Status and whether this message started it, of a refusal; None when it does not say."""
    found = _TOLD.search(details)
    return None if found is None else (found[1], found[2] == "this")


def may_replace(finished: Unwrapped, new: Unwrapped) -> bool:
    """Whether a start may take the place of a finished instance: the last question, asked inside the engine.

    No when the same message started it, or when whoever asks decided before it began: a start of ours remembers the one
    that it replaces. Starts of other clients always may.
    """
    if finished.origin is None or new.origin is None:
        return True
    if started_by(finished, new.origin):
        return False
    return new.inbox is None or remembers(str(new.inbox.get("seen", "")), finished.origin.key)
