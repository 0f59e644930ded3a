"""Single messages of a queue are completed; the others stay as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from bridge.brokers.base import ReadOptions
from bridge.brokers.servicebus import ServiceBusBroker, completing
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.long

SERVER = ServerConfig((QueueConfig("orders", lock_duration=20.0, max_delivery_count=3), QueueConfig("dead")))
SUB_QUEUE = "orders/$DeadLetterQueue"


async def fill(server: ServiceBusServer, count: int) -> None:
    """Dead-letter messages of the queue `orders`."""
    async with ServiceBusClient.from_connection_string(server.connection_string) as client:
        async with client.get_queue_sender("orders") as sender:
            await sender.send_messages([ServiceBusMessage(str(number)) for number in range(count)])
        async with client.get_queue_receiver("orders") as receiver:
            done = 0
            while done < count:
                for message in await receiver.receive_messages(count, max_wait_time=1):
                    await receiver.dead_letter_message(message, reason="test")
                    done += 1


async def send(server: ServiceBusServer, count: int) -> None:
    async with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_sender("dead") as sender,
    ):
        await sender.send_messages([ServiceBusMessage(str(number)) for number in range(count)])


async def left(broker: ServiceBusBroker, topic: str) -> list[tuple[int, bytes | None]]:
    return [(position.offset, message.body) async for position, message in broker.read(ReadOptions(topic))]


async def bodies(server: ServiceBusServer, sub_queue: str | None, count: int) -> list[str]:
    """Bodies that another consumer receives."""
    async with ServiceBusClient.from_connection_string(server.connection_string) as client:
        name = "dead" if sub_queue is None else "orders"
        async with client.get_queue_receiver(name, sub_queue=sub_queue) as receiver:
            found: list[str] = []
            while len(found) < count:
                found += [str(each) for each in await receiver.receive_messages(count, max_wait_time=1)]
            return found


@pytest.mark.parametrize("wanted", [(0, 39), tuple(range(1, 40, 3)), tuple(range(40))])
async def test_messages_in_the_middle_of_a_sub_queue_are_completed(
    server: ServiceBusServer, broker: ServiceBusBroker, wanted: Sequence[int]
) -> None:
    await fill(server, 40)
    before = await left(broker, SUB_QUEUE)
    due = {before[index][0] for index in wanted}
    for _ in range(4):  # more often than the queue delivers a message
        await broker.complete(SUB_QUEUE, due)
    kept = [each for each in before if each[0] not in due]
    assert await left(broker, SUB_QUEUE) == kept
    # Another consumer gets the others at once
    assert sorted(await bodies(server, "deadletter", len(kept))) == sorted(str(int(body or b"")) for _, body in kept)


async def test_a_message_that_another_consumer_has_locked_waits(
    server: ServiceBusServer, broker: ServiceBusBroker
) -> None:
    await fill(server, 3)
    first, *_ = before = await left(broker, SUB_QUEUE)
    async with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_queue_receiver("orders", sub_queue="deadletter") as receiver,
    ):
        [held] = await receiver.receive_messages(1, max_wait_time=1)
        assert held.sequence_number == first[0]
        assert await broker.complete(SUB_QUEUE, {first[0]}) == 0
        await receiver.abandon_message(held)
    assert await broker.complete(SUB_QUEUE, {first[0]}) == 1
    assert await left(broker, SUB_QUEUE) == before[1:]


async def test_passed_messages_are_bounded(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "MOST_PASSED", 10)
    monkeypatch.setattr(completing, "_AT_ONCE", 5)
    await fill(server, 30)
    before = await left(broker, SUB_QUEUE)
    assert await broker.complete(SUB_QUEUE, {before[29][0]}) == 0
    assert await left(broker, SUB_QUEUE) == before


async def test_a_queue_of_its_own_completes_only_its_first_messages(
    server: ServiceBusServer, broker: ServiceBusBroker
) -> None:
    await send(server, 6)
    before = await left(broker, "dead")
    assert await broker.complete("dead", {before[0][0], before[1][0], before[3][0]}) == 2
    assert await broker.complete("dead", {before[3][0]}) == 0
    assert await left(broker, "dead") == before[2:]
    assert await bodies(server, None, 4) == ["2", "3", "4", "5"]


async def test_two_daemons_complete_the_same_messages(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    await fill(server, 20)
    before = await left(broker, SUB_QUEUE)
    due = {number for number, _ in before[5:15]}
    for _ in range(3):
        await asyncio.gather(broker.complete(SUB_QUEUE, due), broker.complete(SUB_QUEUE, due))
    assert await left(broker, SUB_QUEUE) == before[:5] + before[15:]
