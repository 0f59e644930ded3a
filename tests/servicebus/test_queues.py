"""Behaviour of queues, checked through the SDK."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    ServiceBusAuthenticationError,
    ServiceBusError,
)

from tests.kit.waiting import eventually
from tests.servicebus.conftest import Serve
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.timeout(60)


def _client(server: ServiceBusServer) -> ServiceBusClient:
    return Client.from_connection_string(server.connection_string)


async def test_a_message_arrives_with_all_it_was_sent_with(server: ServiceBusServer, client: ServiceBusClient) -> None:
    sent = ServiceBusMessage(
        bytes(range(256)) * 600,  # in three frames
        application_properties={"text": "ž", "number": 7, "yes": True},
        message_id="id-1",
        subject="order.created",
        content_type="application/json",
        correlation_id="c-1",
        to="somewhere",
        reply_to="back",
        partition_key="p",
        time_to_live=datetime.timedelta(hours=1),
    )
    async with client.get_queue_sender("orders") as sender, client.get_queue_receiver("ORDERS") as receiver:
        await sender.send_messages(sent)
        [got] = await take(receiver, 1)
        assert b"".join(got.body) == bytes(range(256)) * 600
        assert got.application_properties == {b"text": b"\xc5\xbe", b"number": 7, b"yes": True}
        assert (got.message_id, got.subject, got.content_type) == ("id-1", "order.created", "application/json")
        assert (got.correlation_id, got.to, got.reply_to, got.partition_key) == ("c-1", "somewhere", "back", "p")
        assert got.time_to_live == datetime.timedelta(hours=1)
        assert (got.sequence_number, got.delivery_count) == (1, 0)
        now = datetime.datetime.now(datetime.UTC)
        assert got.enqueued_time_utc is not None
        assert got.locked_until_utc is not None
        assert abs((got.enqueued_time_utc - now).total_seconds()) < 5
        assert 20 < (got.locked_until_utc - now).total_seconds() <= 30
        await receiver.complete_message(got)
    assert len(server.queue("orders")) == 0
    assert server.counters.outcome("orders", "complete") == 1


async def test_every_outcome_has_its_effect(server: ServiceBusServer, client: ServiceBusClient) -> None:
    own = {"mine": "kept", "DeadLetterReason": "of an earlier life"}
    await send(client, "orders", ["complete", "abandon", "defer", "dead-letter", "keep"], application_properties=own)
    async with client.get_queue_receiver("orders") as receiver:
        got = {body(message): message for message in await take(receiver, 5)}
        await receiver.complete_message(got["complete"])
        await receiver.abandon_message(got["abandon"])
        await receiver.defer_message(got["defer"])
        await receiver.dead_letter_message(got["dead-letter"], reason="why", error_description="because")
        with pytest.raises(ValueError, match="settled"):
            await receiver.complete_message(got["complete"])
        [again] = await take(receiver, 1)
        assert (body(again), again.delivery_count) == ("abandon", 1)
        [deferred] = await receiver.receive_deferred_messages([got["defer"].sequence_number])
        assert (body(deferred), deferred.delivery_count) == ("defer", 1)
        await receiver.complete_message(deferred)
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages([got["defer"].sequence_number])
    contents = server.queue("orders").contents()
    assert (contents.locked, contents.deferred, contents.dead_letters) == (2, 0, 1)
    async with client.get_queue_receiver("orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
        [dead] = await take(receiver, 1)
        assert (body(dead), dead.dead_letter_reason, dead.dead_letter_error_description) == (
            "dead-letter",
            "why",
            "because",
        )
        assert dead.application_properties is not None
        assert dead.application_properties[b"mine"] == b"kept"
        await receiver.complete_message(dead)
    assert len(server.dead_letters("orders")) == 0
    [entry] = server.counters.dead_letters
    assert (entry.entity, entry.reason, entry.description) == ("orders", "why", "because")


async def test_a_message_too_often_abandoned_is_dead_lettered(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders", max_delivery_count=3),)))
    async with _client(server) as client:
        await send(client, "orders", ["poison"])
        async with client.get_queue_receiver("orders") as receiver:
            for count in range(3):
                [message] = await take(receiver, 1)
                assert message.delivery_count == count
                await receiver.abandon_message(message)
    [entry] = server.counters.dead_letters
    assert (entry.reason, entry.delivery_count) == ("MaxDeliveryCountExceeded", 3)


async def test_a_lock_expires_is_renewed_and_is_lost(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders", lock_duration=1.0),)))
    async with _client(server) as client:
        await send(client, "orders", ["slow"])
        async with client.get_queue_receiver("orders") as receiver:
            [message] = await take(receiver, 1)
            for _ in range(4):
                await asyncio.sleep(0.4)
                await receiver.renew_message_lock(message)
            assert server.counters.expired_locks["orders"] == 0
            assert server.counters.renewed_locks["orders"] == 4
            await eventually(lambda: server.counters.expired_locks["orders"] == 1)
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(message)  # by the client's own clock
            message._settled = False
            [again] = await take(receiver, 1)
            assert (body(again), again.delivery_count) == ("slow", 1)
            await receiver.complete_message(again)


async def test_a_lost_lock_is_told_by_the_server(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", ["one"])
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        assert server.faults.lose_locks("orders") == 1
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)
        assert server.counters.lost_settlements["orders"] >= 1
        [again] = await take(receiver, 1)
        with pytest.raises(MessageLockLostError):
            await receiver.renew_message_lock(message)
        await receiver.complete_message(again)


async def test_receive_and_delete_leaves_nothing_behind(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", [str(number) for number in range(5)])
    async with client.get_queue_receiver("orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE) as receiver:
        assert [body(message) for message in await take(receiver, 5)] == ["0", "1", "2", "3", "4"]
    assert len(server.queue("orders")) == 0


async def test_what_a_closed_receiver_had_buffered_comes_back_uncounted(
    server: ServiceBusServer, client: ServiceBusClient
) -> None:
    await send(client, "orders", [str(number) for number in range(10)])
    async with client.get_queue_receiver("orders", prefetch_count=10) as receiver:
        [first] = await take(receiver, 1)
        await eventually(lambda: server.queue("orders").contents().locked == 10)
        await receiver.complete_message(first)
    await eventually(lambda: server.queue("orders").contents().active == 9)
    assert server.counters.outcome("orders", "release") == 9
    async with client.get_queue_receiver("orders") as receiver:
        assert {message.delivery_count for message in await take(receiver, 9)} == {0}


async def test_peeking_locks_nothing(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", [str(number) for number in range(5)])
    async with client.get_queue_receiver("orders") as receiver:
        assert [body(message) for message in await receiver.peek_messages(3)] == ["0", "1", "2"]
        assert [body(message) for message in await receiver.peek_messages(9, sequence_number=4)] == ["3", "4"]
        assert await receiver.peek_messages(9, sequence_number=6) == []
    assert server.queue("orders").contents().active == 5


async def test_a_scheduled_message_waits_for_its_time(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_sender("orders") as sender, client.get_queue_receiver("orders") as receiver:
        late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        first, never = await sender.schedule_messages([ServiceBusMessage("soon"), ServiceBusMessage("never")], late)
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=2)
        soon = soon.replace(microsecond=soon.microsecond // 1000 * 1000)  # AMQP has milliseconds
        await sender.send_messages(ServiceBusMessage("annotated", scheduled_enqueue_time_utc=soon))
        await sender.cancel_scheduled_messages([never])
        with pytest.raises(ServiceBusError):
            await sender.cancel_scheduled_messages([never])
        assert server.queue("orders").contents().scheduled == 2
        [message] = await take(receiver, 1)
        assert body(message) == "annotated"
        assert datetime.datetime.now(datetime.UTC) >= soon
        await sender.cancel_scheduled_messages([first])
    assert server.queue("orders").contents().scheduled == 0


async def test_a_repeated_message_id_is_dropped_within_the_window(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders", duplicate_detection=1.0),)))
    async with _client(server) as client:
        await send(client, "orders", [ServiceBusMessage("a", message_id="1"), ServiceBusMessage("b", message_id="1")])
        await send(client, "orders", [ServiceBusMessage("c", message_id="2")])
        assert server.queue("orders").contents().active == 2
        assert server.counters.duplicates["orders"] == 1
        await asyncio.sleep(1.0)
        await send(client, "orders", [ServiceBusMessage("d", message_id="1")])
        assert server.queue("orders").contents().active == 3


@pytest.mark.parametrize("dead_letter", [True, False])
async def test_time_to_live_ends_in_the_dead_letters_or_nowhere(serve: Serve, dead_letter: bool) -> None:
    queue = QueueConfig("orders", default_ttl=1.0, dead_letter_on_expiration=dead_letter, lock_duration=5.0)
    server = await serve(ServerConfig((queue,)))
    async with (
        _client(server) as client,
        client.get_queue_sender("orders") as sender,
        client.get_queue_receiver("orders") as receiver,
    ):
        await sender.send_messages(ServiceBusMessage("held"))
        [held] = await take(receiver, 1)
        await sender.send_messages(ServiceBusMessage("waits"))
        await eventually(lambda: server.counters.expired_messages["orders"] == 1)
        assert server.queue("orders").contents().locked == 1  # locked beyond its time to live
        await receiver.complete_message(held)
    reasons = [entry.reason for entry in server.counters.dead_letters]
    assert reasons == (["TTLExpiredException"] if dead_letter else [])
    assert len(server.queue("orders")) == 0


async def test_what_is_too_large_is_refused(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_sender("orders") as sender:
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes == server.config.max_message_size
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(bytes(300_000)))
        await sender.send_messages(ServiceBusMessage(bytes(200_000)))
    assert server.queue("orders").contents().active == 1


async def test_what_is_not_there_is_not_found(client: ServiceBusClient) -> None:
    """The claim is refused with a code that the SDK keeps in the inner error."""
    for link in (client.get_queue_sender("nowhere"), client.get_queue_receiver("nowhere")):
        with pytest.raises(ServiceBusAuthenticationError) as refused:
            async with link:
                pass
        assert refused.value.inner_exception.status_code == 404  # type: ignore[attr-defined]  # of the class behind the interface
        assert b"nowhere' could not be found" in refused.value.inner_exception.status_description  # type: ignore[attr-defined]  # of the class behind the interface


async def test_messages_survive_a_restart_of_the_listener(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", ["kept"])
    port = server.port
    await server.stop()
    assert server.open_connections == 0
    await server.start()
    assert server.port == port
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        assert body(message) == "kept"
        await receiver.complete_message(message)
