"""Comparison of a recorded history with the decisions of new code: the first difference, and its effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from durabletask.serialization import DataConverter

from bridge.engines.recording import Recording
from bridge.testing.replaying import DECISIONS, QUIET, decision_of_action, decision_of_event
from bridge.testing.sdk_internals import replay_history

NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class HistoryDifference:
    """First difference between a history and the decisions of new code. Its texts contain no payload.

    breaks: True if the instance fails when the new code continues it; otherwise only decisions of the past differ.
    event: number of the event in the history, from 1.
    place: `file:line` in the new code; empty if it is unknown.
    """

    breaks: bool
    event: int
    recorded: str
    now: str
    place: str


def compare(
    recording: Recording, functions: Mapping[str, Callable[..., Any]], converter: DataConverter
) -> HistoryDifference | None:
    """Replay a history of an instance that has not finished; return the first difference, or None.

    functions: orchestrators by registered name, which accept message envelopes (`message_aware`).
    """
    if not any(event.HasField("orchestratorStarted") for event in recording.events):
        return None  # no turn has run
    replayed = replay_history(functions, converter, QUIET, recording.instance_id, recording.events)
    end = replayed.end or NOTHING
    changed: HistoryDifference | None = None
    for number, event in enumerate(recording.events, 1):
        if event.WhichOneof("eventType") not in _CALLS:
            continue
        recorded = decision_of_event(event)
        action, place = replayed.created.pop(event.eventId, (None, replayed.place))
        if action is None:
            return HistoryDifference(True, number, _words(recorded), end, place)
        decided = decision_of_action(action)
        if _subject(decided) != _subject(recorded) and (replayed.ended or decided[1] == recorded[1]):
            return HistoryDifference(replayed.ended, number, _words(recorded), _words(decided), place)
        if decided[1] == recorded[1] and decided != recorded and changed is None:
            changed = HistoryDifference(
                False, number, _words(recorded), f"{_words(decided)} with {_other(decided)}", place
            )
    if replayed.ended:
        return HistoryDifference(True, len(recording.events), "the instance goes on", end, replayed.place)
    for action in replayed.actions:
        if changed is None:
            place = replayed.created[action.id][1]
            changed = HistoryDifference(
                False, len(recording.events), NOTHING, _words(decision_of_action(action)), place
            )
    return changed


_CALLS = DECISIONS - {"executionCompleted", "continueAsNew"}
_NAMES = {"timer": slice(1, 2), "event": slice(1, 4, 2), "entity": slice(1, 5, 1)}
"""Parts of a decision that name its kind and subject, by kind."""


def _subject(decision: tuple[Any, ...]) -> tuple[Any, ...]:
    """Kind and name of a decision, without ids and payloads."""
    return decision[_NAMES.get(decision[1], slice(1, 3))]


def _words(decision: tuple[Any, ...]) -> str:
    """Kind and name of a decision, for people."""
    kind, *names = _subject(decision)
    if kind == "entity":
        kind, names = "entity operation", names[2:] or names[:1]
    return f"{kind} `{names[-1]}`" if names else str(kind)


def _other(decision: tuple[Any, ...]) -> str:
    """Part of a decision that differs although its subject is the same."""
    return "another time" if decision[1] == "timer" else "another input or another id"
