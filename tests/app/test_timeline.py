"""Descriptions of every kind of history event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from durabletask import history
from durabletask.task import FailureDetails

from bridge.app.operations.instances.timeline import duration, timeline

BEGAN = datetime(2030, 1, 31, 8, 0, 0, tzinfo=UTC)
NEVER = datetime.fromtimestamp(0, UTC)
FAILURE = FailureDetails("no room", "ValueError", None)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def test_results_are_joined_to_what_asked_for_them() -> None:
    entries = timeline(
        [
            history.OrchestratorStartedEvent(-1, at(0)),
            history.ExecutionStartedEvent(-1, at(0), "order_saga", "2.0", '{"id": 1}'),
            history.TaskScheduledEvent(1, at(0), "reserve", None, "[1]"),
            history.SubOrchestrationInstanceCreatedEvent(2, at(0), "child-1", "ship"),
            history.TaskCompletedEvent(-1, at(2.5), 1, "true"),
            history.SubOrchestrationInstanceFailedEvent(-1, at(200), 2, FAILURE),
            history.TaskFailedEvent(-1, at(200), 99, FAILURE),
            history.ExecutionCompletedEvent(-1, at(200), 3, None, FAILURE),
        ]
    )
    assert [(entry.after, entry.event, entry.data) for entry in entries] == [
        (0.0, "started order_saga version 2.0", {"id": 1}),
        (0.0, "activity reserve called", [1]),
        (0.0, "orchestration ship called as child-1", None),
        (2.5, "activity reserve done after 2.5s", True),
        (200.0, "orchestration ship failed after 3m 20s", "ValueError: no room"),
        (200.0, "task 99 failed after 0ms", "ValueError: no room"),
        (200.0, "failed", "ValueError: no room"),
    ]
    assert entries[0].at == "2030-01-31T08:00:00.000Z"


def test_events_without_a_time_happened_in_the_turn_before() -> None:
    entries = timeline(
        [
            history.OrchestratorStartedEvent(-1, at(0)),
            history.ExecutionStartedEvent(-1, NEVER, "greet"),
            history.TaskScheduledEvent(1, NEVER, "say"),
            history.OrchestratorStartedEvent(-1, at(3)),
            history.TaskCompletedEvent(-1, NEVER, 1, '"hello"'),
        ]
    )
    assert [(entry.after, entry.event) for entry in entries] == [
        (0.0, "started greet"), (0.0, "activity say called"), (3.0, "activity say done after 3.0s"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "text", "data"),
    [
        (history.ExecutionTerminatedEvent(-1, BEGAN, '"fraud"'), "termination requested", "fraud"),
        (history.ExecutionSuspendedEvent(-1, BEGAN, "not json"), "suspended", "not json"),
        (history.ExecutionResumedEvent(-1, BEGAN), "resumed", None),
        (history.ExecutionRewoundEvent(-1, BEGAN, "repaired"), "rewound", "repaired"),
        (history.ContinueAsNewEvent(-1, BEGAN, "3"), "continued as new", 3),
        (history.TimerCreatedEvent(1, BEGAN, at(60)), "timer set for 2030-01-31T08:01:00.000Z", None),
        (history.TimerFiredEvent(-1, BEGAN, at(60), 1), "timer fired", None),
        (history.EventRaisedEvent(-1, BEGAN, "go", "{}"), "event go received", {}),
        (history.EventSentEvent(1, BEGAN, "other", "go"), "event go sent to other", None),
        (history.GenericEvent(-1, BEGAN, '"x"'), "note", "x"),
        (
            history.EntityOperationSignaledEvent(1, BEGAN, "r", "add", None, "2", "@counter@1"),
            "entity @counter@1 signalled: add",
            2,
        ),
        (
            history.EntityOperationCalledEvent(1, BEGAN, "r", "get", None, None, None, None, "@counter@1"),
            "entity @counter@1 called: get",
            None,
        ),
        (history.EntityLockRequestedEvent(1, BEGAN, "c", ["@a@1", "@b@2"], 0), "lock of @a@1, @b@2 requested", None),
        (history.EntityUnlockSentEvent(1, BEGAN, "c", None, "@a@1"), "lock of @a@1 released", None),
        (history.HistoryStateEvent(-1, BEGAN, {}), "HistoryState", None),
    ],
)
def test_words(event: history.HistoryEvent, text: str, data: object) -> None:
    [entry] = timeline([event])
    assert (entry.event, entry.data) == (text, data)


def test_nothing_happened() -> None:
    assert timeline([]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0042, "4ms"), (2.54, "2.5s"), (75, "1m 15s"), (7500, "2h 5m"), (4 * 86400 + 7200, "4d 2h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
