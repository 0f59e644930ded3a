"""Options of the server for behaviour that varies, and WebSockets."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusError

from tests.kafka.certificates import Authority
from tests.kit.waiting import eventually
from tests.servicebus.conftest import Serve
from tests.servicebus.process import ServerProcess
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import (
    PropertyLimits,
    QueueConfig,
    ServerConfig,
    ServiceBusServer,
    SubscriptionConfig,
    TopicConfig,
    emulator,
)

pytestmark = pytest.mark.timeout(60)

QUEUES = (QueueConfig("orders"), QueueConfig("by-session", requires_session=True))


def _client(server: ServiceBusServer | ServerProcess) -> ServiceBusClient:
    return Client.from_connection_string(server.connection_string, retry_total=0)


# Locks and their connection


@pytest.mark.parametrize("ends", [False, True])
async def test_a_lock_ends_with_its_link_or_outlives_it(serve: Serve, ends: bool) -> None:
    server = await serve(ServerConfig(QUEUES, locks_end_with_link=ends))
    async with _client(server) as client:
        await send(client, "orders", ["1"])
        async with client.get_queue_receiver("orders") as receiver:
            await take(receiver, 1)
            server.faults.detach("amqp:link:detach-forced", entity="orders")
        contents = server.queue("orders").contents()
        assert (contents.locked, contents.active) == ((0, 1) if ends else (1, 0))


async def test_a_connection_is_cut_in_the_middle_of_a_frame(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES))
    async with _client(server) as client:
        await send(client, "orders", ["1", "2"])
        server.faults.add("delivered", "cut", entity="orders", skip=1)
        async with client.get_queue_receiver("orders", prefetch_count=2) as receiver:
            with pytest.raises(ServiceBusError):
                await take(receiver, 2)
    assert server.counters.deliveries["orders"] == 2


@pytest.mark.parametrize("ends", [False, True])
async def test_a_lock_ends_with_its_connection_or_outlives_it(serve: Serve, ends: bool) -> None:
    server = await serve(ServerConfig(QUEUES, locks_end_with_connection=ends))
    async with Client.from_connection_string(server.connection_string) as client:
        await send(client, "orders", ["1", "2"])
        async with client.get_queue_receiver("orders") as receiver:
            first, second = await take(receiver, 2)
            await receiver.complete_message(first)
            server.faults.drop("orders")
            await eventually(lambda: (server.queue("orders").contents().locked == 0) is ends)
            if ends:
                with pytest.raises(MessageLockLostError):
                    await receiver.complete_message(second)
                [again] = await take(receiver, 1)
                assert (body(again), again.delivery_count) == ("2", 1)
                second = again
            await receiver.complete_message(second)
    assert len(server.queue("orders")) == 0
    assert server.counters.expired_locks["orders"] == ends


async def test_a_closed_connection_ends_its_locks_too_and_no_others(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, locks_end_with_connection=True))
    async with _client(server) as client:
        await send(client, "orders", ["1", "2"])
        async with client.get_queue_receiver("orders") as stays:
            await take(stays, 1)
            async with client.get_queue_receiver("orders") as goes:
                await take(goes, 1)
            await eventually(lambda: server.queue("orders").contents().locked == 1)
            assert server.queue("orders").contents().active == 1


async def test_the_messages_of_a_session_come_back_uncounted_either_way(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, locks_end_with_connection=True))
    async with _client(server) as client:
        await send(client, "by-session", ["1"], session_id="a")
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            await take(receiver, 1)
            server.faults.drop("by-session")
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            [again] = await take(receiver, 1)
            assert again.delivery_count == 0
    assert server.counters.expired_locks["by-session"] == 0


# Renewal


async def test_more_locks_than_the_limit_are_not_renewed_in_one_request(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, max_renewed_locks=2))
    async with _client(server) as client:
        await send(client, "orders", ["1", "2", "3"])
        async with client.get_queue_receiver("orders") as receiver:
            messages = await take(receiver, 3)
            tokens = [message.lock_token for message in messages]
            with pytest.raises(ServiceBusError, match="argument"):
                await receiver._renew_locks(*tokens)  # type: ignore[arg-type]  # wider than its annotation, on purpose
            assert server.counters.renewed_locks["orders"] == 0
            await receiver._renew_locks(*tokens[:2])  # type: ignore[arg-type]  # wider than its annotation, on purpose
    assert server.counters.renewed_locks["orders"] == 2


# Receivers that stop silently


async def test_a_muted_receiver_gets_nothing_and_stays_attached(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES))
    async with _client(server) as client, client.get_queue_receiver("orders") as dead:
        await send(client, "orders", ["1"])
        await take(dead, 1)
        assert server.faults.mute("orders") == 1
        await send(client, "orders", ["2"])
        assert await dead.receive_messages(1, max_wait_time=1) == []
        assert server.counters.detaches["orders"] == 0
        assert [body(one) for one in await dead.peek_messages(9, sequence_number=1)] == [
            "1",
            "2",
        ]  # $management still works
        async with client.get_queue_receiver("orders") as well:
            [message] = await take(well, 1)
            assert body(message) == "2"
            await well.complete_message(message)


async def test_a_muted_session_receiver_is_not_told_of_the_end_of_its_lock(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("by-session", lock_duration=1, requires_session=True),)))
    async with _client(server) as client:
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            assert server.faults.mute() == 1
            await eventually(lambda: server.counters.expired_session_locks["by-session"] == 1)
            assert server.counters.detaches["by-session"] == 0
            assert receiver.session is not None
        await send(client, "by-session", ["1"], session_id="a")
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            assert len(await take(receiver, 1)) == 1


# Properties


TOPIC = TopicConfig("events", (SubscriptionConfig("all"),))


@pytest.mark.parametrize("path", ["orders", "events"])
async def test_properties_above_the_service_s_limits_are_refused(serve: Serve, path: str) -> None:
    server = await serve(ServerConfig(QUEUES, (TOPIC,), property_limits=PropertyLimits()))
    async with _client(server) as client:
        one = {"large": "x" * 33_000}
        many = {f"p{number}": "x" * 9_000 for number in range(8)}
        for properties in (one, many):
            with pytest.raises(ServiceBusError, match=r"amqp:internal-error"):
                await send(client, path, ["1"], application_properties=properties)
        await send(client, path, ["2"], application_properties={"large": "x" * 32_000, "other": "x" * 30_000})
    assert server.counters.accepted[path] == 1


async def test_a_scheduled_message_has_the_same_limits(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, property_limits=PropertyLimits()))
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    async with _client(server) as client, client.get_queue_sender("orders") as sender:
        message = ServiceBusMessage("1", application_properties={"large": "x" * 33_000})
        with pytest.raises(ServiceBusError, match="please retry"):
            await sender.schedule_messages(message, later)
    assert len(server.queue("orders")) == 0


async def test_a_dead_letter_whose_cause_exceeds_the_limits_is_refused_and_stays_locked(serve: Serve) -> None:
    server = await serve(ServerConfig(QUEUES, property_limits=PropertyLimits()))
    async with _client(server) as client:
        await send(client, "orders", ["1"], application_properties={"a": "x" * 32_000, "b": "x" * 32_000})
        async with client.get_queue_receiver("orders") as receiver:
            [message] = await take(receiver, 1)
            with pytest.raises(ServiceBusError):
                await receiver.dead_letter_message(message, reason="r" * 2_000, error_description="d" * 2_000)
            assert server.queue("orders").contents().locked == 1
    assert server.counters.dead_letters == []


async def test_without_the_option_properties_have_no_limit(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", ["1"], application_properties={"large": "x" * 100_000})
    assert server.counters.accepted["orders"] == 1


# WebSockets


def _over_websocket(port: int, connection_string: str, tls: Authority, **options: int) -> ServiceBusClient:
    """Create a client over WebSocket with TLS.

    The service requires TLS; without TLS the SDK warns of its own aiohttp usage.
    """
    return Client.from_connection_string(
        connection_string,
        transport_type=TransportType.AmqpOverWebsocket,
        custom_endpoint_address=f"sb://127.0.0.1:{port}",
        connection_verify=str(tls.file),
        **options,  # type: ignore[arg-type]  # wider than its annotation, on purpose
    )


@pytest.fixture
def tls(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


async def _websocket_server(serve: Serve, tls: Authority) -> ServiceBusServer:
    return await serve(ServerConfig(QUEUES, websockets=True, certificate=tls.issue("server")))


async def _goes_through(client: ServiceBusClient) -> None:
    large = "x" * 200_000
    await send(client, "orders", ["1", large])
    async with client.get_queue_receiver("orders") as receiver:
        first, second = await take(receiver, 2)
        assert (body(first), body(second)) == ("1", large)
        await receiver.complete_message(first)
        await receiver.abandon_message(second)
        [again] = await take(receiver, 1)
        assert (again.delivery_count, len(await receiver.peek_messages(5, sequence_number=1))) == (1, 1)
        await receiver.complete_message(again)


async def test_amqp_over_websocket(serve: Serve, tls: Authority) -> None:
    server = await _websocket_server(serve, tls)
    async with _over_websocket(server.port, server.connection_string, tls, retry_total=0) as client:
        await _goes_through(client)
    await eventually(lambda: server.open_connections == 0)
    assert len(server.queue("orders")) == 0


async def test_a_websocket_that_drops_is_replaced(serve: Serve, tls: Authority) -> None:
    server = await _websocket_server(serve, tls)
    async with (
        _over_websocket(server.port, server.connection_string, tls) as client,
        client.get_queue_receiver("orders") as receiver,
    ):
        await send(client, "orders", ["1"])
        [message] = await take(receiver, 1)
        server.faults.drop()
        await receiver.complete_message(message)
        await server.stop()
        await server.start()
        await send(client, "orders", ["2"])
        assert [body(one) for one in await take(receiver, 1)] == ["2"]


# The process


async def test_the_process_has_the_options_too(tls: Authority) -> None:
    certificate = f"--certificate={tls.issue('server')}"
    options = ("--drop-locks", "--max-renewed-locks=1", "--property-limits", "--websockets", certificate)
    queues = (QueueConfig("orders"),)
    with ServerProcess(queues, options=options) as process:
        process.call("create", document=emulator.write((QueueConfig("later"),), ()))
        async with _over_websocket(process.port, process.connection_string, tls, retry_total=0) as client:
            await send(client, "later", ["1", "2"])
            with pytest.raises(ServiceBusError):
                await send(client, "later", ["3"], application_properties={"large": "x" * 33_000})
            async with client.get_queue_receiver("later") as receiver:
                messages = await take(receiver, 2)
                with pytest.raises(ServiceBusError):
                    await receiver._renew_locks(*(message.lock_token for message in messages))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        assert process.call("faults.mute") == 0
        assert process.contents("later")["locked"] == 0
        assert process.counters()["crashes"] == []
