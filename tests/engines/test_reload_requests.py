"""Entity with the reloads of all daemons: registrations, requests, answers, bounds."""

from __future__ import annotations

from bridge.engines.reload_requests import _KEPT_SECONDS, _MOST_DAEMONS, State, apply, as_state


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
    def register(state: State | None, daemon: str, at: float) -> State:
        return as_state(apply(state, "register", {"daemon": daemon, "at": at, "version": "v"}))

    state = register(register(None, "killed/1", 0.0), "a/1", _KEPT_SECONDS + 1)
    assert list(state["daemons"]) == ["a/1"]
    for number in range(_MOST_DAEMONS + 10):
        state = register(state, f"n/{number}", _KEPT_SECONDS + 2 + number / 1e3)
    assert len(state["daemons"]) == _MOST_DAEMONS
    assert f"n/{_MOST_DAEMONS + 9}" in state["daemons"]


def test_an_engine_without_the_entity() -> None:
    assert as_state(None) == {"request": None, "daemons": {}}
