"""Contract tests for brokers with positions of groups. Suites subclass PositionContract as they do `BrokerContract`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from bridge.brokers.base import BacklogBroker, Broker, Delivery, Partition, Subscription
from bridge.brokers.positions import (
    GroupActive,
    GroupPosition,
    MovableSubscription,
    Move,
    Moved,
    PositionedBroker,
)
from bridge.core.errors import PartitionRevoked
from tests.brokers.consumer import ORDERS, Assignments, Harness, consume, nothing_more, numbered, numbers, take
from tests.kit.waiting import TIMEOUT, eventually

PLACE = ("orders", 0)
STAMP = 1_700_000_000_000


async def position(harness: Harness, group: str = ORDERS.group) -> GroupPosition:
    """Return the position of a group in the only partition, as a client outside of the group sees it."""
    broker = await harness.broker()
    assert isinstance(broker, PositionedBroker)
    [found] = await broker.positions(replace(ORDERS, group=group))
    return found


async def moved(subscription: Subscription, to: int, stamp: int = STAMP) -> dict[tuple[str, int], Moved]:
    assert isinstance(subscription, MovableSubscription)
    async with asyncio.timeout(TIMEOUT):
        return await subscription.move({PLACE: Move(to, stamp)})


async def ready(harness: Harness, count: int) -> Broker:
    """Create the topic with one partition and `count` messages."""
    await harness.create_topic("orders", 1)
    broker = await harness.broker()
    await broker.publish("orders", numbered(count))
    return broker


async def completed(deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        await delivery.complete()


class PositionContract:
    """Positions read from outside, and moved from outside and by members."""

    async def test_a_position_is_known_without_a_member(self, harness: Harness) -> None:
        await ready(harness, 10)
        before = await position(harness)
        assert (before.begin, before.end, before.committed, before.start, before.lag) == (0, 10, None, 0, 10)
        assert (await position(harness, "late")).committed is None
        subscription = await consume(harness)
        deliveries = await take(subscription, 6)
        await completed([*deliveries[:2], deliveries[4]])
        await subscription.flush()
        now = await position(harness)
        assert (now.committed, now.start, now.done, now.lag, now.stamp) == (2, 2, (4,), 7, 0)
        assert now.member
        await subscription.close()
        assert not (await position(harness)).member

    async def test_looking_creates_nothing(self, harness: Harness) -> None:
        broker = await harness.broker()
        assert isinstance(broker, PositionedBroker)
        assert isinstance(broker, BacklogBroker)
        assert await broker.positions(ORDERS) == []
        assert "orders" not in await cast(Any, broker).topics()

    async def test_offsets_of_a_time(self, harness: Harness) -> None:
        broker = await ready(harness, 3)
        await asyncio.sleep(0.01)  # a later time of the broker, in milliseconds
        between = time.time()
        await asyncio.sleep(0.01)
        await broker.publish("orders", numbered(2, 3))
        found = await position(harness)
        assert isinstance(broker, PositionedBroker)
        assert await broker.offsets_at({PLACE: found}, between) == {PLACE: 3}
        assert await broker.offsets_at({PLACE: found}, 0) == {PLACE: 0}
        assert await broker.offsets_at({PLACE: found}, time.time() + 3600) == {PLACE: 5}

    async def test_a_scan_reads_a_range_and_may_leave_a_partition(self, harness: Harness) -> None:
        broker = await ready(harness, 10)
        assert isinstance(broker, PositionedBroker)
        found = []
        async with aclosing(cast(Any, broker.scan(ORDERS, {PLACE: (2, 7)}))) as messages:
            async for place, offset, message in messages:
                assert place == PLACE
                found.append((offset, message.body))
        assert found == [(n, b"%d" % n) for n in range(2, 7)]
        ranges = {PLACE: (2, 7)}
        first = []
        async with aclosing(cast(Any, broker.scan(ORDERS, ranges))) as messages:
            async for _, offset, _ in messages:
                first.append(offset)
                ranges.clear()
        assert first == [2]

    async def test_without_members_the_position_moves_back_and_forward(self, harness: Harness) -> None:
        broker = await ready(harness, 10)
        subscription = await consume(harness)
        deliveries = await take(subscription, 10)
        await completed([*deliveries[:3], deliveries[5], deliveries[8]])
        await subscription.close()
        assert isinstance(broker, PositionedBroker)
        # Forward: what was completed behind the target stays completed
        await broker.move(ORDERS, {PLACE: Move(6, STAMP)})
        found = await position(harness)
        assert (found.committed, found.done, found.stamp) == (6, (8,), STAMP)
        subscription = await consume(harness)
        assert numbers(await take(subscription, 3)) == [6, 7, 9]
        await subscription.close()
        # Back: everything comes again
        await broker.move(ORDERS, {PLACE: Move(4, STAMP + 1)})
        found = await position(harness)
        assert (found.committed, found.done, found.stamp) == (4, (), STAMP + 1)
        assert numbers(await take(await consume(harness), 6)) == [4, 5, 6, 7, 8, 9]

    async def test_with_members_nobody_else_moves_the_position(self, harness: Harness) -> None:
        broker = await ready(harness, 3)
        subscription = await consume(harness)
        await completed(await take(subscription, 3))
        await subscription.flush()
        assert isinstance(broker, PositionedBroker)
        with pytest.raises(GroupActive):
            await broker.move(ORDERS, {PLACE: Move(0, STAMP)})
        assert (await position(harness)).committed == 3
        await nothing_more(subscription)

    async def test_a_member_moves_back_after_its_deliveries_in_flight(self, harness: Harness) -> None:
        broker = await ready(harness, 6)
        listener = Assignments()
        subscription = await (await harness.broker()).subscribe(ORDERS, listener)
        deliveries = await take(subscription, 6)
        await completed(deliveries[:3])

        async def finish(partitions: Sequence[Partition]) -> None:
            assert not deliveries[3].partition.revoked
            await deliveries[3].complete()

        listener.on_revoked = finish
        assert await moved(subscription, 1) == {PLACE: Moved(1, 4)}
        found = await position(harness)
        assert (found.committed, found.done, found.stamp) == (1, (), STAMP)
        # Late completions of the former assignment change nothing
        with pytest.raises(PartitionRevoked):
            await deliveries[4].complete()
        await deliveries[5].abandon()
        [old], [new] = listener.revoked_ever, listener.assigned_now
        assert old.revoked
        assert not new.revoked
        again = await take(subscription, 5)
        assert numbers(again) == [1, 2, 3, 4, 5]
        await nothing_more(subscription)
        await completed(again)
        await broker.publish("orders", numbered(1, 6))
        await completed(await take(subscription, 1))
        await subscription.flush()
        assert (await position(harness)).committed == 7

    async def test_a_member_moves_forward_and_keeps_what_is_completed_behind(self, harness: Harness) -> None:
        await ready(harness, 10)
        subscription = await consume(harness)
        deliveries = await take(subscription, 10)
        await completed([deliveries[0], deliveries[5], deliveries[8]])
        assert await moved(subscription, 5) == {PLACE: Moved(5, 1)}
        assert (await position(harness)).done == (5, 8)
        assert numbers(await take(subscription, 3)) == [6, 7, 9]
        await nothing_more(subscription)

    async def test_a_move_is_applied_once_also_by_the_next_member(self, harness: Harness) -> None:
        await ready(harness, 6)
        subscription = await consume(harness)
        await completed(await take(subscription, 6))
        assert await moved(subscription, 2) == {PLACE: Moved(2, 6)}
        again = await take(subscription, 4)
        await completed([*again[:2], again[3]])
        assert await moved(subscription, 2) == {PLACE: Moved(2, None)}
        await subscription.flush()
        found = await position(harness)
        assert (found.committed, found.done, found.stamp) == (4, (5,), STAMP)
        await subscription.close()
        following = await consume(harness)
        assert await moved(following, 2) == {PLACE: Moved(2, None)}
        [left] = await take(following, 1)
        assert numbers([left]) == [4]
        await completed([left])
        await following.flush()
        assert (await position(harness)).stamp == STAMP
        # An earlier move is as good as applied, a later one is not
        assert await moved(following, 0, STAMP - 1) == {PLACE: Moved(0, None)}
        assert (await moved(following, 0, STAMP + 1))[PLACE].before is not None
        assert numbers(await take(following, 6)) == [0, 1, 2, 3, 4, 5]

    async def test_a_move_survives_a_crash(self, harness: Harness) -> None:
        await ready(harness, 6)
        subscription = await consume(harness)
        await completed(await take(subscription, 6))
        await moved(subscription, 2)
        await completed(await take(subscription, 4))
        await harness.crash()  # the completions after the move are not committed
        following = await consume(harness)
        assert await moved(following, 2) == {PLACE: Moved(2, None)}
        assert numbers(await take(following, 4)) == [2, 3, 4, 5]

    async def test_partitions_of_others_are_left_out(self, harness: Harness) -> None:
        await harness.create_topic("shared", 2)
        options = replace(ORDERS, topics=("shared",))
        first, second = Assignments(), Assignments()
        one = await (await harness.broker()).subscribe(options, first)
        two = await (await harness.broker()).subscribe(options, second)
        await first.until(lambda: len(first.assigned_now) == 1)
        await second.until(lambda: len(second.assigned_now) == 1)
        [mine], [theirs] = first.assigned_now, second.assigned_now
        both = {("shared", 0): Move(0, STAMP), ("shared", 1): Move(0, STAMP), ("shared", 7): Move(0, STAMP)}
        for subscription, place in ((one, mine.number), (two, theirs.number)):
            assert isinstance(subscription, MovableSubscription)
            assert await subscription.move(both) == {("shared", place): Moved(0, 0)}

    async def test_a_rebalance_during_a_move_ends_with_one_position(self, harness: Harness) -> None:
        """A member joins while the moving member waits for its deliveries in flight."""
        await harness.create_topic("shared", 2)
        options = replace(ORDERS, topics=("shared",))
        publisher = await harness.broker()
        await publisher.publish("shared", numbered(20))
        first, second = Assignments(), Assignments()
        one = await (await harness.broker()).subscribe(options, first)
        await completed(await take(one, 20))
        joined = asyncio.Event()

        async def wait(partitions: Sequence[Partition]) -> None:
            await asyncio.wait_for(joined.wait(), TIMEOUT)

        first.on_revoked = wait
        assert isinstance(one, MovableSubscription)
        moves = {("shared", number): Move(0, STAMP) for number in (0, 1)}
        moving = asyncio.create_task(one.move(moves))
        joining = asyncio.create_task((await harness.broker()).subscribe(options, second))
        await asyncio.sleep(0.5)  # nothing tells that the member asks to join
        joined.set()
        two = await joining
        await moving
        await first.until(lambda: len(first.assigned_now) == 1)
        await second.until(lambda: len(second.assigned_now) == 1)
        assert isinstance(two, MovableSubscription)
        found: dict[Any, Moved] = {}
        async with asyncio.timeout(TIMEOUT):
            while len(found) < 2:
                found = {**await one.move(moves), **await two.move(moves)}
        seen: list[Delivery] = []
        tasks = [asyncio.create_task(_drain(each, seen)) for each in (one, two)]
        await eventually(lambda: len({*numbers(seen)}) >= 20)
        for task in tasks:
            task.cancel()
        assert sorted({*numbers(seen)}) == list(range(20))


async def _drain(subscription: Subscription, into: list[Delivery]) -> None:
    while True:
        into += await subscription.receive(100)
