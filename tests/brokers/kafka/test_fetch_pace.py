"""Pace of fetches at the end of a log: frequent records come several to an answer, all others at once."""

from __future__ import annotations

import random

import pytest

from bridge.brokers.kafka.fetch_pace import PAUSE, FetchPace


def answers(rate: float, seconds: float, gaps: random.Random | None) -> tuple[list[float], int]:
    """Pauses after the answers to records at this rate, and the number of records.

    gaps: source of random gaps between records; None for equal ones.
    """
    pace = FetchPace()
    now, ready, pauses, records = 0.0, 0.0, [], 0
    waiting = 0
    while now < seconds:
        now += 1 / rate if gaps is None else gaps.expovariate(rate)
        records += 1
        waiting += 1
        if now >= ready:
            pauses.append(pace.pause_after(waiting, now))
            ready, waiting = now + pauses[-1], 0
    return pauses, records


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_at_a_hundred_a_second_every_record_comes_at_once(seed: int | None) -> None:
    pauses, records = answers(100, 60.0, None if seed is None else random.Random(seed))
    assert len(pauses) == records
    assert not any(pauses)


@pytest.mark.parametrize("rate", [600, 1200, 5000])
def test_frequent_records_share_their_answers(rate: float) -> None:
    pauses, records = answers(rate, 10.0, None)
    assert sum(map(bool, pauses)) > 0.95 * len(pauses)
    assert set(pauses) == {0.0, PAUSE}
    assert len(pauses) < 0.6 * records
    assert len(pauses) <= 10.0 / PAUSE


def test_the_pace_ends_with_the_load() -> None:
    pace = FetchPace()
    for number in range(1000):
        pace.pause_after(1, number / 1000)
    assert pace.pause_after(1, 1.0)
    assert not pace.pause_after(1, 1.5)


def test_many_records_in_one_answer_pause_for_a_moment_only() -> None:
    pace = FetchPace()
    assert pace.pause_after(10_000, 0.0) == PAUSE
    assert not pace.pause_after(1, 2.0)
    assert not pace.pause_after(0, 2.0)
