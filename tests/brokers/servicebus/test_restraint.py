"""Restraint: no connections while no work is possible, memory within its limit, and no sessions of other receivers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker
from bridge.brokers.servicebus.connection import PUBLISHING, ConnectionSlots
from bridge.brokers.servicebus.receive_buffer import GROWTH, ReceiveBuffer
from bridge.config.model.servicebus import ServiceBusBrokerConfig, SessionsConfig
from bridge.core.errors import EngineUnavailable
from bridge.core.message import Message
from tests.brokers.consumer import Assignments
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message, offsets_by_key
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

LOCK = 2.0
KILOBYTES_200 = 200_000


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=30),
        QueueConfig("one", lock_duration=LOCK, requires_session=True),
        QueueConfig("two", lock_duration=LOCK, requires_session=True),
        QueueConfig("results"),
    )
)


def make(server: ServiceBusServer, **config: Any) -> ServiceBusBroker:
    settings = {"type": "servicebus", "connection_string": server.connection_string, **config}
    return ServiceBusBroker("bus", ServiceBusBrokerConfig.model_validate(settings), lambda field, value: Path(value))


async def test_held_sessions_stay_as_they_are(tmp_path: Path, server: ServiceBusServer) -> None:
    """The engine is away, and more messages wait than are prefetched, beyond turns, idle times and locks."""
    entity = "queue: one\n    sessions: {concurrent: 4, idle: 100ms, turn: 500ms}\n    servicebus: {prefetch: 20}"
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        batch = [message("start", f"k{key}-{number}", f"k{key}") for key in range(12) for number in range(15)]
        await setup.publish(*batch, topic="one")
        setup.faults.outage = EngineUnavailable("away")
        await setup.source.start()
        counters = server.counters
        await setup.until(lambda: setup.source.gate.pause_reasons and counters.renewed_sessions["one"] >= 4, "held")
        connections, granted = counters.connections, counters.granted_sessions["one"]
        await setup.until(lambda: counters.renewed_sessions["one"] >= 20, "five renewals of each")
        assert (counters.connections, counters.granted_sessions["one"]) == (connections, granted)
        setup.faults.outage = None
        await setup.settled(len(batch))
        assert outcomes(setup) == {"executed": len(batch)}
        assert all(numbers == list(range(15)) for numbers in offsets_by_key(setup.faults.taken).values())
        assert counters.connections == connections  # one session after the other, over the same connections
        assert setup.source.ledger.locks_lost == 0


@pytest.mark.parametrize("how", ["drop", "close"])
async def test_a_broken_connection_is_replaced_by_one(tmp_path: Path, server: ServiceBusServer, how: str) -> None:
    """One new connection, whatever the number of settlements in progress."""
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.publish(*(message("start", number) for number in range(100)))
        gate = asyncio.Event()

        async def before(command: object) -> None:
            await gate.wait()

        setup.faults.before = before
        await setup.source.start()
        await setup.until(lambda: setup.source.ledger.received == 100, "all received")
        made = server.counters.connections
        server.faults.add("settle", how, entity="orders", skip=3)
        gate.set()
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        assert server.counters.connections - made == 1
        assert outcomes(setup)["executed"] >= 90  # for the others only the answer was lost


async def test_sessions_one_after_the_other_over_one_connection(
    server: ServiceBusServer, broker: ServiceBusBroker
) -> None:
    await broker.publish("one", [Message(b"x", f"k{number}".encode()) for number in range(30)])
    before = server.counters.connections
    sessions = SessionsConfig.model_validate({"concurrent": 1, "idle": "10s"})
    subscription = await broker.subscribe(
        SubscribeOptions(("one",), dead_letter=None, sessions=sessions), Assignments()
    )
    done = 0
    async with asyncio.timeout(TIMEOUT):  # shorter than thirty times `idle`
        while done < 30:
            for delivery in await subscription.receive(10):
                await delivery.complete()
                done += 1
    assert server.counters.connections == before + 1
    assert server.counters.granted_sessions["one"] == 30


async def test_a_wait_for_sessions_needs_no_new_connections(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.servicebus.session.ACCEPT_SECONDS", 0.3)
    sessions = SessionsConfig(concurrent=2)
    subscription = await broker.subscribe(
        SubscribeOptions(("one",), dead_letter=None, sessions=sessions), Assignments()
    )
    await eventually(lambda: server.counters.refused_attaches["one"] >= 8)
    assert server.counters.connections == 2
    await broker.publish("one", [Message(b"x", b"k")])
    [delivery] = await subscription.receive(1)
    await delivery.complete()


@pytest.mark.parametrize("queue", ["orders", "one"])
async def test_bytes_are_bounded_before_anybody_asks(
    server: ServiceBusServer, broker: ServiceBusBroker, queue: str
) -> None:
    """Messages of the maximum size without a receive call: at most the allowed bytes, and one message per receiver."""
    allowed, count = 1_000_000, 60
    session = queue == "one"
    sessions = SessionsConfig(concurrent=3) if session else None
    for number in range(count):
        key = f"k{number % 6}".encode() if session else None
        await broker.publish(queue, [Message(b"x" * KILOBYTES_200, key)])
    subscription = await broker.subscribe(
        SubscribeOptions((queue,), dead_letter=None, sessions=sessions, prefetch_bytes=allowed), Assignments()
    )
    buffer = subscription._buffer
    await eventually(lambda: buffer.stuck)
    assert buffer.bytes <= allowed + (3 if session else 1) * KILOBYTES_200 * 1.1
    assert server.counters.deliveries[queue] == len(buffer.deliveries)
    done = 0
    async with asyncio.timeout(TIMEOUT):
        while done < count:
            for delivery in await subscription.receive(3):
                await delivery.complete()
                done += 1
    assert buffer.bytes == 0


@given(st.lists(st.integers(1, 5_000_000), min_size=1), st.integers(1, 20), st.integers(1, 5000))
def test_credit(sizes: list[int], receivers: int, most: int) -> None:
    """Credit is never 0, never above the maximum, and fits the space for messages of the recent maximum size."""
    buffer = ReceiveBuffer(1000, 16_000_000, receivers)
    assert buffer.credit(most) == 1
    for number, size in enumerate(sizes, 1):
        buffer.measure(size)
        credit = buffer.credit(most)
        assert 1 <= credit <= max(1, min(most, GROWTH * number))
        assert credit == 1 or credit * receivers * size <= 16_000_000


@dataclass(eq=False)
class Somebody:
    number: int
    is_dispensable: bool
    gave_way: bool = False

    def yield_connection(self) -> None:
        self.gave_way = True


def test_seats_are_shared_in_turns() -> None:
    first, second = ([Somebody(number, number > 0) for number in range(8)] for _ in range(2))
    plain = [Somebody(number, False) for number in range(2)]
    slots = ConnectionSlots(10)
    slots.join(first)
    assert [slots.is_entitled(each) for each in first] == [True] * (10 - PUBLISHING) + [False]
    slots.join(plain)
    slots.join(second)
    entitled = [[each.number for each in those if slots.is_entitled(each)] for those in (first, second, plain)]
    assert entitled == [[0, 1, 2], [0, 1], [0, 1]]
    assert [each.gave_way for each in first] == [False] * 3 + [True] * 5
    assert not any(slots.take(each) for each in first[3:])
    assert all(slots.take(each) for each in first[:3])
    assert all(slots.take(each) for each in second[:2])
    slots.leave(second)
    assert sum(slots.is_entitled(each) for each in first) == 5
    assert all(ConnectionSlots(None).is_entitled(each) for each in first)


async def test_two_sources_and_publishing_within_ten_connections(
    server: ServiceBusServer, broker: ServiceBusBroker
) -> None:
    """Ten connections, the limit of the emulator."""
    listeners = [Assignments(), Assignments()]
    sessions = SessionsConfig()
    subscriptions = [
        await broker.subscribe(SubscribeOptions((queue,), dead_letter=None, sessions=sessions), listener)
        for queue, listener in zip(("one", "two"), listeners, strict=True)
    ]
    for queue in ("one", "two"):
        await broker.publish(queue, [Message(b"x", f"k{number}".encode()) for number in range(40)])
    most = 0

    async def consume(subscription: Any) -> None:
        nonlocal most
        done = 0
        while done < 40:
            for delivery in await subscription.receive(10):
                await broker.publish("results", [Message(b"y")])
                await delivery.complete()
                most = max(most, server.open_connections)
                done += 1

    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*map(consume, subscriptions))
    assert most <= 10
    assert all(not subscription.stopped() for subscription in subscriptions)


def test_the_emulator_is_known_by_its_connection_string() -> None:
    def most(text: str, **more: Any) -> int | None:
        given = {"type": "servicebus", "connection_string": f"Endpoint=sb://x/;SharedAccessKey=k{text}", **more}
        return ServiceBusBrokerConfig.model_validate(given).most_connections

    assert most("") is None
    assert most(";UseDevelopmentEmulator=true;") == 10
    assert most(";UseDevelopmentEmulator=true;", connections=50) == 50
    assert most(";UseDevelopmentEmulator=false") is None
