"""Receiver failures, none of which loses or doubles a message."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker
from bridge.brokers.servicebus.delivery import ServiceBusDelivery
from bridge.brokers.servicebus.subscription import ServiceBusSubscription
from bridge.config.model.servicebus import ServiceBusSourceConfig
from bridge.core.errors import BrokerUnavailable, LockLost
from tests.brokers.consumer import Assignments, numbered, numbers
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import refusal
from tests.servicebus.server.management import messages as management
from tests.servicebus.server.management import node
from tests.servicebus.server.management.body import Answer, Body

pytestmark = pytest.mark.long

OPTIONS = SubscribeOptions(("orders",), dead_letter=None, servicebus=ServiceBusSourceConfig(prefetch=20))


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=30, max_delivery_count=10),
        QueueConfig("by-session", lock_duration=10, requires_session=True),
    )
)
BROKER = {"request_timeout": "3s"}


async def drain_all(
    server: ServiceBusServer, subscription: ServiceBusSubscription, unknown: list[int] | None = None
) -> list[int]:
    """Receive and complete through all faults until no message is left. Returns the numbers with confirmed completion.

    unknown: receives the numbers whose completion was sent but not confirmed.
    """
    done: list[int] = []
    left = server.queue("orders").contents
    async with asyncio.timeout(TIMEOUT):
        while left().active + left().locked:
            try:
                async with asyncio.timeout(0.2):
                    deliveries = await subscription.receive(100)
            except (BrokerUnavailable, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            for delivery in deliveries:
                while True:
                    try:
                        await delivery.complete()
                    except BrokerUnavailable:
                        await asyncio.sleep(0.05)
                        continue
                    except Exception:
                        if unknown is not None and delivery.settlement_unknown:
                            unknown += numbers([delivery])
                        break
                    done += numbers([delivery])
                    break
    return done


@pytest.mark.parametrize(
    "condition",
    [
        "com.microsoft:message-lock-lost",
        "com.microsoft:server-busy",
        "com.microsoft:timeout",
        "amqp:resource-limit-exceeded",
        "amqp:not-allowed",
        "amqp:unauthorized-access",
        "amqp:not-found",
        "amqp:link:detach-forced",
        "amqp:internal-error",
        "com.microsoft:entity-disabled",
    ],
)
async def test_a_poisoned_receiver_is_replaced(
    server: ServiceBusServer, broker: ServiceBusBroker, condition: str
) -> None:
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(5))
    assert sorted(await drain_all(server, subscription)) == [0, 1, 2, 3, 4]
    assert server.faults.detach(condition, entity="orders") == 1
    await broker.publish("orders", numbered(5, 5))
    assert sorted(await drain_all(server, subscription)) == [5, 6, 7, 8, 9]
    assert subscription.reconnects >= 1
    assert server.counters.dead_letters == []


@pytest.mark.parametrize("action", ["drop", "close", "detach", "reject"])
@pytest.mark.parametrize(
    "step", ["claim", "attach", "attached", "flow", "deliver", "delivered", "settle", "settled", "echoed", "manage"]
)
async def test_a_fault_at_every_step(
    server: ServiceBusServer, broker: ServiceBusBroker, step: str, action: str
) -> None:
    """Messages in transfer during a failure come again after their lock has ended, which is short here."""
    server.queue("orders").config = replace(server.queue("orders").config, lock_duration=3)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(10))
    server.faults.add(step, action, entity=None if step == "claim" else "orders", condition="amqp:internal-error")
    if step in ("claim", "attach", "attached", "flow"):
        server.faults.drop("orders")
    unknown: list[int] = []
    done = await drain_all(server, subscription, unknown)
    # When the service acted without an answer, a second completion is not confirmed
    assert set(done) | set(unknown) == set(range(10))
    assert len(set(done)) >= 9
    assert server.counters.dead_letters == []
    contents = server.queue("orders").contents()
    assert (contents.active, contents.locked) == (0, 0)


async def test_in_flight_survives_its_connection(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(10))
    taken: list[Any] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < 10:
            taken += await subscription.receive(10)
    server.faults.drop()
    for delivery in taken:
        await _settled(delivery.complete)
    assert server.queue("orders").contents().active == 0
    assert server.counters.expired_locks["orders"] == 0
    assert server.counters.deliveries["orders"] == 10


async def _settled(settle: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await settle()  # type: ignore[misc]  # a coroutine
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_frozen_server_is_left_and_found_again(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.servicebus.connection.CLOSE_SECONDS", 1.0)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(5))
    taken: list[Any] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < 5:
            taken += await subscription.receive(5)
    server.faults.freeze()
    with pytest.raises(BrokerUnavailable):
        await taken[0].complete()
    with pytest.raises(BrokerUnavailable):
        await subscription.receive(1)
    assert subscription.stopped()
    server.faults.thaw()
    server.faults.lose_locks("orders")
    # The frozen server may execute abandoned requests later
    assert set(await drain_all(server, subscription)) >= {1, 2, 3, 4}
    await eventually(lambda: not (subscription.stopped()))


async def test_a_silent_connection_is_asked(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.servicebus.receiver.QUIET_SECONDS", 0.5)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    async with asyncio.timeout(TIMEOUT):
        await eventually(lambda: server.counters.operations["peek-message"] >= 2)
        server.faults.freeze()
        await eventually(subscription.stopped)
        server.faults.thaw()
        await eventually(lambda: not (subscription.stopped()))


async def test_a_busy_server(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, request_timeout="3s") as setup:
        await setup.source.start()
        await setup.publish(*(message("start", n) for n in range(50)))
        await setup.until(lambda: outcomes(setup), "under way")
        server.faults.busy(4.0, "orders")  # longer than a request may take
        await asyncio.sleep(4.0)
        # The source's count does not suffice: a completion whose answer is lost has no outcome, but took effect
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert server.counters.dead_letters == []
        assert sorted({command.instance_id for command in setup.faults.taken}) == sorted(  # type: ignore[union-attr]
            f"order-{n}" for n in range(50)
        )


@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 2}"])
async def test_a_server_that_goes_and_comes_back(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity, request_timeout="3s") as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.source.start()
        await setup.publish(*(message("start", n, str(n % 3)) for n in range(20)), topic=queue)
        await setup.until(lambda: outcomes(setup), "under way")
        await server.stop()
        await setup.until(lambda: setup.source.gate.pause_reasons or setup.source.subscription.stopped(), "noticed")  # type: ignore[attr-defined]  # of the class behind the interface
        await asyncio.sleep(3)
        await server.start()
        await setup.publish(*(message("start", n, str(n % 3)) for n in range(20, 30)), topic=queue)
        await setup.until(lambda: len({each.instance_id for each in setup.faults.taken}) == 30, "all executed")  # type: ignore[union-attr]
        await setup.until(lambda: not server.queue(queue).contents().unsettled, "all settled")
        assert server.counters.dead_letters == []


async def test_lock_of_a_redelivery_voids_the_first(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(1))
    [first] = await subscription.receive(1)
    server.faults.lose_locks("orders")
    [second] = await subscription.receive(1)
    assert (first.lost, second.lost, second.attempt) == (True, False, 2)
    await second.complete()
    assert server.queue("orders").contents().active == 0


async def test_a_link_that_the_service_forgot_is_replaced(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection works, and requests on it are answered."""
    monkeypatch.setattr("bridge.brokers.servicebus.receiver.QUIET_SECONDS", 0.3)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(1))
    held = await subscription.receive(1)
    server.queue("orders")._consumers.clear()
    await broker.publish("orders", numbered(1, 1))
    found: list[ServiceBusDelivery] = []
    async with asyncio.timeout(TIMEOUT):
        while not found:
            try:
                found += await subscription.receive(1)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
    assert numbers(found) == [1]
    assert subscription.reconnects >= 1
    for delivery in [*held, *found]:
        await delivery.complete()


@pytest.mark.parametrize("most", [1, 7, 50])
async def test_a_service_that_renews_few_locks_at_once(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    server.queue("orders").config = replace(server.queue("orders").config, lock_duration=3)
    asked: list[int] = []

    def renew_lock(queue: Queue, body: Body) -> Answer:
        asked.append(len(body.tokens()))
        if asked[-1] > most:
            raise refusal("com.microsoft:argument-out-of-range", f"At most {most} tokens.")
        return management.renew_lock(queue, body)

    monkeypatch.setitem(node._ON_QUEUES, "renew-lock", renew_lock)
    subscription = await broker.subscribe(
        replace(OPTIONS, servicebus=ServiceBusSourceConfig(prefetch=60)), Assignments()
    )
    await broker.publish("orders", numbered(60))
    taken: list[Any] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < 60:
            taken += await subscription.receive(60)
        await eventually(lambda: sum(count for count in asked if count <= most) >= 120)
    assert max(asked) <= 60
    assert sum(count > most for count in asked) < 70  # not repeatedly
    for delivery in taken:
        await delivery.complete()
    assert server.counters.expired_locks["orders"] == 0
    assert subscription.reconnects == 0


async def test_a_lock_refused_alone_is_compared_with_another_one(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock that is refused is due before the others, so none of them has been renewed since."""
    server.queue("orders").config = replace(server.queue("orders").config, lock_duration=6)
    requests: list[bool] = []

    def renew_lock(queue: Queue, body: Body) -> Answer:
        found = [queue.locked.get(token) for token in body.tokens()]
        requests.append(any(each is not None and each.sequence_number == 1 for each in found))
        if requests[-1]:
            raise refusal("amqp:internal-error", "never")
        return management.renew_lock(queue, body)

    monkeypatch.setitem(node._ON_QUEUES, "renew-lock", renew_lock)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(1))
    async with asyncio.timeout(TIMEOUT):
        [first] = await subscription.receive(1)
        await asyncio.sleep(1)  # the difference between the times of their renewals
        await broker.publish("orders", numbered(2, 1))
        others: list[ServiceBusDelivery] = []
        while len(others) < 2:
            others += await subscription.receive(2)
        await eventually(lambda: requests[:2] == [True, False])
        await eventually(lambda: requests.count(True) >= 2)
    assert subscription.reconnects == 0
    for delivery in [first, *others]:
        await delivery.complete()
    assert not server.queue("orders").contents().unsettled


@pytest.mark.parametrize("condition", ["amqp:not-allowed", "amqp:internal-error"])
async def test_a_lock_that_the_service_does_not_renew_costs_no_other(
    server: ServiceBusServer, broker: ServiceBusBroker, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    server.queue("orders").config = replace(server.queue("orders").config, lock_duration=3)
    requests = Counter[str]()

    def renew_lock(queue: Queue, body: Body) -> Answer:
        found = [queue.locked.get(token) for token in body.tokens()]
        ours = any(each is not None and each.sequence_number == 4 and not each.delivery_count for each in found)
        requests["refused" if ours else "renewed"] += 1
        if ours:
            raise refusal(condition, "never")
        return management.renew_lock(queue, body)

    monkeypatch.setitem(node._ON_QUEUES, "renew-lock", renew_lock)
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(12))
    taken: list[ServiceBusDelivery] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < 12:
            taken += await subscription.receive(12)
        again: list[ServiceBusDelivery] = []
        while not again:
            # A refused renewal may count as an outage for a moment: a source waits and asks again
            with suppress(BrokerUnavailable):
                again += await subscription.receive(1)
            await asyncio.sleep(0.01)  # a refusal awaits nothing, and the receiver needs its turns
        await eventually(lambda: server.counters.renewed_locks["orders"] >= 60)
    [refused] = [each for each in taken if each.lost]
    assert numbers([refused]) == numbers(again) == [3]
    with pytest.raises(LockLost):
        await refused.complete()
    for delivery in [*again, *(each for each in taken if each is not refused)]:
        await delivery.complete()
    assert not server.queue("orders").contents().unsettled
    assert server.counters.expired_locks["orders"] == 1
    assert subscription.reconnects == 0
    assert requests["refused"] < 20


@pytest.mark.parametrize("kept", [True, False])
async def test_locks_may_go_with_their_connection_or_not(
    server: ServiceBusServer, broker: ServiceBusBroker, kept: bool
) -> None:
    """Held deliveries can be settled, or their loss is known and they are redelivered."""
    subscription = await broker.subscribe(OPTIONS, Assignments())
    await broker.publish("orders", numbered(10))
    taken: list[Any] = []
    async with asyncio.timeout(TIMEOUT):
        while len(taken) < 10:
            taken += await subscription.receive(10)
    server.faults.drop()
    if not kept:
        server.faults.lose_locks("orders")
    done, lost = [], 0
    for delivery in taken:
        try:
            await _settled(delivery.complete)
            done += numbers([delivery])
        except LockLost:
            lost += 1
    assert lost == (0 if kept else 10)
    done += await drain_all(server, subscription)
    assert sorted(done) == list(range(10))
