from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.offsets import OffsetTracker


class NaiveTracker:
    """Reference implementation: remembers everything and recomputes everything."""

    def __init__(self, done: set[int]) -> None:
        self.fetched: list[int] = []
        self.before = done
        self.completed = set(done)

    def prefix(self) -> list[int]:
        found: list[int] = []
        for offset in self.fetched:
            if offset not in self.completed:
                break
            found.append(offset)
        return found

    @property
    def committable(self) -> int | None:
        prefix = self.prefix()
        return prefix[-1] + 1 if prefix else None

    @property
    def gap(self) -> int:
        return len(self.fetched) - len(self.prefix())

    @property
    def completed_above(self) -> list[int]:
        last = self.fetched[-1] if self.fetched else -1
        above = set(self.fetched[len(self.prefix()) :]) | {offset for offset in self.before if offset > last}
        return sorted(above & self.completed)


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=80),
    done=st.sets(st.integers(0, 40), max_size=10),
)
def test_the_tracker_agrees_with_its_definition(steps: list[tuple[bool, int]], done: set[int]) -> None:
    """A step fetches the next offset after `number` holes, or completes any offset, fetched or not."""
    tracker, model, offset = OffsetTracker(done), NaiveTracker(done), 0
    for fetch, number in steps:
        if fetch:
            offset += number % 3
            assert tracker.fetched(offset, None, offset / 2) is (offset not in done)
            model.fetched.append(offset)
            offset += 1
        elif model.fetched:
            chosen = number if number % 5 == 0 else model.fetched[number % len(model.fetched)]
            is_open = chosen in model.fetched and chosen not in model.completed
            assert tracker.complete(chosen) is is_open
            if is_open:
                model.completed.add(chosen)
        assert tracker.committable == model.committable
        assert tracker.gap == model.gap
        assert tracker.completed_above == model.completed_above
        still_open = [offset for offset in model.fetched if offset not in model.completed]
        assert tracker.outstanding == len(still_open)
        assert tracker.oldest == (still_open[0] / 2 if still_open else None)


def test_holes_do_not_stop_the_prefix() -> None:
    tracker = OffsetTracker()
    for offset in (5, 9, 20):
        tracker.fetched(offset)
    tracker.complete(9)
    assert (tracker.committable, tracker.completed_above) == (None, [9])
    tracker.complete(5)
    assert (tracker.committable, tracker.completed_above, tracker.gap) == (10, [], 1)
    tracker.complete(20)
    assert (tracker.committable, tracker.gap) == (21, 0)


def test_offsets_must_increase() -> None:
    tracker = OffsetTracker()
    tracker.fetched(3)
    with pytest.raises(ValueError, match="offset 3 follows 3"):
        tracker.fetched(3)
