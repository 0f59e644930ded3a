"""Uses of the SDK's private members work, and no other module of the bridge uses private members."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, exceptions
from azure.servicebus.aio import ServiceBusClient

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker, sdk_internals
from bridge.brokers.servicebus.amqp import decoding, encoding, messages
from bridge.brokers.servicebus.amqp import values as amqp_values
from bridge.config.model.servicebus import ServiceBusBrokerConfig, SessionsConfig
from bridge.core.errors import PublishFailed
from bridge.core.message import Message
from tests.brokers.consumer import Assignments
from tests.kit.source import trees, walk
from tests.kit.waiting import TIMEOUT
from tests.servicebus.sdk import Client, send
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer


@pytest.fixture
async def server() -> AsyncIterator[ServiceBusServer]:
    queues = (QueueConfig("orders", lock_duration=30), QueueConfig("by-session", requires_session=True))
    async with ServiceBusServer(ServerConfig(queues)) as server:
        yield server


@pytest.fixture
async def client(server: ServiceBusServer) -> AsyncIterator[ServiceBusClient]:
    async with Client.from_connection_string(server.connection_string) as sending:
        await send(sending, "orders", ["0", "1", "2"])
    async with ServiceBusClient.from_connection_string(server.connection_string, retry_total=0) as client:
        yield client


async def test_patience_is_kept(client: ServiceBusClient) -> None:
    """A read lasts for the configured time; a waiting receiver wakes only that often."""
    async with client.get_queue_receiver("orders", prefetch_count=1, socket_timeout=0.01, keep_alive=0) as receiver:
        await receiver.receive_messages(3, max_wait_time=1)
        assert sdk_internals.set_read_timeout(receiver, 0.7)
        begun = time.monotonic()
        await receiver.receive_messages(1, max_wait_time=0.1)
        assert 0.5 < time.monotonic() - begun < TIMEOUT
    assert not sdk_internals.set_read_timeout(object(), 1.0)


async def test_a_sender_closes_without_its_keep_alive_task(client: ServiceBusClient) -> None:
    sender = client.get_queue_sender("orders")
    await sender.send_messages(ServiceBusMessage(b"3"))
    keep_alive = sender._handler._keep_alive_thread
    assert sdk_internals.end_keep_alive(sender)
    await sender.close()
    assert keep_alive.cancelled()
    assert not sdk_internals.end_keep_alive(sender)
    assert not sdk_internals.end_keep_alive(object())


async def test_a_sender_opens_without_pauses(
    server: ServiceBusServer, client: ServiceBusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sdk_internals.install(client)
    sender = client.get_queue_sender("orders")
    monkeypatch.setattr("azure.servicebus.aio._servicebus_sender_async.asyncio.sleep", None)
    async with sender:
        monkeypatch.undo()
        assert "client_ready_async" not in vars(sender._handler)
        await sender.send_messages(ServiceBusMessage(b"3"))
    assert server.counters.accepted["orders"] == 4


async def test_a_detached_link_is_seen(server: ServiceBusServer, client: ServiceBusClient) -> None:
    """The detach is seen after a settlement over the management link."""
    async with client.get_queue_receiver("orders", keep_alive=0) as receiver:
        first, second = await receiver.receive_messages(2, max_wait_time=5)
        await receiver.complete_message(first)
        assert sdk_internals.is_link_attached(receiver)
        assert server.faults.detach("amqp:link:detach-forced", entity="orders") == 1
        with contextlib.suppress(exceptions.MessageLockLostError):  # the first one was received, the second was late
            await receiver.complete_message(second)
        assert not sdk_internals.is_link_attached(receiver)
    assert sdk_internals.is_link_attached(object())  # type: ignore[arg-type]  # has no link


async def test_released_messages_are_not_counted(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("orders", prefetch_count=10, keep_alive=0) as receiver:
        messages = await receiver.receive_messages(3, max_wait_time=5)
        assert [await sdk_internals.release(receiver, message) for message in messages] == [True] * 3
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await receiver.receive_messages(1, max_wait_time=5)
        assert message.delivery_count == 0
        assert not await sdk_internals.release(client.get_queue_receiver("orders"), message)


async def test_many_locks_are_renewed_in_one_request(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("orders", prefetch_count=10) as receiver:
        messages: list[Any] = []
        while len(messages) < 3:
            messages += await receiver.receive_messages(3, max_wait_time=5)
        before = [message.locked_until_utc for message in messages]
        await asyncio.sleep(0.05)
        ends = await sdk_internals.renew(receiver, messages, 5)
        assert server.counters.operations["renew-lock"] == 1
        assert [message.locked_until_utc.timestamp() for message in messages] == ends
        assert all(message.locked_until_utc > old for message, old in zip(messages, before, strict=True))
        await receiver.complete_message(messages[0])
        with pytest.raises(exceptions.MessageLockLostError):
            await sdk_internals.renew(receiver, [_unsettled(messages[0]), *messages[1:]], 5)  # type: ignore[list-item]  # wider than its annotation, on purpose


async def test_a_refused_settlement_leaves_the_link_as_it_is(
    server: ServiceBusServer, client: ServiceBusClient
) -> None:
    """The public SDK method would close the link because of one message."""
    async with client.get_queue_receiver("orders", prefetch_count=10, keep_alive=0) as receiver:
        first, second, third = await receiver.receive_messages(3, max_wait_time=5)
        link = receiver._handler
        server.faults.add("settle", "reject", condition="amqp:not-allowed")
        assert sdk_internals.condition(await sdk_internals.settle(receiver, first, "complete")) == "amqp:not-allowed"
        # The second attempt uses the management link
        server.faults.add("manage", "reject", operation="update-disposition", condition="com.microsoft:argument-error")
        assert (
            sdk_internals.condition(await sdk_internals.settle(receiver, first, "complete"))
            == "com.microsoft:argument-error"
        )
        assert await sdk_internals.settle(receiver, first, "complete") is None
        assert await sdk_internals.settle(receiver, second, "abandon") is None
        assert await sdk_internals.settle(receiver, third, "dead_letter", "reason", "description") is None
        assert receiver._handler is link
        with pytest.raises(exceptions.MessageAlreadySettled):
            await sdk_internals.settle(receiver, first, "complete")
    [dead] = server.counters.dead_letters
    assert (dead.reason, dead.description) == ("reason", "description")
    assert server.counters.settled == Counter({"orders complete": 1, "orders abandon": 1, "orders dead_letter": 1})


async def test_settlements_do_without_the_touch(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_receiver("orders", prefetch_count=10, keep_alive=0) as receiver:
        [message, *_] = await receiver.receive_messages(1, max_wait_time=5)
        assert await sdk_internals.settle(Public(receiver), message, "dead_letter", "reason", "description") is None  # type: ignore[arg-type]
    assert server.counters.dead_letters[0].description == "description"


class Public:
    """Receiver without its private members."""

    def __init__(self, receiver: object) -> None:
        self._receiver = receiver

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._receiver, name)


async def test_the_transport_is_ours(server: ServiceBusServer, client: ServiceBusClient) -> None:
    """Links are guarded, credit is requested, and connection and link can be opened separately."""
    assert amqp_values.extend_decoders()
    assert sdk_internals.install(client)
    assert sdk_internals.is_installed(client)
    assert not sdk_internals.install(client)  # the place is taken
    receiver = client.get_queue_receiver("orders", prefetch_count=10, keep_alive=0)
    asked: list[int] = []
    sdk_internals.customize(receiver, decoding.decode, lambda: asked.append(1) or 2)  # type: ignore[func-returns-value]
    assert sdk_internals.opens_in_steps(receiver)
    assert not sdk_internals.opens_in_steps(client.get_queue_sender("orders"))
    await sdk_internals.connect(receiver)
    assert server.counters.attaches["orders"] == 1  # the sender's link
    await sdk_internals.attach(receiver)
    assert server.counters.attaches["orders"] == 2
    assert isinstance(receiver._handler, sdk_internals.ReceiveClient)
    assert isinstance(receiver._handler._link.transfers, sdk_internals.Transfers)
    found = await receiver.receive_messages(2, max_wait_time=5)
    assert [decoding.fault(message) for message in found] == [None] * 2
    for message in found:
        assert decoding.size(message) > 10
        assert decoding.has_token(sdk_internals.delivery_tag(message), sdk_internals.received(message))
        assert sdk_internals.is_settleable(message)
    assert server.counters.deliveries["orders"] == 2
    assert asked
    await sdk_internals.authorize(receiver)
    await receiver.close()


def test_a_table_of_decoders_that_is_not_known_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert amqp_values.extend_decoders()
    assert amqp_values.extend_decoders()  # repeatable
    monkeypatch.setattr(sdk_internals._decode, "_DECODE_BY_CONSTRUCTOR", [None] * 3)  # type: ignore[attr-defined]  # the test replaces what the module uses
    assert not amqp_values.extend_decoders()


@pytest.mark.parametrize("lost", ["transport", "apart"])
@pytest.mark.parametrize("queue", ["orders", "by-session"])
async def test_it_goes_without(
    server: ServiceBusServer, monkeypatch: pytest.MonkeyPatch, lost: str, queue: str
) -> None:
    """Without the private members: one connection for each session, and messages as the SDK decodes them."""
    if lost == "transport":
        monkeypatch.setattr(sdk_internals, "install", lambda client: False)
    else:
        monkeypatch.setattr(sdk_internals, "opens_in_steps", lambda part: False)
    settings = {"type": "servicebus", "connection_string": server.connection_string}
    broker = ServiceBusBroker("bus", ServiceBusBrokerConfig.model_validate(settings), lambda field, value: Path(value))
    await broker.start()
    session = queue == "by-session"
    await broker.publish(queue, [Message(b"%d" % n, b"k%d" % (n % 3) if session else None) for n in range(6)])
    sessions = SessionsConfig.model_validate({"concurrent": 1, "idle": "100ms"}) if session else None
    subscription = await broker.subscribe(
        SubscribeOptions((queue,), dead_letter=None, sessions=sessions), Assignments()
    )
    done = 0
    async with asyncio.timeout(TIMEOUT):
        while done < 6:
            for delivery in await subscription.receive(10):
                await delivery.complete()
                done += 1
    assert not server.queue(queue).contents().unsettled
    await broker.stop()


async def test_without_the_transport_an_encoded_form_is_refused(
    server: ServiceBusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_internals._encode, "_ENCODE_MAP", {})  # type: ignore[attr-defined]  # the test replaces what the module uses
    assert not encoding.extend_encoder()
    settings = {"type": "servicebus", "connection_string": server.connection_string}
    broker = ServiceBusBroker("bus", ServiceBusBrokerConfig.model_validate(settings), lambda field, value: Path(value))
    await broker.start()
    with pytest.raises(PublishFailed, match="cannot send encoded values"):
        await broker.publish("orders", [Message(b"x", native=b"")])
    assert server.queue("orders").contents().active == 0
    await broker.stop()


def _unsettled(message: object) -> object:
    message._settled = False  # type: ignore[attr-defined]  # so that it still names its lock
    return message


def test_only_its_room_knows_the_sdk() -> None:
    elsewhere = [
        str(path)
        for path, tree in trees(text="azure.servicebus")
        if "brokers/servicebus" not in path.as_posix()
        for node in walk(tree)
        if any(name.startswith("azure.servicebus") for name in _imported(node))
    ]
    assert elsewhere == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_timestamps_and_binary_are_marked() -> None:
    assert amqp_values.extend_decoders()
    assert isinstance(amqp_values.value_of(memoryview(b"\x83" + bytes(8))), amqp_values.Timestamp)
    assert isinstance(amqp_values.value_of(memoryview(b"\xa0\x01x")), amqp_values.Binary)
    assert isinstance(amqp_values.value_of(memoryview(b"\xb0\x00\x00\x00\x01x")), amqp_values.Binary)
    assert not isinstance(amqp_values.value_of(memoryview(b"\xa1\x01x")), amqp_values.Binary)


def test_without_the_marks_names_and_bytes_tell() -> None:
    assert messages.typed("cloudEvents:time", 1767268800000) == "2026-01-01T12:00:00Z"
    assert messages.typed("cloudEvents_digest", b"\xff\x00") == b"/wA="
    assert messages.typed("cloudEvents_digest", b"abc") == b"abc"
    assert messages.typed("cloudEvents_sequence", 7) == 7
    assert messages.typed("time", 7) == 7
