"""Contract tests for every broker.

A suite subclasses `BrokerContract` and provides the fixture `harness`. Suites of brokers with consumer groups also
subclass `GroupContract`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bridge.brokers.base import AgingSubscription, RereadableSubscription, SubscribeOptions, UnloadableDelivery
from bridge.core import provenance
from bridge.core.errors import LockLost, PartitionRevoked
from bridge.core.message import Message
from tests.brokers.consumer import (
    CAUSE,
    DEAD,
    ORDERS,
    Assignments,
    Harness,
    consume,
    nothing_more,
    numbered,
    numbers,
    take,
)
from tests.kit.waiting import TIMEOUT, eventually


class BrokerContract:
    """Publishing, receiving and settling."""

    @pytest.mark.parametrize(
        "message",
        [
            Message(bytes(range(256)), b"\x00\xff", (("binary", b"\x00\xfe\xff"), ("empty", b""), ("null", None))),
            Message(b"", b"k"),
            Message(b"no key, no headers"),
            Message("žluťoučký kůň".encode(), "ключ".encode(), (("имя", "день".encode()), ("x", b"1"), ("x", b"2"))),
            Message(b"time", b"k", timestamp=1_700_000_000.25),
        ],
        ids=["binary", "empty-body", "bare", "unicode", "timestamp"],
    )
    async def test_a_message_comes_back_as_it_was(self, harness: Harness, message: Message) -> None:
        broker = await harness.broker()
        capabilities = harness.capabilities
        if not capabilities.bytes_keys and message.key is not None:
            message = replace(message, key=message.key.decode("utf-8", "ignore").strip("\0").encode() or b"k")
        if not capabilities.repeated_headers:
            message = replace(message, headers=tuple(dict(message.headers).items()))
        await broker.publish("orders", [message])
        [delivery] = await take(await broker.subscribe(ORDERS, Assignments()), 1)
        got = delivery.message
        assert (got.body, got.key, got.headers) == (message.body, message.key, message.headers)
        assert got.timestamp is not None
        if capabilities.timestamps and message.timestamp is not None:
            assert abs(got.timestamp - message.timestamp) < 0.001
        assert delivery.position.topic == "orders"
        assert delivery.position.cluster
        assert delivery.attempt == 1

    async def test_a_log_returns_the_positions_of_what_it_has_stored(self, harness: Harness) -> None:
        broker = await harness.broker()
        sent = [Message(b"%d" % n, b"k%d" % (n % 7)) for n in range(40)]
        positions = await broker.publish("orders", sent)
        assert (positions is not None) == harness.capabilities.commits
        if positions is None:
            return
        deliveries = await take(await broker.subscribe(ORDERS, Assignments()), 40)
        lies = {delivery.position: delivery.message.body for delivery in deliveries}
        assert [None if each is None else lies[each] for each in positions] == [each.body for each in sent]
        assert await broker.publish("orders", []) == []

    async def test_a_tombstone_is_not_an_empty_body(self, harness: Harness) -> None:
        broker = await harness.broker()
        await broker.publish("orders", [Message(None, b"k"), Message(b"", b"k")])
        deliveries = await take(await broker.subscribe(ORDERS, Assignments()), 2)
        assert [delivery.message.body for delivery in deliveries] == [None, b""]

    async def test_a_large_message_passes(self, harness: Harness) -> None:
        broker = await harness.broker()
        body = bytes(range(256)) * (min(1024 * 1024, harness.capabilities.max_message) // 256)
        await broker.publish("orders", [Message(body, b"k"), Message(b"small", b"k"), Message(body[::-1], b"k")])
        deliveries = await take(await broker.subscribe(ORDERS, Assignments()), 3)
        assert [delivery.message.body for delivery in deliveries] == [body, b"small", body[::-1]]

    async def test_a_log_hands_out_again_what_was_handed_out(self, harness: Harness) -> None:
        broker = await harness.broker()
        sent = [Message(b"%d" % n * 300, b"k%d" % (n % 7), (("n", b"%d" % n),)) for n in range(40)]
        await broker.publish("orders", sent)
        subscription = await broker.subscribe(ORDERS, Assignments())
        deliveries = await take(subscription, 40)
        assert isinstance(subscription, RereadableSubscription) == harness.capabilities.commits
        if not isinstance(subscription, RereadableSubscription):
            return
        for partition in {delivery.partition for delivery in deliveries}:
            known = {each.position.offset: each.message for each in deliveries if each.partition is partition}
            for wanted in (sorted(known), sorted(known)[::2], [*sorted(known)[1:2], 99_999]):
                found = await subscription.reread(partition, wanted, 1 << 20)
                assert found == [(offset, known.get(offset)) for offset in wanted]
            assert len(await subscription.reread(partition, sorted(known), 0)) == 1
        await nothing_more(subscription)
        for delivery in deliveries:
            assert isinstance(delivery, UnloadableDelivery)
            message = delivery.message
            delivery.unload()
            assert (delivery.message.body, delivery.message.headers, delivery.message.key) == (None, (), message.key)
            delivery.load(message)
            await delivery.dead_letter(CAUSE)
        dead_letters = await take(await broker.subscribe(DEAD, Assignments()), 40)
        assert sorted(each.message.body or b"" for each in dead_letters) == sorted(each.body or b"" for each in sent)

    async def test_the_oldest_record_that_is_not_completed_has_an_age(self, harness: Harness) -> None:
        broker = await harness.broker()
        given = [1_700_000_000.0 + 10 * number for number in range(10)]
        sent = [Message(b"%d" % number, b"k", timestamp=time) for number, time in enumerate(given)]
        await broker.publish("orders", sent if harness.capabilities.timestamps else numbered(10, key=b"k"))
        subscription = await consume(harness)
        assert isinstance(subscription, AgingSubscription)

        def oldest() -> float | None:
            return min(subscription.oldest().values(), default=None)

        deliveries = await take(subscription, 4)
        times = [delivery.message.timestamp for delivery in deliveries]
        assert oldest() == times[0]
        await deliveries[1].complete()
        assert oldest() == times[0]
        await deliveries[0].complete()
        assert oldest() == times[2]
        await deliveries[2].abandon()
        await deliveries[3].complete()
        if harness.capabilities.ordered:
            assert oldest() == times[2]
            [again] = await take(subscription, 1)
            await again.complete()
            # The rest waits in the client
            assert times[3] is not None
            assert times[3] <= await eventually(oldest) <= given[4]
        for delivery in await take(subscription, 6 if harness.capabilities.ordered else 7):
            assert oldest() is not None
            await delivery.complete()
        assert oldest() is None

    async def test_order_is_kept_per_key(self, harness: Harness) -> None:
        broker = await harness.broker()
        subscription = await broker.subscribe(ORDERS, Assignments())
        for start in range(0, 300, 30):
            await broker.publish("orders", [Message(b"%d" % n, b"key-%d" % (n % 7)) for n in range(start, start + 30)])
        by_key: dict[bytes | None, list[int]] = {}
        for delivery in await take(subscription, 300, limit=11):
            by_key.setdefault(delivery.message.key, []).append(int(delivery.message.body or b""))
        assert sum(len(seen) for seen in by_key.values()) == 300
        assert all(seen == sorted(seen) for seen in by_key.values())

    async def test_limit_is_kept(self, harness: Harness) -> None:
        broker = await harness.broker()
        await broker.publish("orders", numbered(20))
        subscription = await broker.subscribe(ORDERS, Assignments())
        sizes: list[int] = []
        async with asyncio.timeout(TIMEOUT):
            while sum(sizes) < 20:
                sizes.append(len(await subscription.receive(3)))
        assert max(sizes) <= 3

    async def test_receive_wakes_on_publish_from_another_client(self, harness: Harness) -> None:
        publisher = await harness.broker()
        subscription = await consume(harness)
        for number in range(5):
            waiting = asyncio.create_task(take(subscription, 1))
            await asyncio.sleep(0.01)
            await publisher.publish("orders", numbered(1, number, b"k"))
            assert numbers(await waiting) == [number]

    async def test_several_topics_in_one_subscription(self, harness: Harness) -> None:
        broker = await harness.broker()
        topics = tuple(f"topic-{number}" for number in range(5))
        for number, topic in enumerate(topics):
            await broker.publish(topic, numbered(1, number))
        deliveries = await take(await broker.subscribe(SubscribeOptions(topics, "bridge"), Assignments()), 5)
        assert {delivery.position.topic: numbers([delivery])[0] for delivery in deliveries} == {
            topic: number for number, topic in enumerate(topics)
        }

    async def test_many_publishers_at_once(self, harness: Harness) -> None:
        brokers = [await harness.broker() for _ in range(3)]
        subscription = await consume(harness)
        await asyncio.gather(
            *(brokers[n % 3].publish("orders", numbered(5, n * 5, b"k%d" % (n % 4))) for n in range(60))
        )
        assert sorted(numbers(await take(subscription, 300))) == list(range(300))
        await nothing_more(subscription)

    async def test_close_wakes_receive(self, harness: Harness) -> None:
        subscription = await consume(harness)
        waiting = asyncio.create_task(subscription.receive(10))
        await asyncio.sleep(0.05)
        await subscription.close()
        async with asyncio.timeout(TIMEOUT):
            assert list(await waiting) == []
            assert list(await subscription.receive(10)) == []
        await subscription.close()

    async def test_stop_is_idempotent_and_closes(self, harness: Harness) -> None:
        broker = await harness.broker()
        subscription = await broker.subscribe(ORDERS, Assignments())
        await broker.stop()
        await broker.stop()
        assert list(await subscription.receive(1)) == []

    # Settling

    async def test_what_is_not_completed_comes_again_after_a_crash(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(50, key=b"k"))
        subscription = await consume(harness)
        deliveries = await take(subscription, 50)
        for delivery in deliveries[:20]:
            await delivery.complete()
        await subscription.flush()
        await harness.crash()
        again = numbers(await take(await consume(harness), 30))
        assert (again if harness.capabilities.ordered else sorted(again)) == list(range(20, 50))

    async def test_flushed_out_of_order_completions_are_not_lost_and_hide_nothing(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(50, key=b"k"))
        subscription = await consume(harness)
        deliveries = await take(subscription, 50)
        done = {3, 4, 9, *range(20, 40)}
        for number in sorted(done, reverse=True):
            await deliveries[number].complete()
        assert deliveries[0].partition.gap == (50 if harness.capabilities.commits else 50 - len(done))
        await subscription.flush()
        await harness.crash()
        missing = [number for number in range(50) if number not in done]
        again = await consume(harness)
        seen: list[int] = []
        async with asyncio.timeout(TIMEOUT):
            while not set(missing) <= set(seen):
                seen += numbers(await again.receive(100))
        assert seen == sorted(seen) or not harness.capabilities.ordered
        assert min(seen) == 0
        if not harness.capabilities.commits:
            assert not done & set(seen)

    async def test_completion_without_flush_never_skips_what_is_open(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(10, key=b"k"))
        subscription = await consume(harness)
        deliveries = await take(subscription, 10)
        for delivery in deliveries[5:]:
            await delivery.complete()
        await harness.crash()
        again = numbers(await take(await consume(harness), 5))
        assert (again if harness.capabilities.ordered else sorted(again)) == list(range(5))

    async def test_close_flushes_what_was_completed_and_gives_back_the_rest(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(10, key=b"k"))
        subscription = await consume(harness)
        for delivery in (await take(subscription, 10))[:6]:
            await delivery.complete()
        await subscription.close()
        again = await consume(harness)
        assert numbers(await take(again, 4)) == [6, 7, 8, 9]
        await nothing_more(again)

    async def test_abandoned_is_redelivered(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(3, key=b"k"))
        subscription = await consume(harness)
        first, second, third = await take(subscription, 3)
        await first.complete()
        await second.abandon()
        await third.complete()
        await subscription.close()
        again = await consume(harness)
        deliveries = await take(again, 1)
        assert numbers(deliveries) == [1]
        await deliveries[0].complete()

    async def test_settling_after_close_is_refused(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(3, key=b"k"))
        subscription = await consume(harness)
        first, second, third = await take(subscription, 3)
        await subscription.close()
        with pytest.raises((PartitionRevoked, LockLost)):
            await first.complete()
        with pytest.raises((PartitionRevoked, LockLost)):
            await second.dead_letter(CAUSE)
        await third.abandon()
        assert numbers(await take(await consume(harness), 3)) == [0, 1, 2]

    # Dead letters

    async def test_a_dead_letter_is_the_message_with_its_cause(self, harness: Harness) -> None:
        twice = (("a", b"1"), ("a", b"2")) if harness.capabilities.repeated_headers else (("a", b"1"),)
        kept = [*twice, ("latin", b"M\xfcller"), ("null", None)]
        message = Message(b"\xffpoison", b"key", (*kept, ("bridge.reason", b"forged")))
        await (await harness.broker()).publish("orders", [message])
        subscription = await consume(harness)
        [delivery] = await take(subscription, 1)
        await delivery.dead_letter(CAUSE)
        [dead] = await take(await consume(harness, DEAD), 1)
        assert (dead.message.body, dead.message.key) == (message.body, message.key)
        assert [header for header in dead.message.headers if not header[0].startswith("bridge.")] == kept
        received = dict(dead.message.headers)
        assert received[provenance.REASON] == b"no_route"
        assert received[provenance.DETAIL] == b"no rule matched"
        assert received[provenance.TOPIC] == b"orders"
        assert int(received[provenance.OFFSET]) == delivery.position.offset
        assert received[provenance.CLUSTER].decode() == delivery.position.cluster
        assert received[provenance.MESSAGE_ID] == b"m-1"

    async def test_a_dead_tombstone_stays_one(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", [Message(None, b"k")])
        [delivery] = await take(await consume(harness), 1)
        await delivery.dead_letter(CAUSE)
        [dead] = await take(await consume(harness, DEAD), 1)
        assert (dead.message.body, dead.message.key) == (None, b"k")

    async def test_the_name_of_the_dead_letter_topic_is_the_subscribers_choice(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(1))
        subscription = await consume(harness, replace(ORDERS, dead_letter="dead-{topic}-letters"))
        [delivery] = await take(subscription, 1)
        await delivery.dead_letter(CAUSE)
        assert len(await take(await consume(harness, SubscribeOptions(("dead-orders-letters",), "g")), 1)) == 1

    async def test_a_dead_letter_is_durable_when_the_call_returns(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(20, key=b"k"))
        deliveries = await take(await consume(harness), 20)
        await asyncio.gather(*(delivery.dead_letter(CAUSE) for delivery in deliveries[5:15]))
        await harness.crash()
        dead = numbers(await take(await consume(harness, DEAD), 10))
        again = sorted(numbers(await take(await consume(harness), 10)))
        assert sorted(dead) == list(range(5, 15))
        # Earlier messages were unsettled; brokers differ in redelivering the messages after the dead letter.
        assert again[:5] == list(range(5))

    # Flow

    async def test_gap_counts_what_a_crash_would_repeat(self, harness: Harness) -> None:
        if not harness.capabilities.commits:
            return
        await (await harness.broker()).publish("orders", numbered(10, key=b"k"))
        deliveries = await take(await consume(harness), 10)
        partition = deliveries[0].partition
        assert partition.gap == 10
        await deliveries[1].complete()
        assert partition.gap == 10
        await deliveries[0].complete()
        assert partition.gap == 8
        for delivery in deliveries[2:]:
            await delivery.complete()
        assert partition.gap == 0

    async def test_lag_counts_what_is_not_completed(self, harness: Harness) -> None:
        await (await harness.broker()).publish("orders", numbered(10, key=b"k"))
        subscription = await consume(harness)
        deliveries = await take(subscription, 10)
        assert sum(subscription.lag().values()) == 10
        for delivery in deliveries[3:]:
            await delivery.complete()
        assert sum(subscription.lag().values()) == 3
