"""Rendering of the custom statuses of sagas."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.cli.shared.saga_progress import MARKS, input_of, outline, progress
from bridge.routing.saga import start_input
from bridge.workflow import StepState


def test_a_saga_on_its_way() -> None:
    steps = {"stock": "completed", "payment": "running", "parcel": "waiting"}
    assert progress({"saga": "purchase", "status": "running", "steps": steps}) == [
        "purchase running",
        "[x] stock    completed",
        "[>] payment  running",
        "[ ] parcel   waiting",
    ]


def test_the_outline_of_a_start() -> None:
    inner = {"steps": [{"name": "b"}, {"name": "c"}]}
    steps = [{"name": "a"}, {"parallel": [inner, {"name": "d"}]}, {"point_of_no_return": True}, {"name": "e"}]
    start = start_input({"name": "s", "steps": steps}, {"id": 1})
    assert outline(start) == "s: a > (b > c | d) > point of no return > e"
    assert input_of(start) == {"id": 1}
    assert [outline(other) for other in (None, "text", {"input": 1})] == [""] * 3


def test_a_saga_that_could_not_undo_everything() -> None:
    status = {
        "saga": "purchase", "status": "compensation_failed", "reason": "timeout", "detail": "", "step": "payment",
        "steps": {"stock": "compensation_failed", "payment": "compensated"},
        "failed_compensations": [{"step": "stock", "error": "failed: OSError: away"}],
    }  # fmt: skip
    assert progress(status) == [
        "purchase compensation_failed, payment timeout",
        "[!] stock    compensation_failed: failed: OSError: away",
        "[~] payment  compensated",
    ]


def test_a_cause_without_a_step() -> None:
    status = {"saga": "s", "status": "compensated", "reason": "out_of_stock", "detail": "tea", "steps": {}}
    assert progress(status) == ["s compensated, out_of_stock: tea"]


@pytest.mark.parametrize(
    "other", [None, "waiting", {}, {"steps": {}}, {"steps": [], "saga": "s"}, {"saga": 1, "steps": {}}]
)
def test_what_no_saga_wrote(other: Any) -> None:
    assert progress(other) == []


def test_every_state_has_a_mark() -> None:
    assert set(MARKS) == set(StepState)


def test_the_definition_is_not_shown_as_input() -> None:
    assert input_of({"format": 1, "definition": {"steps": []}, "input": {"id": "1"}}) == {"id": "1"}
    assert input_of({"input": 1}) == {"input": 1}
    assert input_of([1]) == [1]
