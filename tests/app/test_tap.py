"""Choice of one tap: bounded time for its condition, bounded bytes, and counts that add up."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.app.serve.views.tap import LARGEST, MOST_BYTES, Tap, TapOptions
from bridge.core.errors import InvalidCommand
from bridge.core.message import Envelope, Message, Position
from bridge.core.states import Outcome
from bridge.pipeline.decisions import SettledDelivery
from tests.pipeline.deliveries import Unsettled


def settled(number: int, body: bytes = b"{}", data: Any = None) -> SettledDelivery:
    position = Position("c", "t", 0, number)
    delivery: Any = Unsettled(Message(body), position)
    envelope = Envelope("m", "m", "/s", "t", {"id": number} if data is None else data, position)
    return SettledDelivery(
        "orders", delivery, envelope, None, (), Outcome.EXECUTED, None, None, None, "", 0.1, 1, False, "v"
    )


def counts(tap: Tap) -> dict[str, int]:
    found: dict[str, int] = json.loads(tap.counts())["counts"]
    return found


def tap(**options: Any) -> Tap:
    return Tap(TapOptions(**options), lambda: ("v1", {}), "host/1")


async def test_conditions_take_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # No time passes while other processes have the processor
    clock = SimpleNamespace(monotonic=time.thread_time, thread_time=time.thread_time, time=time.time)
    monkeypatch.setattr("bridge.app.serve.views.tap.time", clock)
    it = tap(where="payload.id % 2 == 0", rate=1000)
    for number in range(30_000):
        it.offer(settled(number))
    found = counts(it)
    assert found["unchecked"] > 0
    assert found["settled"] == 30_000
    assert found["matched"] == found["shown"] + found["over_rate"] + found["unread"]
    assert 0 < found["matched"] < 15_000


async def test_bytes_that_wait_for_a_reader_are_bounded() -> None:
    it = tap(rate=1000, payload=True)
    for number in range(200):
        it.offer(settled(number, b'"' + b"x" * (LARGEST - 2) + b'"'))
    found = counts(it)
    assert found["shown"] + found["unread"] == 200
    assert MOST_BYTES // LARGEST - 1 <= found["shown"] <= MOST_BYTES // LARGEST + 1
    assert len([each async for each in it.waiting(0.01)]) == found["shown"]
    it.offer(settled(1))
    assert counts(it)["shown"] == found["shown"] + 1


async def test_a_body_beyond_the_limit_is_left_out() -> None:
    it = tap(payload=True)
    it.offer(settled(1, b"x" * (LARGEST + 1)))
    it.offer(settled(2, b"x" * LARGEST))
    first, second = [json.loads(each)["delivery"] async for each in it.waiting(0.01)]
    assert ("message" in first, "message" in second) == (False, True)
    assert first["size"] == LARGEST + 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"rate": 0}', '{"rate": 1001}', '{"outcomes": ["x"]}', '{"other": 1}', "[" * 100_000, "null", "1"],
)
def test_wrong_options_are_refused(text: str) -> None:
    with pytest.raises(InvalidCommand):
        TapOptions.parse(text)


async def test_a_wrong_condition_is_refused() -> None:
    with pytest.raises(InvalidCommand):
        tap(where="payload.")
