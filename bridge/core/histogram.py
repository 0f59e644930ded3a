"""Histograms of durations. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

DELIVERY_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0,
)  # fmt: skip
"""Bounds of the durations of deliveries."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds of the durations of requests, as OpenTelemetry proposes them."""

LONG_SECONDS = (*SECONDS, 60.0, 600.0, 3600.0, 86_400.0)
"""Bounds of durations that may be long."""


class Exemplar(NamedTuple):
    """Example of a duration. trace_id: its sampled trace. at: seconds since the Unix epoch."""

    trace_id: str
    seconds: float
    at: float


class Histogram:
    """Histogram of durations, cheap enough for every message.

    bounds: inclusive upper bounds in seconds, ascending.
    counts: one per bound and one above the last, not cumulative.
    total: sum of all observed seconds.
    exemplars: newest example of each bucket by its index; None while no duration had a trace.
    Not thread-safe.
    """

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...] = DELIVERY_SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] | None = None

    @classmethod
    def restored(
        cls, bounds: tuple[float, ...], counts: Sequence[int], total: float, exemplars: Mapping[int, Exemplar]
    ) -> Histogram:
        """Histogram that another process has counted; see the attributes. Raises: ValueError for other bounds."""
        if len(counts) != len(bounds) + 1:
            raise ValueError("a histogram with other bounds")
        found = cls(bounds)
        found.counts, found.total, found.exemplars = list(counts), total, dict(exemplars) or None
        return found

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def example(self, seconds: float, trace_id: str, at: float) -> None:
        """Keep the trace of a duration that was observed, as the newest example of its bucket.

        at: seconds since the Unix epoch.
        """
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, seconds)] = Exemplar(trace_id, seconds, at)

    def add(self, other: Histogram) -> None:
        """Add the durations of another histogram with the same bounds, with the newer examples."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        examples = dict(self.exemplars or {})
        for index, example in dict(other.exemplars or {}).items():
            if index not in examples or example.at >= examples[index].at:
                examples[index] = example
        self.exemplars = examples or None
