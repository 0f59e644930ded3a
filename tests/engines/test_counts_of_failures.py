"""Counts of failed instances, by rows of the engine's file."""

from __future__ import annotations

import time

from bridge.core.system_names import SAGA
from bridge.engines.embedded.engine import _summed


def test_compensated_sagas_are_not_among_the_failures() -> None:
    today = int(time.time()) // 86_400
    rows = [
        (0, "place", "checkout", "FAILED", "compensated", 2),
        (0, "place", "checkout", "FAILED", "compensation_failed", 1),
        (0, "plain", "", "FAILED", "", 4),
        (0, SAGA, "declared", "FAILED", "failed", 8),
        (0, "plain", "", "COMPLETED", "", 16),
        (today, "place", "checkout", "FAILED", "compensated", 32),
        (today, "plain", "", "FAILED", "", 64),
        (today - 1, "plain", "", "FAILED", "", 128),
    ]
    counts = _summed(rows)
    assert dict(counts.failed) == {"place": 1, "plain": 4, "declared": 8}
    assert dict(counts.failed_today) == {"plain": 64}
    assert counts.instances["place", "FAILED"] == 3
