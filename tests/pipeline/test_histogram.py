"""Counts of durations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.histogram import DELIVERY_SECONDS as SECONDS
from bridge.core.histogram import Histogram


@settings(deadline=None)
@given(st.lists(st.floats(0, 10_000)))
def test_every_duration_is_in_the_first_bucket_that_holds_it(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.observe(duration)
    assert len(histogram.counts) == len(histogram.bounds) + 1
    running = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        running += count
        assert running == sum(duration <= bound for duration in durations)
    assert sum(histogram.counts) == len(durations)
    assert histogram.total == pytest.approx(sum(durations))


def test_bounds_ascend() -> None:
    assert list(SECONDS) == sorted(set(SECONDS))
