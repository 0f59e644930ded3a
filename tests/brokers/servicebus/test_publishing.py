"""Publishing: batches, schedules, times to live, duplicates, deadlines, and replaced senders."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker, sdk_internals
from bridge.brokers.servicebus.amqp.messages import outgoing
from bridge.core.errors import BrokerUnavailable, PublishFailed
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, nothing_more, numbered, numbers, take
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer, SubscriptionConfig, TopicConfig

SUBSCRIPTION = SubscribeOptions(("events/Subscriptions/bridge",), dead_letter=None)
ORDERS = SubscribeOptions(("orders",), dead_letter=None)


SERVER = ServerConfig(
    (QueueConfig("orders", lock_duration=30), QueueConfig("once", duplicate_detection=60)),
    (TopicConfig("events", (SubscriptionConfig("bridge"),)),),
)
BROKER = {"publish_timeout": "5s"}


async def test_batches_are_as_large_as_the_entity_takes(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    """Two megabytes in messages of a quarter megabyte, in order."""
    batch = [replace(each, headers=(("filling", b"x" * 20_000),)) for each in numbered(100)]
    await broker.publish("events", batch)
    assert server.counters.accepted["events"] == 100
    assert numbers(await take(await broker.subscribe(SUBSCRIPTION, Assignments()), 100)) == list(range(100))


async def test_a_message_that_is_too_large_is_refused(broker: ServiceBusBroker) -> None:
    with pytest.raises(PublishFailed, match="exceeds the limit of the entity"):
        await broker.publish("orders", [Message(b"x" * 300_000)])
    await broker.publish("orders", numbered(1))


async def test_a_message_waits_for_its_time(broker: ServiceBusBroker) -> None:
    subscription = await broker.subscribe(ORDERS, Assignments())
    due = time.time() + 1.5
    await broker.publish("orders", [replace(numbered(1)[0], enqueue_at=due)])
    await nothing_more(subscription, 0.5)
    assert numbers(await take(subscription, 1)) == [0]
    assert time.time() >= due - 0.1


async def test_a_message_does_not_outlive_its_time(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    await broker.publish("orders", [replace(numbered(1)[0], time_to_live=0.3)])
    await asyncio.sleep(0.6)
    await broker.publish("orders", numbered(1, 1))
    assert numbers(await take(await broker.subscribe(ORDERS, Assignments()), 1)) == [1]


async def test_a_repeated_id_is_dropped_by_the_service(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    message = Message(b"0", message_id="made-in-the-orchestrator")
    for _ in range(3):
        await broker.publish("once", [message])
    assert server.counters.duplicates["once"] == 2
    assert server.queue("once").contents().active == 1


async def test_a_sender_that_was_cut_off_is_replaced(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    await broker.publish("orders", numbered(1))
    server.faults.drop()
    await broker.publish("orders", numbered(1, 1))
    server.faults.add("send", "detach", condition="com.microsoft:server-busy")
    await broker.publish("orders", numbered(1, 2))
    assert sorted(numbers(await take(await broker.subscribe(ORDERS, Assignments()), 3))) == [0, 1, 2]


@pytest.mark.parametrize("body", [b"x", None])
@pytest.mark.parametrize("native", [False, True])
async def test_too_many_properties_are_no_outage(
    server: ServiceBusServer, broker: ServiceBusBroker, body: bytes | None, native: bool
) -> None:
    headers = (("a", b"x" * 32_760), ("b", b"x" * 32_760), ("c", b"x" * 99), ("null", None))
    message = Message(body, headers=headers)
    if native:
        amqp = sdk_internals.Transport.to_outgoing_amqp_message(outgoing(message).raw_amqp_message)
        message = replace(message, native=sdk_internals.encode(amqp))
    server.faults.add("send", "reject", entity="orders", condition="amqp:internal-error")
    with pytest.raises(PublishFailed, match="64 KiB together"):
        await broker.publish("orders", [message])


async def test_a_send_has_a_deadline(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    await broker.publish("orders", numbered(1))
    server.faults.freeze()
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        await broker.publish("orders", numbered(1, 1))
    assert time.monotonic() - begun < 20
    server.faults.thaw()
    await broker.publish("orders", numbered(1, 2))
