"""Spans of a history, and their picture: attempts, waits, compensations, and any text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bridge.app.operations.instances.spans import HistorySpan, SpanKind, Undoing, lifetime
from bridge.app.operations.instances.timeline_svg import MOST_ROWS, drawn
from bridge.app.page.visit import place


def event(kind: str, second: float, **members: Any) -> Mapping[str, Any]:
    return {"event": kind, "timestamp": f"2026-01-01T00:{int(second) // 60:02}:{second % 60:06.3f}+00:00", **members}


STARTED = event("ExecutionStarted", 0, event_id=0, name="order")


def spans(*events: Mapping[str, Any], undoing: Undoing | None = None) -> list[HistorySpan]:
    found = lifetime([STARTED, *events], undoing)
    assert found is not None
    return [*found.spans]


def test_a_retried_call_has_numbered_attempts_and_the_wait_between_them() -> None:
    first, wait, second, later = spans(
        event("TaskScheduled", 1, event_id=1, name="charge"),
        event("TaskFailed", 2, task_scheduled_id=1),
        event("TimerCreated", 2, event_id=2, fire_at="2026-01-01T00:00:07+00:00"),
        event("TimerFired", 7, timer_id=2),
        event("TaskScheduled", 7, event_id=3, name="charge"),
        event("TaskCompleted", 9, task_scheduled_id=3),
        event("TaskScheduled", 9, event_id=4, name="charge"),
    )
    assert (first.attempt, first.failed, first.end - first.start) == (1, True, 1.0)
    assert (wait.kind, wait.waits, wait.end - wait.start) == (SpanKind.TIMER, True, 5.0)
    assert (second.attempt, second.failed) == (2, False)
    assert (later.attempt, later.end) == (1, None)


def test_the_calls_after_the_failed_step_of_a_saga_are_compensations() -> None:
    history = (
        event("TaskScheduled", 1, event_id=1, name="reserve"),
        event("TaskCompleted", 2, task_scheduled_id=1),
        event("TaskScheduled", 2, event_id=2, name="charge"),
        event("TaskFailed", 3, task_scheduled_id=2),
        event("TaskScheduled", 4, event_id=3, name="charge"),
        event("TaskFailed", 5, task_scheduled_id=3),
        event("TaskScheduled", 5, event_id=4, name="release"),
        event("TaskFailed", 6, task_scheduled_id=4),
        event("TaskScheduled", 7, event_id=5, name="release"),
        event("TaskCompleted", 8, task_scheduled_id=5),
    )
    assert [each.is_compensation for each in spans(*history, undoing=Undoing())] == [False] * 3 + [True] * 2
    assert not any(each.is_compensation for each in spans(*history))


def call(number: int, name: str, *, failed: bool = False, **members: Any) -> tuple[Mapping[str, Any], ...]:
    return (
        event("TaskScheduled", number, event_id=number, name=name, **members),
        event("TaskFailed" if failed else "TaskCompleted", number + 0.5, task_scheduled_id=number),
    )


def test_a_saga_that_its_body_ends_has_its_last_calls_as_compensations() -> None:
    """No step has failed, a compensation has, and the end is published."""
    history = (
        *call(1, "look"), *call(2, "reserve"), *call(3, "charge"),
        event("EventRaised", 4, name="lost"),
        *call(5, "refund", failed=True), *call(6, "refund", failed=True), *call(7, "release"),
    )  # fmt: skip
    end = call(8, "bridge.publish", input='{"target": "results", "type": "order.compensation_failed"}')

    def marked(*events: Mapping[str, Any], count: int = 2) -> list[str]:
        found = spans(*events, undoing=Undoing(count, "order.compensation_failed"))
        return [each.name for each in found if each.is_compensation]

    assert marked(*history) == marked(*history, *end) == ["refund", "refund", "release"]
    assert marked(*history, *call(8, "bridge.publish", input='{"type": "release"}')) == ["release", "bridge.publish"]
    assert marked(*history[:-2], count=1) == ["refund", "refund"]  # while it compensates
    assert marked(*history, count=0) == []
    assert len(marked(*history, count=9)) == 6  # the history has a part of the saga


def test_children_entities_locks_suspensions_and_moments_are_told_apart() -> None:
    found = spans(
        event("SubOrchestrationInstanceCreated", 1, event_id=1, name="parcel", instance_id="p-1"),
        event("SubOrchestrationInstanceFailed", 2, task_scheduled_id=1),
        event("EntityOperationCalled", 2, request_id="a", target_instance_id="@stock@x", operation="take"),
        event("EntityOperationFailed", 3, request_id="a"),
        event("EntityLockRequested", 3, critical_section_id="l", lock_set=["@stock@x"]),
        event("EntityLockGranted", 4, critical_section_id="l"),
        event("ExecutionSuspended", 5),
        event("ExecutionResumed", 6),
        event("EventRaised", 6, name="paid"),
        event("EntityOperationSignaled", 6, target_instance_id="@stock@x", operation="count"),
        event("Unknown", 7),
        event("TaskCompleted", 7, task_scheduled_id=99),
    )
    assert [(each.kind, each.name, each.failed) for each in found] == [
        (SpanKind.CHILD, "parcel", True),
        (SpanKind.ENTITY, "@stock@x take", True),
        (SpanKind.LOCK, "lock of @stock@x", False),
        (SpanKind.SUSPENDED, "suspended", False),
        (SpanKind.MOMENT, "event paid", False),
        (SpanKind.MOMENT, "signal @stock@x count", False),
    ]
    assert found[0].instance_id == "p-1"


def test_what_is_open_at_the_end_ends_there_and_a_history_without_events_is_no_life() -> None:
    [timer] = spans(event("TimerCreated", 1, event_id=1), event("ExecutionCompleted", 4, orchestration_status=1))
    assert timer.end - timer.start == 3.0
    assert lifetime([]) is None
    assert lifetime([{"event": "ExecutionStarted"}, {"timestamp": "yesterday"}, {}]) is None


def test_a_long_wait_leaves_room_for_what_runs() -> None:
    found = lifetime(
        [
            STARTED,
            event("TaskScheduled", 0, event_id=1, name="quick"),
            event("TaskCompleted", 0.1, task_scheduled_id=1),
            event("TaskScheduled", 3000, event_id=2, name="slow"),
            event("TaskCompleted", 3000.1, task_scheduled_id=2),
            event("ExecutionCompleted", 3000.1, orchestration_status=1),
        ]
    )
    assert found is not None
    picture = ET.fromstring(drawn(found, "order", 0))
    widths = [float(each.get("width")) for each in picture.iter() if each.get("class") == "run"]
    assert len(widths) == 2
    assert all(width > 200 for width in widths)
    texts = [each.text for each in picture.iter() if each.tag.endswith("}text")]
    assert {"order", "quick", "slow", "runs 200ms, waits 49m 59s"} <= {*texts}


TEXTS = st.text(max_size=40) | st.sampled_from(["<b>", "&amp;", '"', "\x00", "\ud800", "\u202e", "]]>", "-->"])
KINDS = st.sampled_from(
    (
        "TaskScheduled", "TaskCompleted", "TaskFailed", "TimerCreated", "TimerFired", "EventRaised", "EventSent",
        "SubOrchestrationInstanceCreated", "SubOrchestrationInstanceFailed", "EntityOperationCalled",
        "EntityOperationCompleted", "ExecutionSuspended", "ExecutionResumed", "ExecutionCompleted", "ExecutionRewound",
        "EntityLockRequested", "EntityLockGranted", "ExecutionTerminated",
    )
)  # fmt: skip
EVENTS = st.builds(
    lambda kind, second, number, text, other: event(
        kind, second, event_id=number, task_scheduled_id=number, timer_id=number, name=text, instance_id=other,
        request_id=number, critical_section_id=number, lock_set=[text], operation=text, target_instance_id=other,
    ),
    KINDS, st.floats(0, 3000, allow_nan=False), st.integers(0, 4), TEXTS, TEXTS,
)  # fmt: skip


@given(
    st.lists(EVENTS, max_size=30), TEXTS, st.none() | st.builds(Undoing, st.none() | st.integers(0, 5)), st.booleans()
)
def test_a_picture_is_well_formed_and_within_its_frame(
    events: list[Mapping[str, Any]], name: str, undoing: Undoing | None, linked: bool
) -> None:
    found = lifetime([STARTED, *events], undoing)
    assert found is not None
    assert all(span.end is None or span.end >= span.start for span in found.spans)
    text = drawn(found, name, 0, (lambda instance_id: place("instances", instance_id)) if linked else None)
    picture = ET.fromstring(text)
    names = {element.tag.partition("}")[2] for element in picture.iter()}
    assert names <= {"svg", "path", "rect", "g", "title", "text", "a"}
    width = float(picture.get("width"))
    for each in picture.iter():
        assert not any(member.startswith("on") or member == "style" for member in each.attrib)
        if each.tag.endswith("}rect"):
            assert 0 <= float(each.get("x", 0)) <= float(each.get("x", 0)) + float(each.get("width")) <= width + 2


def test_a_long_history_is_drawn_in_part() -> None:
    events = [event("EventRaised", each % 3000, name=f"e{each}") for each in range(MOST_ROWS + 40)]
    found = lifetime([STARTED, *events])
    assert found is not None
    assert "40 more in the list of events" in drawn(found, "order", 0)
