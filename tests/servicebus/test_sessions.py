"""Sessions, checked through the SDK."""

from __future__ import annotations

import asyncio

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.conftest import Serve
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.timeout(60)


async def test_a_session_is_one_receivers_in_order(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "by-session", ["a1", "a2", "a3"], session_id="a")
    await send(client, "by-session", ["b1"], session_id="b")
    async with client.get_queue_receiver("by-session", session_id="a") as receiver:
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver("by-session", session_id="a"):
                pass
        first, second, third = await take(receiver, 3)
        assert [body(message) for message in (first, second, third)] == ["a1", "a2", "a3"]
        assert first.session_id == "a"
        await receiver.abandon_message(first)
        await receiver.complete_message(second)
        await receiver.defer_message(third)
        [again] = await take(receiver, 1)
        assert (body(again), again.delivery_count) == ("a1", 1)
        [deferred] = await receiver.receive_deferred_messages([third.sequence_number])
        await receiver.dead_letter_message(deferred, reason="why")
        await receiver.complete_message(again)
    assert server.queue("by-session").contents().active == 1
    assert [dead_letter.reason for dead_letter in server.counters.dead_letters] == ["why"]


async def test_state_lock_and_list_of_sessions(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "by-session", ["a"], session_id="a")
    async with client.get_queue_receiver("by-session", session_id="a") as receiver:
        assert await receiver.session.get_state() is None
        await receiver.session.set_state(b"\x00state\xff")
        assert await receiver.session.get_state() == b"\x00state\xff"
        before = receiver.session.locked_until_utc
        assert before is not None
        await asyncio.sleep(0.01)
        assert await receiver.session.renew_lock() > before
        [message] = await take(receiver, 1)
        await receiver.complete_message(message)
    async with client.get_queue_receiver("by-session", session_id="a") as receiver:
        assert await receiver.session.get_state() == b"\x00state\xff"  # the state outlives the messages
        await receiver.session.set_state(None)
        assert await receiver.session.get_state() is None


async def test_the_next_free_session_goes_round(server: ServiceBusServer, client: ServiceBusClient) -> None:
    for name in ("a", "b", "c"):
        await send(client, "by-session", ["1", "2"], session_id=name)
    order = []
    for _ in range(4):
        async with client.get_queue_receiver("by-session", session_id=NEXT_AVAILABLE_SESSION) as receiver:
            order.append(receiver.session.session_id)
            [message] = await take(receiver, 1)
            await receiver.complete_message(message)
    assert order == ["a", "b", "c", "a"]


async def test_a_receiver_waits_for_a_session_to_come(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async def serve_next() -> str:
        receiver = client.get_queue_receiver("by-session", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20)
        async with receiver:
            [message] = await take(receiver, 1)
            await receiver.complete_message(message)
            return str(receiver.session.session_id)

    waiting = asyncio.create_task(serve_next())
    await eventually(lambda: server.open_connections == 1)
    await send(client, "by-session", ["late"], session_id="late")
    async with asyncio.timeout(TIMEOUT):
        assert await waiting == "late"


async def test_no_session_to_be_had_is_a_timeout(client: ServiceBusClient) -> None:
    with pytest.raises(OperationTimeoutError):
        async with client.get_queue_receiver("by-session", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=0.5):
            pass


async def test_a_session_that_is_not_renewed_is_lost_and_its_messages_counted(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders", lock_duration=1.0, requires_session=True),)))
    async with Client.from_connection_string(server.connection_string, retry_total=0) as client:
        await send(client, "orders", ["1", "2"], session_id="a")
        async with client.get_queue_receiver("orders", session_id="a") as receiver:
            [first] = await take(receiver, 1)
            await eventually(lambda: server.counters.expired_session_locks["orders"] == 1)
            with pytest.raises(SessionLockLostError):
                await receiver.complete_message(first)
            with pytest.raises(SessionLockLostError):
                await receiver.session.renew_lock()
        async with client.get_queue_receiver("orders", session_id="a") as receiver:
            again = await take(receiver, 2)
            assert [(body(message), message.delivery_count) for message in again] == [("1", 1), ("2", 0)]


async def test_a_session_is_free_again_when_its_connection_breaks(
    server: ServiceBusServer, client: ServiceBusClient
) -> None:
    await send(client, "by-session", ["1"], session_id="a")
    broken = client.get_queue_receiver("by-session", session_id="a")
    await broken._open_with_retry()  # type: ignore[no-untyped-call]  # it comes without types
    await take(broken, 1)
    assert server.faults.drop("by-session") == 1
    async with client.get_queue_receiver("by-session", session_id="a") as receiver:
        [message] = await take(receiver, 1)
        assert (body(message), message.delivery_count) == ("1", 0)
    await broken.close()


async def test_sessions_are_asked_for_exactly_where_they_are_required(client: ServiceBusClient) -> None:
    with pytest.raises(ServiceBusError, match="requires sessions"):
        async with client.get_queue_receiver("by-session"):
            pass
    with pytest.raises(ServiceBusError, match="does not require sessions"):
        async with client.get_queue_receiver("orders", session_id="a"):
            pass
    with pytest.raises(ServiceBusError, match="SessionId was not set"):
        await send(client, "by-session", ["no session"])
