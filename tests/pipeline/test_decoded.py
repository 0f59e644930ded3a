"""Decoded forms of large messages are bounded, and messages that wait have none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from bridge.core.commands import Command
from bridge.core.errors import EngineRejected, EngineUnavailable
from bridge.core.message import Message
from bridge.pipeline.decoded import SHARE, SMALL
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.source import SourcePipeline
from tests.kit.pipeline import held_lanes, message, offsets_by_key, running_pipeline
from tests.pipeline.test_recovery import Flaky

KIB = 1024
FAN_TYPE = (("type", b"fan"),)
LIMITS = "    limits: {max_in_flight_bytes: 4MiB}"
ROOM = 4 * KIB * KIB // SHARE
FAN = """
  - name: fan
    from: orders
    match: {type: fan}
    for_each: payload.items
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}-{{ item }}", input: payload.fill}
"""


def large(number: int, key: str | None = None, size: int = 100 * KIB) -> Message:
    return message("start", f"{key or number}-{number}", key, fill="z" * size)


def decoded(source: SourcePipeline) -> list[InFlightDelivery]:
    """Return the large items that hold a decoded payload or a decision made of it."""
    items = [item for lane in source.lanes for item in lane.items if item.size > SMALL]
    return [each for each in items if (each.envelope is not None and each.envelope.data) or each.decision is not None]


class Blocked:
    """Engine that answers no command until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, command: Command) -> None:
        await self.gate.wait()


async def test_a_backlog_is_decoded_in_bounded_portions(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source=LIMITS) as it:
        blocked = it.faults.before = Blocked()
        await it.publish(*(large(number) for number in range(30)))
        await it.source.start()
        await it.until(lambda: it.source.ledger.in_flight == 30 and held_lanes(it.source.lanes), "all in flight")
        assert 0 < sum(each.size for each in decoded(it.source)) == it.source.decoded.bytes <= ROOM
        await it.publish(*(message("start", f"s-{number}") for number in range(20)))
        await it.until(lambda: len(it.faults.tried) >= 20, "small messages do not wait for large ones")
        blocked.gate.set()
        await it.settled(50)
        assert it.source.ledger.outcomes["executed"] == 50
        assert it.source.decoded.bytes == 0


async def test_a_message_beyond_the_room_is_processed_alone(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source=LIMITS) as it:
        await it.publish(*(large(number, f"k{number % 3}", 900 * KIB) for number in range(9)))
        await it.source.start()
        await it.settled(9)
        assert it.source.ledger.outcomes["executed"] == 9
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(it.faults.taken).values())


async def test_messages_that_wait_for_an_outage_hold_no_decoded_form(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source=LIMITS + "\n    retry: {in_memory: 10ms}") as it:
        it.faults.outage = EngineUnavailable("away")
        await it.publish(*(large(number, f"k{number % 7}") for number in range(28)), message("start", "s-1", "s"))
        await it.source.start()
        await it.until(lambda: held_lanes(it.source.lanes) == 8 and not it.source.at_work, "held")
        await it.until(lambda: not decoded(it.source), "no decoded form")
        assert [len(lane.items) for lane in it.source.lanes if lane.items[0].envelope is not None] == [1], (
            "the small one"
        )
        it.faults.outage = None
        await it.settled(29)
        assert it.source.ledger.outcomes["executed"] == 29
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(it.faults.taken).values())


async def test_a_retry_goes_on_at_the_step_where_the_message_stopped(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, FAN, source=LIMITS + "\n    retry: {in_memory: 1m}") as it:
        failing = True

        async def fail_once(command: Command) -> None:
            nonlocal failing
            if failing and command.instance_id.endswith("-3"):  # type: ignore[union-attr]  # schedules only
                failing = False
                raise EngineUnavailable("once")

        it.faults.before = fail_once
        await it.publish(Message(orjson.dumps({"id": 1, "items": [*range(6)], "fill": "z" * 50_000}), b"k", FAN_TYPE))
        await it.source.start()
        await it.settled(1)
        assert [command.instance_id for command in it.faults.taken] == [f"order-1-{n}" for n in range(6)]  # type: ignore[union-attr]


async def test_an_ordering_expression_sees_large_messages(tmp_path: Path) -> None:
    source = LIMITS + "\n    ordering: \"{{ payload.id.split('-')[0] }}\""
    async with running_pipeline(tmp_path, source=source) as it:
        await it.publish(*(large(number, None) for number in range(3)))
        await it.publish(*(message("start", f"k{n % 5}-{n}", "one", fill="z" * 60 * KIB) for n in range(30)))
        await it.source.start()
        await it.settled(33)
        assert it.source.ledger.outcomes["executed"] == 33
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(it.faults.taken).values())


async def test_a_dead_letter_that_waits_for_its_broker_keeps_its_cause(tmp_path: Path) -> None:
    async def refuse(command: Command) -> None:
        raise EngineRejected("too large")

    async with running_pipeline(tmp_path, source=LIMITS, broker=Flaky) as it:
        it.faults.before = refuse
        it.broker.refuses = True  # type: ignore[attr-defined]  # a Flaky
        await it.publish(*(large(number) for number in range(12)))
        await it.source.start()
        await it.until(lambda: len(it.faults.tried) == 12 and not it.source.at_work, "all wait for the broker")
        assert not decoded(it.source)
        it.broker.refuses = False  # type: ignore[attr-defined]  # a Flaky
        await it.settled(12)
        for dead_letter in await it.read("orders.dlq", 12):
            headers = dict(dead_letter.headers)
            assert (headers["bridge.reason"], headers["bridge.route"]) == (b"engine_rejected", b"start")
            assert headers["bridge.message-id"]
            assert dead_letter.body is not None
            assert len(dead_letter.body) > 100 * KIB


@pytest.mark.parametrize("number", range(3))
async def test_a_drain_gives_back_those_that_wait_to_be_decoded(tmp_path: Path, number: int) -> None:
    async with running_pipeline(tmp_path, source=LIMITS) as it:
        blocked = it.faults.before = Blocked()
        await it.publish(*(large(each, None if number else f"k{each % 4}") for each in range(30)))
        await it.source.start()
        await it.until(lambda: it.source.ledger.in_flight == 30 and it.source.at_work, "at work")
        draining = asyncio.ensure_future(it.source.drain(5))
        await it.until(lambda: it.source.ledger.abandoned["drain"], "abandoned")
        blocked.gate.set()
        await draining
        assert it.source.decoded.bytes == 0
        assert not it.source.decoded._waiting
