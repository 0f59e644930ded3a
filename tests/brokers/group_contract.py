"""Contract tests for brokers with consumer groups. Suites subclass GroupContract as they do `BrokerContract`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bridge.brokers.base import Delivery, SubscribeOptions, Subscription
from bridge.core.errors import PartitionRevoked
from bridge.core.message import Message
from tests.brokers.consumer import CAUSE, ORDERS, Assignments, Harness, consume, nothing_more, numbered, numbers, take
from tests.kit.waiting import eventually


class GroupContract:
    """Partition sharing, rebalances and pauses."""

    async def test_every_group_sees_everything(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(20))
        for group in ("a", "b"):
            subscription = await consume(harness, replace(ORDERS, group=group))
            deliveries = await take(subscription, 20)
            assert sorted(numbers(deliveries)) == list(range(20))
            for delivery in deliveries:
                await delivery.complete()
            await subscription.close()
        again = await consume(harness, replace(ORDERS, group="a"))
        await nothing_more(again)

    async def test_a_new_group_may_begin_at_the_end(self, harness: Harness) -> None:
        publisher = await harness.broker()
        await publisher.publish("orders", numbered(5))
        latest = replace(ORDERS, group="late", start="latest")
        subscription = await consume(harness, latest)
        await publisher.publish("orders", numbered(3, 5))
        assert sorted(numbers(await take(subscription, 3))) == [5, 6, 7]
        await subscription.close()
        # The group has a position now; `latest` has no effect any more.
        await publisher.publish("orders", numbered(1, 8))
        assert sorted(numbers(await take(await consume(harness, latest), 4))) == [5, 6, 7, 8]

    async def test_members_share_and_hand_over(self, harness: Harness) -> None:
        """The second member gets half of the partitions after the first has completed their deliveries in flight."""
        await harness.create_topic("shared", 4)
        options = SubscribeOptions(("shared",), "bridge")
        publisher = await harness.broker()
        keys = [b"%d" % n for n in range(100)]
        await publisher.publish("shared", [Message(key, key) for key in keys])
        first, second = Assignments(), Assignments()
        one = await (await harness.broker()).subscribe(options, first)
        held = await take(one, 100)

        async def finish(partitions: object) -> None:
            for delivery in held:
                if delivery.partition in partitions:  # type: ignore[operator]  # a sequence of partitions
                    assert not delivery.partition.revoked
                    await delivery.complete()

        first.on_revoked = finish
        two = await (await harness.broker()).subscribe(options, second)
        await second.until(lambda: len(second.assigned_now) == 2)
        await first.until(lambda: len(first.assigned_now) == 2)
        assert all(partition.revoked for partition in first.revoked_ever)
        # The completed deliveries of the first member are the group's position for the second.
        await nothing_more(two)
        await publisher.publish("shared", [Message(b"x" + key, key) for key in keys])
        mine = {partition.number for partition in first.assigned_now}
        theirs = {partition.number for partition in second.assigned_now}
        assert mine | theirs == {0, 1, 2, 3}
        seen: list[Delivery] = []
        tasks = [asyncio.create_task(_drain(each, seen)) for each in (one, two)]
        await eventually(lambda: len(seen) >= 100)
        for task in tasks:
            task.cancel()
        assert sorted(each.message.body or b"" for each in seen) == sorted(b"x" + key for key in keys)

    async def test_late_settlement_of_a_revoked_partition_is_refused(self, harness: Harness) -> None:
        await harness.create_topic("shared", 2)
        options = SubscribeOptions(("shared",), "bridge")
        await (await harness.broker()).publish("shared", [Message(b"%d" % n, b"%d" % n) for n in range(40)])
        first, second = Assignments(), Assignments()
        one = await (await harness.broker()).subscribe(options, first)
        held = await take(one, 40)
        two = await (await harness.broker()).subscribe(options, second)
        await second.until(lambda: len(second.assigned_now) == 1)
        # A broker may revoke all partitions and reassign some: those are new assignments.
        stale = [delivery for delivery in held if delivery.partition.revoked]
        [theirs] = second.assigned_now
        lost = [delivery for delivery in stale if delivery.partition.number == theirs.number]
        assert lost
        for delivery in stale:
            with pytest.raises(PartitionRevoked):
                await delivery.complete()
            await delivery.abandon()
        with pytest.raises(PartitionRevoked):
            await lost[0].dead_letter(CAUSE)
        # The new owner gets all of these messages; the stale calls changed nothing.
        assert sorted(numbers(await take(two, len(lost)))) == sorted(numbers(lost))
        for delivery in held:
            if delivery not in stale:
                await delivery.complete()

    async def test_the_last_member_inherits_everything(self, harness: Harness) -> None:
        await harness.create_topic("shared", 4)
        options = SubscribeOptions(("shared",), "bridge")
        publisher = await harness.broker()
        first, second = Assignments(), Assignments()
        one = await (await harness.broker()).subscribe(options, first)
        two = await (await harness.broker()).subscribe(options, second)
        await first.until(lambda: len(first.assigned_now) == 2)
        await second.until(lambda: len(second.assigned_now) == 2)
        await one.close()
        await second.until(lambda: len(second.assigned_now) == 4)
        await publisher.publish("shared", [Message(b"%d" % n, b"%d" % n) for n in range(40)])
        assert sorted(numbers(await take(two, 40))) == list(range(40))

    async def test_a_paused_partition_hands_out_nothing(self, harness: Harness) -> None:
        await harness.create_topic("two", 2)
        broker, listener = await harness.broker(), Assignments()
        await broker.publish("two", [Message(b"%d" % n, b"%d" % n) for n in range(40)])
        subscription = await broker.subscribe(SubscribeOptions(("two",), "bridge"), listener)
        await listener.until(lambda: len(listener.assigned_now) == 2)
        paused, other = listener.assigned_now
        first = await take(subscription, 1)
        paused.pause()
        paused.pause()
        other.resume()
        rest: list[Delivery] = []
        while True:
            try:
                async with asyncio.timeout(0.3):
                    rest += await subscription.receive(3)
            except TimeoutError:
                break
        assert {delivery.partition for delivery in rest} == {other}
        await broker.publish("two", [Message(b"%d" % n, b"%d" % n) for n in range(40, 60)])
        paused.resume()
        rest += await take(subscription, 60 - len(first) - len(rest))
        held = numbers([each for each in first + rest if each.partition is paused])
        assert held == sorted(held)
        assert len({*numbers(first), *numbers(rest)}) == 60


async def _drain(subscription: Subscription, into: list[Delivery]) -> None:
    while True:
        into += await subscription.receive(100)
