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


def test_sums_keep_the_newest_example_of_each_bucket() -> None:
    first, second, total = Histogram(), Histogram(), Histogram()
    given = ((first, 0.2, "a"), (second, 0.2, "b"), (first, 3.0, "c"), (second, 70.0, "d"))
    for at, (histogram, seconds, trace) in enumerate(given):
        histogram.observe(seconds)
        histogram.example(seconds, trace, at)
    for each in (second, first):
        total.add(each)
    assert (sum(total.counts), total.total) == (4, 73.4)
    assert {each.seconds: each.trace_id for each in (total.exemplars or {}).values()} == {0.2: "b", 3.0: "c", 70.0: "d"}
    assert Histogram().exemplars is None
