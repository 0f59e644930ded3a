"""Missed registrations of other daemons, in the words of the engine's state: no clock decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.serve.reload.daemons import Renewals
from bridge.engines.entities.reload_requests import REGISTERED_SECONDS
from bridge.ops.status import MISSED

STEP = 5.0
"""Seconds between two reads of the state."""


class Group:
    """Daemons that register on a state, which one of them reads. Times are monotonic seconds of that one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.renewals = Renewals("own")
        self.times: dict[str, float] = {}

    def run(self, seconds: float, skews: dict[str, float], phases: dict[str, float] | None = None) -> None:
        """Let daemons register every REGISTERED_SECONDS. skews: by name the clocks' differences."""
        phases = phases or {}
        end = self.now + seconds
        while self.now < end:
            for name, skew in skews.items():
                if (self.now - phases.get(name, 0.0)) % REGISTERED_SECONDS < STEP:
                    self.times[name] = self.now + skew
            self.renewals.read(self.times, self.now)
            self.now += STEP

    def missed(self, name: str, interval: float = REGISTERED_SECONDS) -> int:
        return self.renewals.missed(name, interval)


@pytest.mark.parametrize("phase", [0.0, 10.0, 25.0])
def test_a_killed_daemon_has_missed_registrations_within_four_intervals(phase: float) -> None:
    it = Group()
    it.run(300, {"own": 0, "killed": 0}, {"killed": phase})
    assert it.missed("killed") <= 1
    it.run((MISSED - 1) * REGISTERED_SECONDS, {"own": 0})
    assert it.missed("killed") < MISSED, "a busy daemon may miss one"
    it.run(2 * REGISTERED_SECONDS, {"own": 0})
    assert it.missed("killed") >= MISSED


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_clocks_do_not_matter(own: float, other: float) -> None:
    it = Group()
    it.run(300, {"own": own, "other": other})
    assert it.missed("other") <= 1


def test_nobody_misses_anything_while_the_engine_or_this_daemon_stands_still() -> None:
    it = Group()
    it.run(300, {"own": 0, "other": 0})
    it.run(3600, {})  # nobody can register
    assert it.missed("other") <= 1
    it.now += 3600  # this daemon is frozen
    it.run(REGISTERED_SECONDS, {"own": 0, "other": 0})
    assert it.missed("other") <= 1


def test_reloads_of_this_daemon_are_no_intervals() -> None:
    it = Group()
    it.run(300, {"own": 0, "other": 0})
    for number in range(20):
        it.times["own"] = it.now + number / 100
        it.renewals.read(it.times, it.now + number / 100)
    assert it.missed("other") <= 1


def test_an_earlier_version_has_its_own_interval() -> None:
    it = Group()
    it.times["earlier"] = 0.0
    it.run(600, {"own": 0})
    assert it.missed("earlier", 600.0) <= 1
    it.run(MISSED * 600, {"own": 0})
    assert it.missed("earlier", 600.0) >= MISSED
