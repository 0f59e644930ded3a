"""Entity with the reloads of all daemons: registrations, requests, answers, bounds."""

from __future__ import annotations

import pytest

from bridge.engines.entities.reload_requests import (
    _MOST_DAEMONS,
    REGISTERED_SECONDS,
    State,
    apply,
    as_state,
    interval_of,
)


def test_a_request_and_its_answers() -> None:
    state = as_state(apply(None, "register", {"daemon": "a/1", "at": 1.0, "version": "v1"}))
    state = as_state(apply(state, "request", {"id": "r", "at": 2.0, "by": "me", "reason": ""}))
    answer = {"daemon": "a/1", "at": 3.0, "version": "v2", "request": "r", "result": "reloaded", "detail": ""}
    state = as_state(apply(state, "answer", answer))
    assert state["request"]["id"] == "r"
    assert state["daemons"] == {"a/1": {key: value for key, value in answer.items() if key != "daemon"}}
    # A later registration keeps the answer
    state = as_state(apply(state, "register", {"daemon": "a/1", "at": 4.0, "version": "v2"}))
    assert state["daemons"]["a/1"]["request"] == "r"
    assert as_state(apply(state, "leave", {"daemon": "a/1"}))["daemons"] == {}
    assert apply(None, "of a later version", {}) is None
    assert apply(state, "of a later version", {}) == state


def test_killed_daemons_are_forgotten_and_the_number_is_bounded() -> None:
    def register(state: State | None, daemon: str, at: float, **more: object) -> State:
        return as_state(apply(state, "register", {"daemon": daemon, "at": at, "version": "v", **more}))

    state = register(None, "killed/1", 0.0, every=REGISTERED_SECONDS)
    state = register(state, "of an earlier version/1", 0.0)
    soon, later = 9 * REGISTERED_SECONDS, 11 * REGISTERED_SECONDS
    assert register(state, "a/1", soon)["daemons"].keys() == {"killed/1", "of an earlier version/1", "a/1"}
    assert register(state, "a/1", later)["daemons"].keys() == {"of an earlier version/1", "a/1"}
    assert register(state, "a/1", 1501.0)["daemons"].keys() == {"a/1"}
    for number in range(_MOST_DAEMONS + 10):
        state = register(state, f"n/{number}", 2000 + number / 1e3)
    assert len(state["daemons"]) == _MOST_DAEMONS
    assert f"n/{_MOST_DAEMONS + 9}" in state["daemons"]


@pytest.mark.parametrize(
    ("every", "seconds"),
    [(30.0, 30.0), (None, 600.0), ("soon", 600.0), (0, 600.0), (-5.0, 600.0), (1e300, 3600.0), (float("nan"), 600.0)],
)
def test_intervals_of_registrations_are_bounded(every: object, seconds: float) -> None:
    assert interval_of({} if every is None else {"every": every}) == seconds


def test_an_engine_without_the_entity() -> None:
    assert as_state(None) == {"request": None, "daemons": {}}
