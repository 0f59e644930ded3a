"""Readiness: stuck, slow, idle, held, probing, dead, away."""

from __future__ import annotations

import orjson
import pytest

from bridge.core.states import DaemonState
from bridge.ops.health import Health, PartReading, Readiness, SourceReading


def look(health: Health, now: float, settled: int = 0, waiting: int = 0, **rest: object) -> Readiness:
    return health.assess([SourceReading("orders", settled, waiting, **rest)], [], now)  # type: ignore[arg-type]  # fields by name


def state(readiness: Readiness) -> str:
    (check,) = readiness.checks
    assert readiness.ready is check.ready
    return check.state


def test_a_source_that_has_nothing_to_do_is_ready_for_ever() -> None:
    health = Health(60)
    assert [state(look(health, now)) for now in (0, 59, 61, 10_000)] == ["idle"] * 4


def test_a_slow_source_is_ready() -> None:
    """The source handles one record every 50 s, and the backlog grows."""
    health = Health(60)
    for step in range(20):
        assert state(look(health, 50.0 * step, settled=step, waiting=100 + step)) == "consuming"


def test_a_source_whose_starts_wait_for_others_to_finish_is_ready_and_never_stuck() -> None:
    health = Health(60)
    throttled = {"start": "5 of 5 orchestrations run, 3 starts wait"}
    for now in (0, 100, 10_000):
        found = look(health, now, 5, 3, throttled=throttled)
        assert state(found) == "throttled"
        assert found.checks[0].detail == "route start: 5 of 5 orchestrations run, 3 starts wait"
    assert state(look(health, 10_001, 5, 3)) == "consuming", "it gets its time when the cap is no longer reached"
    assert state(look(health, 10_002, 5, 3, throttled=throttled, holds={"broker": "away"})) == "held"


def test_a_stuck_source_is_not() -> None:
    health = Health(60)
    assert state(look(health, 0, 5, 3)) == "consuming"
    assert state(look(health, 59, 5, 3)) == "consuming"
    found = look(health, 61, 5, 4)
    assert state(found) == "stuck"
    assert found.checks[0].detail == "4 records wait, and none was settled for 61 s"
    assert state(look(health, 62, 6, 3)) == "consuming"
    assert state(look(health, 100, 6, 3)) == "consuming"


def test_a_burst_after_a_long_silence_is_not_stuck() -> None:
    health = Health(60)
    look(health, 0)
    assert state(look(health, 1000, 0, 50)) == "consuming"
    assert state(look(health, 1059, 0, 50)) == "consuming"
    assert state(look(health, 1061, 0, 50)) == "stuck"


def test_a_first_look_at_a_waiting_source_is_not_stuck() -> None:
    assert state(look(Health(60), 1000, 0, 50)) == "consuming"


def test_a_held_source_is_unready_with_the_reason_and_gets_its_time_afterwards() -> None:
    health = Health(60)
    look(health, 0, 5, 3)
    found = look(health, 100, 5, 3, holds={"engine default": "nobody answers at localhost:8080"})
    assert state(found) == "held"
    assert found.checks[0].detail == "engine default: nobody answers at localhost:8080"
    assert state(look(health, 159, 5, 3)) == "consuming"
    assert state(look(health, 218, 5, 3)) == "consuming"
    assert state(look(health, 219, 5, 3)) == "stuck"


def test_a_probing_source_is_unready_even_with_nothing_to_do() -> None:
    found = look(Health(60), 0, probing="more than 100 dead letters within a minute")
    assert state(found) == "probing"
    assert "100 dead letters" in found.checks[0].detail


def test_a_dead_source_is_unready_whatever_else_it_is() -> None:
    assert state(look(Health(60), 0, dead="its intake ended", probing="limited", holds={"broker": "away"})) == "dead"


def test_sources_are_judged_apart() -> None:
    health = Health(60)
    for now in (0.0, 100.0):
        found = health.assess([SourceReading("a", 0, 1), SourceReading("b", int(now), 1)], [], now)
    assert [(check.name, check.state) for check in found.checks] == [("a", "stuck"), ("b", "consuming")]
    assert not found.ready


@pytest.mark.parametrize("phase", DaemonState)
def test_only_a_running_bridge_is_ready(phase: DaemonState) -> None:
    assert Health(60).assess([], [], 0.0, phase).ready is (phase is DaemonState.RUNNING)


def test_engines_and_their_workers_are_listed() -> None:
    parts = [PartReading("engine", "default", note="NOT DURABLE"), PartReading("worker", "default", away="no thread")]
    found = Health(60).assess([SourceReading("orders", 0, 0)], parts, 0.0)
    assert orjson.loads(orjson.dumps(found.as_dict())) == {
        "ready": False,
        "phase": "running",
        "components": [
            {"kind": "source", "name": "orders", "ready": True, "state": "idle"},
            {"kind": "engine", "name": "default", "ready": True, "state": "up", "detail": "NOT DURABLE"},
            {"kind": "worker", "name": "default", "ready": False, "state": "stuck", "detail": "no thread"},
        ],
    }
