"""Partition moves during retries: no loss, each start executed once, order per key kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.app.composition import build_broker, build_source, load_config
from bridge.brokers.base import Broker, Delivery, Listener, SubscribeOptions
from bridge.core.commands import Command
from bridge.core.errors import InstanceNotFound
from bridge.pipeline.settings import EnginePort
from tests.kit.pipeline import is_balanced, message, offsets_by_key, running_pipeline
from tests.kit.waiting import TIMEOUT


async def test_a_member_that_joins_and_leaves_under_load(tmp_path: Path) -> None:
    rng = random.Random(11)

    async def flaky(command: Command) -> None:
        await asyncio.sleep(rng.random() * 0.002)
        if rng.random() < 0.3:
            raise InstanceNotFound("injected")

    quick = "    retry: {initial: 1ms, max_delay: 20ms}"
    async with running_pipeline(tmp_path, source=quick) as it:
        it.faults.before = flaky
        loaded = load_config([tmp_path / "bridge.yaml"])
        await it.publish(*(message("start", f"k{number % 30}-{number}", f"k{number % 30}") for number in range(900)))
        await it.source.start()
        await it.settled(100)
        for _ in range(3):
            broker = build_broker(loaded, "local")
            await broker.start()
            target = EnginePort(it.faults.execute, it.breaker)
            other = build_source(loaded, "orders", {"local": broker}, {"default": target})
            await other.start()
            await it.until(lambda other=other: other.assignment, "the new member has its share")  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            await asyncio.sleep(0.1)
            assert is_balanced(other.ledger)
            await other.drain(5)
            assert other.ledger.in_flight == 0
            await broker.stop()
        await it.until(lambda: len({c.instance_id for c in it.faults.taken}) == 900, "all started")  # type: ignore[union-attr]  # schedules only
        await it.until(lambda: it.source.ledger.in_flight == 0, "all settled")
        first_effects = first_of(it.faults.taken)
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(first_effects).values())
        assert len(it.faults.taken) == 900, "the engine took each start once; repeats met the existing instance"


def first_of(commands: list[Command]) -> list[Command]:
    """Return the first start of each instance."""
    seen: dict[str, Command] = {}
    for command in commands:
        seen.setdefault(command.instance_id, command)  # type: ignore[union-attr]  # schedules only
    return list(seen.values())


async def test_a_revoked_partition_gives_back_what_waits_and_waits_for_what_runs(tmp_path: Path) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(command: Command) -> None:
        if command.instance_id == "order-a-0":  # type: ignore[union-attr]  # schedules only
            entered.set()
            await leave.wait()

    async with running_pipeline(tmp_path) as it:
        it.faults.before = slow
        await it.publish(*(message("start", f"a-{number}", "a") for number in range(5)))
        await it.source.start()
        async with asyncio.timeout(TIMEOUT):
            await entered.wait()
        partitions = [partition for partition in it.source.assignment if partition.gap]
        assert len(partitions) == 1
        revoking = asyncio.create_task(it.source.revoked(partitions))
        await it.until(lambda: it.source.ledger.abandoned["revoked"] == 4, "what waited is given back")
        await asyncio.sleep(0.02)
        assert not revoking.done(), "what runs is waited for"
        leave.set()
        async with asyncio.timeout(TIMEOUT):
            await revoking
        assert it.source.ledger.outcomes["executed"] == 1


class SlowHandout:
    """Real broker whose subscription returns a batch only after `go` is set."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.fetched, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Any:
        subscription = await self._broker.subscribe(options, listener)
        receive = subscription.receive

        async def late(limit: int) -> Sequence[Delivery]:
            deliveries = await receive(limit)
            self.fetched.set()
            await self.go.wait()
            return deliveries

        subscription.receive = late  # type: ignore[method-assign]  # delays what the real one does
        return subscription


async def test_what_was_handed_out_before_a_revocation_and_seen_after_it_is_not_executed(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, broker=SlowHandout) as it:
        await it.publish(*(message("start", f"a-{number}", "a") for number in range(5)))
        await it.source.start()
        slow: Any = it.broker
        async with asyncio.timeout(TIMEOUT):
            await slow.fetched.wait()
            await it.source.revoked([partition for partition in it.source.assignment if partition.gap])
        slow.go.set()
        await it.until(lambda: it.source.ledger.abandoned["revoked"] == 5, "given back")
        assert it.faults.tried == []


class SlowFarewell:
    """Real broker whose subscription delays the cancellation of a receive."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.leaving, self.left = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Any:
        subscription = await self._broker.subscribe(options, listener)
        receive = subscription.receive

        async def slow(limit: int) -> Sequence[Delivery]:
            try:
                return await receive(limit)
            except asyncio.CancelledError:
                self.leaving.set()
                await self.left.wait()
                raise

        subscription.receive = slow  # type: ignore[method-assign]  # delays what the real one does
        return subscription


async def test_what_follows_a_message_given_back_by_a_drain_is_not_executed(tmp_path: Path) -> None:
    entered, fail = asyncio.Event(), asyncio.Event()

    async def first_fails(command: Command) -> None:
        entered.set()
        await fail.wait()
        raise InstanceNotFound("injected")

    async with running_pipeline(tmp_path, broker=SlowFarewell) as it:
        it.faults.before = first_fails
        slow: Any = it.broker
        await it.publish(*(message("start", f"a-{number}", "a") for number in range(3)))
        await it.source.start()
        async with asyncio.timeout(TIMEOUT):
            await entered.wait()
            draining = asyncio.create_task(it.source.drain(5))
            await slow.leaving.wait()
            fail.set()
            await it.until(lambda: it.source.at_work == 0, "the first failed")
            slow.left.set()
            await draining
        assert [command.instance_id for command in it.faults.tried] == ["order-a-0"]  # type: ignore[union-attr]  # schedules only
        assert it.source.ledger.abandoned["drain"] == 3
