"""Simultaneous failures, unexpected failures, and failures during a stop: no message is stuck, lost or miscounted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.brokers.base import Broker, Delivery, Listener, SubscribeOptions
from bridge.core.commands import Command
from bridge.core.errors import BrokerUnavailable, EngineRejected, EngineUnavailable, InstanceNotFound
from bridge.core.message import Envelope, Message, Position
from bridge.core.provenance import Cause
from tests.kit.pipeline import held_lanes, message, running_pipeline
from tests.kit.waiting import TIMEOUT


class Refused:
    """Delivery whose dead letter cannot be written while `broker.refuses`."""

    def __init__(self, delivery: Delivery, broker: Flaky) -> None:
        self._delivery = delivery
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    async def dead_letter(self, cause: Cause) -> None:
        self._broker.writing.set()
        await self._broker.write.wait()
        if self._broker.refuses:
            raise BrokerUnavailable("no dead letters")
        await self._delivery.dead_letter(cause)


class Flaky:
    """Real broker that refuses dead letters and reads on demand."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.refuses = False
        self.unreadable = False
        self.writing, self.write, self.read = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.write.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Any:
        subscription = await self._broker.subscribe(options, listener)
        receive = subscription.receive

        async def flaky(limit: int) -> Sequence[Delivery]:
            if self.unreadable:
                self.read.set()
                raise BrokerUnavailable("no reads")
            return [Refused(delivery, self) for delivery in await receive(limit)]

        subscription.receive = flaky  # type: ignore[method-assign]  # fails for the real one
        return subscription


async def test_a_dead_letter_refused_while_reading_fails_is_written_later(tmp_path: Path) -> None:
    reject = asyncio.Event()

    async def rejected(command: Command) -> None:
        flaky.unreadable = True
        await reject.wait()
        raise EngineRejected("no")

    async with running_pipeline(tmp_path, source="    retry: {initial: 50ms}", broker=Flaky) as it:
        flaky: Any = it.broker
        it.faults.before = rejected
        await it.publish(message("start", "a-1", "a"))
        await it.source.start()
        await it.until(lambda: it.faults.tried, "at work")
        # The pending read ends with this message
        await it.publish(message("unheard-of", "b-1", "b"))
        async with asyncio.timeout(TIMEOUT):
            await flaky.read.wait()
        assert "broker" in it.source.gate.pause_reasons
        flaky.refuses = True
        reject.set()
        await it.until(lambda: held_lanes(it.source.lanes), "held")
        flaky.refuses = flaky.unreadable = False
        await it.settled(2)
        assert it.source.ledger.dead_letters == {"engine_rejected": 1, "no_route": 1}


async def test_a_decoder_that_fails_unexpectedly_costs_one_message(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source="    retry: {initial: 1ms}") as it:
        rules = it.rules.current

        def broken(given: Message, position: Position) -> Envelope:
            if given.key == b"bad":
                raise RuntimeError("a bug")
            return rules.decode(given, position)

        it.rules.replace(replace(rules, decode=broken))
        await it.publish(message("start", "a-1", "bad"), message("start", "b-1", "good"))
        await it.source.start()
        await it.settled(2)
        assert it.source.ledger.dead_letters == {"bug": 1}
        assert it.source.ledger.bugs == 3
        [entry] = await it.read("orders.dlq", 1)
        assert dict(entry.headers)["bridge.error"] == b"RuntimeError"


async def test_an_outage_does_not_use_up_the_time_of_retries(tmp_path: Path) -> None:
    async def missing(command: Command) -> None:
        if len(it.faults.tried) == 1:
            it.faults.outage = EngineUnavailable("away")
            raise InstanceNotFound("not yet")
        if len(it.faults.tried) < lost_after + 3:
            raise InstanceNotFound("not yet")

    lost_after = 10**9
    async with running_pipeline(tmp_path, source="    retry: {initial: 20ms, multiplier: 1, in_memory: 200ms}") as it:
        it.faults.before = missing
        await it.publish(message("start", "k-1", "k"))
        await it.source.start()
        await it.until(lambda: held_lanes(it.source.lanes), "held")
        await asyncio.sleep(0.4)
        lost_after = len(it.faults.tried)
        it.faults.outage = None
        await it.settled(1)
        assert it.source.ledger.outcomes["executed"] == 1


async def test_a_dead_letter_refused_while_draining_is_given_back(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, broker=Flaky) as it:
        flaky: Any = it.broker
        flaky.write.clear()
        flaky.refuses = True
        await it.publish(message("unheard-of", "a-1", "a"), message("start", "a-2", "a"))
        await it.source.start()
        async with asyncio.timeout(TIMEOUT):
            await flaky.writing.wait()
        draining = asyncio.create_task(it.source.drain(TIMEOUT))
        await it.until(lambda: it.source.ledger.abandoned["drain"] == 1, "what waits is given back")
        flaky.write.set()
        await draining
        assert it.source.ledger.abandoned["drain"] == 2
        assert it.source.ledger.in_flight == 0


async def test_a_message_of_many_commands_leaves_room_for_others(tmp_path: Path) -> None:
    routes = """
  - name: each
    from: orders
    for_each: payload.lines
    schedule: {orchestration: order, instance_id: "line-{{ item }}", input: "null"}
"""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def first(command: Command) -> None:
        nonlocal turns
        if len(it.faults.tried) == 1:
            turns = 0

    async with running_pipeline(tmp_path, routes=routes) as it:
        it.faults.before = first
        await it.publish(message("start", 1, "k", lines=list(range(640))))
        others = asyncio.create_task(count())
        await it.source.start()
        await it.until(lambda: len(it.faults.taken) == 640, "all taken")
        others.cancel()
        assert turns >= 640 // 32 - 1, "a turn for the others between every 32 commands"
