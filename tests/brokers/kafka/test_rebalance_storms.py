from __future__ import annotations

from bridge.brokers.kafka.detectors import LIMIT, WINDOW, RebalanceStormDetector


def test_a_group_that_comes_to_rest_is_fine_again() -> None:
    group = RebalanceStormDetector()
    for number in range(LIMIT):
        group.note(float(number))
    assert group.message(LIMIT, None) is None
    group.note(float(LIMIT))
    assert "members that crash" in (group.message(LIMIT, None) or "")
    assert "`instance_id: a`" in (group.message(LIMIT, "a") or "")
    assert group.message(WINDOW + 1, "a") is None


def test_seldom_changes_are_no_unrest() -> None:
    group = RebalanceStormDetector()
    for number in range(50):
        now = number * WINDOW / (LIMIT - 0.5)
        group.note(now)
        assert group.message(now, None) is None
