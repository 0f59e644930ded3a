"""Faults strike at their step and the given number of times; other steps are unaffected."""

from __future__ import annotations

import asyncio
import datetime
import time

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from tests.kit.waiting import eventually
from tests.servicebus.conftest import Serve
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import Action, QueueConfig, ServerConfig, ServiceBusServer, Step
from tests.servicebus.server.amqp import performatives
from tests.servicebus.server.amqp.encoder import TRUE, uint
from tests.servicebus.server.amqp.frames import AMQP_HEADER, SASL_HEADER, frame
from tests.servicebus.wire import BEGIN, OPEN, SASL_INIT, RawClient, attach, data, flow, peek, request, settle, transfer

GONE = (asyncio.IncompleteReadError, ConnectionError)


async def _walk(client: RawClient) -> None:
    """Go through every step of the server, one after the other."""
    await client.send(SASL_HEADER)
    await client.header()
    await client.send(SASL_INIT)
    await client.until(performatives.SASL_OUTCOME)
    await client.send(AMQP_HEADER + OPEN)
    await client.header()
    await client.until(performatives.OPEN)
    await client.send(BEGIN)
    await client.until(performatives.BEGIN)
    for handle, node in ((0, "$cbs"), (2, "orders/$management"), (4, "orders")):
        for receiver in (True, False):
            await client.send(attach(f"{node}{receiver}", handle + receiver, node, receiver=receiver))
            await client.until(performatives.ATTACH)
    await client.send(transfer(0, 0, request({"operation": "put-token", "type": "jwt", "name": "orders"}, b"\xa1\x00")))
    await client.until(performatives.TRANSFER)
    await client.send(transfer(4, 1, data(b"one")))
    await client.until(performatives.DISPOSITION)
    await client.send(transfer(2, 2, peek(1)))
    await client.until(performatives.TRANSFER)
    await client.send(flow(5, 1))
    fields, _ = await client.until(performatives.TRANSFER)
    await client.send(settle(fields[1], performatives.ACCEPTED))
    await client.until(performatives.DISPOSITION)
    await client.send(frame(1, performatives.DETACH, [uint(5), TRUE]))
    await client.until(performatives.DETACH)
    await client.send(frame(0, performatives.CLOSE, []))
    await client.until(performatives.CLOSE)
    assert await client.rest() == b""


AFTER = {
    # Messages left in the queue (active, locked) when the connection broke at a step
    Step.STORED: (1, 0),
    Step.MANAGE: (1, 0),
    Step.MANAGED: (1, 0),
    Step.FLOW: (1, 0),
    Step.DELIVER: (0, 1),
    Step.DELIVERED: (0, 1),
    Step.SETTLE: (0, 1),
}


@pytest.fixture
async def open_server(serve: Serve) -> ServiceBusServer:
    """Server that requires no claims."""
    return await serve(ServerConfig((QueueConfig("orders", lock_duration=30),), keys=()))


@pytest.mark.parametrize("step", Step)
async def test_the_connection_can_break_at_every_step(open_server: ServiceBusServer, step: Step) -> None:
    fault = open_server.faults.add(step, Action.DROP)
    with pytest.raises(GONE):
        await _walk(await RawClient.connect(open_server.port))
    assert fault.hits == 1
    contents = open_server.queue("orders").contents()
    assert (contents.active, contents.locked) == AFTER.get(step, (0, 0))
    open_server.clear()
    await _walk(await RawClient.connect(open_server.port))
    assert fault.hits == 1


@pytest.mark.parametrize("step", Step)
async def test_a_connection_can_freeze_at_every_step(open_server: ServiceBusServer, step: Step) -> None:
    fault = open_server.faults.add(step, Action.FREEZE, seconds=0.3)
    began = time.monotonic()
    await _walk(await RawClient.connect(open_server.port))
    assert fault.hits == 1
    assert time.monotonic() - began >= 0.25


async def test_skip_times_entity_and_operation_choose(open_server: ServiceBusServer) -> None:
    faults = open_server.faults
    elsewhere = faults.add("send", "drop", entity="elsewhere")
    renewal = faults.add("manage", "drop", operation="renew-lock")
    second = faults.add("send", "reject", entity="ORDERS", condition="com.microsoft:server-busy", skip=1, times=2)
    client = await RawClient.connect(open_server.port)
    await client.handshake()
    await client.send(attach("in", 0, "orders", receiver=False))
    outcomes = []
    for number in range(5):
        await client.send(transfer(0, number, data(b"x")))
        fields, _ = await client.until(performatives.DISPOSITION)
        outcomes.append(fields[4].descriptor == performatives.ACCEPTED_STATE)
    assert outcomes == [True, False, False, True, True]
    assert (elsewhere.hits, renewal.hits, second.hits) == (0, 0, 2)
    client.hang_up()


@pytest.mark.parametrize(
    ("condition", "error"),
    [("amqp:not-found", MessagingEntityNotFoundError), ("com.microsoft:server-busy", ServiceBusServerBusyError)],
)
async def test_an_attach_can_be_refused(
    server: ServiceBusServer, client: ServiceBusClient, condition: str, error: type[Exception]
) -> None:
    server.faults.add(Step.ATTACH, Action.REJECT, entity="orders", condition=condition)
    with pytest.raises(error):
        async with client.get_queue_receiver("orders"):
            pass
    async with client.get_queue_receiver("orders"):
        pass
    assert server.counters.refused_attaches["orders"] == 1


async def test_a_swallowed_echo_leaves_the_settlement_open(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", ["1", "2"])
    async with client.get_queue_receiver("orders") as receiver:
        one, two = await take(receiver, 2)
        server.faults.add(Step.SETTLED, Action.SWALLOW, entity="orders")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await receiver.complete_message(one)
        assert server.counters.outcome("orders", "complete") == 1
        await receiver.complete_message(two)
    assert len(server.queue("orders")) == 0


async def test_a_lock_can_be_lost_just_before_it_is_settled(server: ServiceBusServer, client: ServiceBusClient) -> None:
    await send(client, "orders", ["1"])
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        server.faults.add(Step.SETTLE, Action.LOSE)
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)
        [again] = await take(receiver, 1)
        assert again.delivery_count == 1
        await receiver.complete_message(again)


async def test_a_receiver_can_be_detached_with_any_condition(
    server: ServiceBusServer, client: ServiceBusClient
) -> None:
    async with client.get_queue_receiver("orders") as receiver:
        waiting = asyncio.create_task(receiver.receive_messages(1, max_wait_time=10))
        await eventually(lambda: any(c.wants() for c in server.queue("orders")._consumers))
        assert server.faults.detach("amqp:not-allowed", "no more", "orders") == 1
        with pytest.raises(ServiceBusError, match="no more"):
            await waiting


async def test_busy_is_busy_until_it_is_over(server: ServiceBusServer) -> None:
    async with Client.from_connection_string(server.connection_string, retry_total=0) as client:
        async with client.get_queue_sender("orders") as sender:
            server.faults.busy(1.5)
            with pytest.raises(ServiceBusServerBusyError):
                await sender.send_messages(ServiceBusMessage("refused"))
            with pytest.raises(ServiceBusServerBusyError):
                async with client.get_queue_receiver("orders"):
                    pass
        await asyncio.sleep(1.5)
        await send(client, "orders", ["taken"])
    assert server.queue("orders").contents().active == 1


async def test_a_frozen_server_answers_nothing_and_loses_nothing(server: ServiceBusServer) -> None:
    async with (
        Client.from_connection_string(server.connection_string, retry_total=0) as client,
        client.get_queue_sender("orders") as sender,
    ):
        server.faults.freeze()
        with pytest.raises(OperationTimeoutError):
            await sender.send_messages(ServiceBusMessage("late"), timeout=1)
        assert len(server.queue("orders")) == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), client.get_queue_receiver("orders"):
                pass
        server.faults.thaw()
        await eventually(lambda: server.queue("orders").contents().active == 1)


async def test_round_trips_take_their_time(open_server: ServiceBusServer) -> None:
    client = await RawClient.connect(open_server.port)
    await client.handshake()
    await client.send(attach("in", 0, "orders", receiver=False))
    await client.until(performatives.FLOW)
    for seconds in (0.0, 0.05, 0.2):
        open_server.faults.slow(round_trip=seconds)
        began = time.monotonic()
        await client.send(transfer(0, 0, data(b"x")))
        await client.until(performatives.DISPOSITION)
        assert seconds <= time.monotonic() - began + 0.001
    client.hang_up()


async def test_a_narrow_way_takes_its_time(open_server: ServiceBusServer) -> None:
    client = await RawClient.connect(open_server.port)
    await client.handshake()
    await client.send(attach("in", 0, "orders", receiver=False) + transfer(0, 0, data(bytes(20_000))))
    await client.until(performatives.DISPOSITION)
    open_server.faults.slow(bytes_per_second=50_000)
    began = time.monotonic()
    await client.send(attach("out", 1, "orders", receiver=True) + flow(1, 1))
    _, payload = await client.until(performatives.TRANSFER)
    assert len(payload) > 20_000
    assert time.monotonic() - began >= 0.4
    client.hang_up()


async def test_a_skewed_clock_stamps_the_messages(server: ServiceBusServer, client: ServiceBusClient) -> None:
    server.faults.skew(-600)
    await send(client, "orders", ["old"])
    async with client.get_queue_receiver("orders") as receiver:
        [message] = await take(receiver, 1)
        assert body(message) == "old"
        assert message.locked_until_utc is not None
        behind = datetime.datetime.now(datetime.UTC) - message.locked_until_utc
        assert 560 < behind.total_seconds() < 600
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)  # raised by the SDK: by its own clock the lock has ended
    assert server.queue("orders").contents().locked == 1


async def test_all_connections_can_be_closed_in_amqps_way(server: ServiceBusServer, client: ServiceBusClient) -> None:
    async with client.get_queue_sender("orders") as sender:
        assert server.faults.close() == 1
        await eventually(lambda: server.open_connections == 0)
        with pytest.raises(ServiceBusConnectionError):
            await sender.send_messages(ServiceBusMessage("1"))
        await sender.send_messages(ServiceBusMessage("2"))
    assert server.queue("orders").contents().active == 1


async def test_silent_clients_are_hung_up_on_and_others_are_not(serve: Serve) -> None:
    server = await serve(ServerConfig((QueueConfig("orders"),), keys=(), idle_timeout=0.5))
    silent, lively = await RawClient.connect(server.port), await RawClient.connect(server.port)
    await silent.handshake()
    await lively.handshake()
    for _ in range(10):
        await asyncio.sleep(0.1)
        await lively.send(b"\0\0\0\x08\x02\0\0\0")
    [error], _ = await silent.until(performatives.CLOSE)
    assert error.value[0] == "amqp:connection:forced"
    assert server.open_connections == 1
    await eventually(lambda: server.counters.idle_frames == 10)
    lively.hang_up()


async def test_clear_ends_all_of_it(server: ServiceBusServer, client: ServiceBusClient) -> None:
    faults = server.faults
    faults.add(Step.SEND, Action.DROP, times=-1)
    faults.busy(600)
    faults.freeze()
    faults.skew(600)
    faults.slow(round_trip=5)
    faults.clear()
    await send(client, "orders", ["1"])
    assert server.queue("orders").contents().active == 1
    assert abs(server.clock.now() / 1000 - time.time()) < 1


def test_a_fault_of_no_known_step_or_detail_is_an_error() -> None:
    server = ServiceBusServer(ServerConfig())
    with pytest.raises(ValueError, match="nowhere"):
        server.faults.add("nowhere", "drop")
    with pytest.raises(TypeError):
        server.faults.add("send", "drop", wrong=1)
