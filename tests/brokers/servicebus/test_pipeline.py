"""Promises of a whole pipeline: outages, lost locks, poison, dead letters, drain."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.core import provenance
from bridge.core.commands import Command
from bridge.core.errors import EngineUnavailable, InstanceNotFound
from tests.brokers.consumer import Assignments, take
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

LOCK = 2.0
"""Seconds, shorter than the service allows, to keep the tests short."""


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=LOCK, max_delivery_count=3),
        QueueConfig("by-session", lock_duration=LOCK, max_delivery_count=3, requires_session=True),
        QueueConfig("slow", lock_duration=5, max_delivery_count=10),
        QueueConfig("letters"),
    )
)


@pytest.mark.usefixtures("quick_start")
@pytest.mark.parametrize("entity", ["queue: orders", "queue: by-session, sessions: {concurrent: 4}"])
async def test_an_outage_longer_than_lock_times_delivery_count(
    tmp_path: Path, server: ServiceBusServer, entity: str
) -> None:
    entity = entity.replace(", ", "\n    ")
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = setup.source.settings.subscribe.topics[0]
        await setup.publish(*(message("start", f"{n % 4}-{n}", str(n % 4)) for n in range(40)), topic=queue)
        setup.faults.outage = EngineUnavailable("away")
        await setup.source.start()
        await setup.until(lambda: setup.source.gate.pause_reasons, "held")
        await asyncio.sleep(LOCK * 3 + 2)
        setup.faults.outage = None
        await setup.settled(40)
        assert outcomes(setup) == {"executed": 40}
        assert setup.source.ledger.received == 40
        assert setup.source.ledger.locks_lost == 0
        assert server.counters.dead_letters == []
        assert not server.counters.expired_locks
        assert not server.counters.expired_session_locks


async def test_a_lost_lock_in_the_middle_is_counted_and_repeats_nothing_twice(
    tmp_path: Path, server: ServiceBusServer
) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:
        at_work = asyncio.Event()
        release = asyncio.Event()

        async def before(command: Command) -> None:
            if not at_work.is_set():
                at_work.set()
                await release.wait()

        setup.faults.before = before
        await setup.source.start()
        await setup.publish(message("start", "1"))
        await asyncio.wait_for(at_work.wait(), TIMEOUT)
        assert server.faults.lose_locks("orders") == 1
        # The redelivery arrives while the first delivery is still being processed
        await setup.settled(1)
        release.set()
        await setup.until(lambda: not setup.source.ledger.in_flight, "both have ended")
        assert setup.source.ledger.received == 2
        assert setup.source.ledger.locks_lost == 1
        assert setup.source.ledger.abandoned == Counter(lock_lost=1)
        assert outcomes(setup) == {"executed": 1}
        assert server.queue("orders").contents().active == 0


async def test_what_lost_its_lock_in_the_queue_is_not_executed(tmp_path: Path, server: ServiceBusServer) -> None:
    """The redelivery is executed once; the first delivery waits behind an outage."""
    async with bus_setup(tmp_path, server.connection_string) as setup:
        setup.faults.outage = EngineUnavailable("away")
        await setup.publish(message("start", "1"), message("start", "2"))
        await setup.source.start()
        await setup.until(lambda: setup.source.ledger.in_flight + len(_inbox(setup)) == 2, "held")
        assert server.faults.lose_locks("orders") == 2
        # Both come again; the first deliveries are therefore void
        await setup.until(lambda: setup.source.ledger.received + len(_inbox(setup)) >= 4, "redelivered")
        setup.faults.outage = None
        await setup.until(lambda: outcomes(setup).get("executed") == 2, "executed")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert setup.source.ledger.locks_lost == 2
        assert sorted(command.instance_id for command in setup.faults.taken) == ["order-1", "order-2"]  # type: ignore[union-attr]


def _inbox(setup: object) -> list[object]:
    return list(setup.source.subscription._buffer.deliveries)  # type: ignore[attr-defined]


async def test_a_lost_session_counts_once_and_its_order_holds(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, "queue: by-session\n    sessions: true") as setup:
        at_work, release = asyncio.Event(), asyncio.Event()

        async def before(command: Command) -> None:
            if command.instance_id == "order-k-2" and not at_work.is_set():  # type: ignore[union-attr]
                at_work.set()
                await release.wait()

        setup.faults.before = before
        await setup.source.start()
        await setup.publish(*(message("start", f"k-{n}", "k") for n in range(8)), topic="by-session")
        await asyncio.wait_for(at_work.wait(), TIMEOUT)
        server.faults.lose_locks("by-session")
        await setup.until(lambda: setup.source.ledger.locks_lost, "the loss is noticed")
        release.set()
        await setup.until(lambda: not server.queue("by-session").contents().unsettled, "all done")
        await setup.until(lambda: not setup.source.ledger.in_flight, "nothing in flight")
        ledger = setup.source.ledger
        assert ledger.locks_lost == 1
        assert ledger.outcomes["executed"] + ledger.outcomes["duplicate"] == 8
        first = list(dict.fromkeys(command.instance_id for command in setup.faults.taken))  # type: ignore[union-attr]
        assert first == [f"order-k-{n}" for n in range(8)]


async def test_a_slow_command_keeps_its_lock(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:

        async def before(command: Command) -> None:
            await asyncio.sleep(LOCK * 3)

        setup.faults.before = before
        await setup.publish(message("start", "1"))
        await setup.source.start()
        await setup.settled(1)
        assert (outcomes(setup), setup.source.ledger.received) == ({"executed": 1}, 1)
        assert server.counters.renewed_locks["orders"] >= 3
        assert not server.counters.expired_locks


async def test_poison_is_dead_lettered_with_its_cause(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.publish(message("nonsense", "7", "k"), *(message("start", n) for n in range(20)))
        await setup.source.start()
        await setup.settled(21)
        assert outcomes(setup) == {"executed": 20, "dead_lettered": 1}
        [dead_letter] = server.counters.dead_letters
        assert dead_letter.reason == "no_route"
        # The sub-queue is read like any source, with the headers of a dead letter on a topic
        path = "orders/$DeadLetterQueue"
        subscription = await setup.broker.subscribe(SubscribeOptions((path,), dead_letter=None), Assignments())
        [dead] = await take(subscription, 1)
        headers = dict(dead.message.headers)
        assert dead.message.key == b"k"
        assert headers[provenance.REASON] == b"no_route"
        assert headers[provenance.SOURCE] == b"orders"
        assert headers[provenance.TOPIC] == b"orders"
        assert headers[provenance.DETAIL].decode() == dead_letter.description.partition("\n")[0]
        assert headers["DeadLetterReason"] == b"no_route"
        assert dead.position.topic == path
        await dead.complete()


async def test_a_queue_for_dead_letters(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, source="    dead_letter: letters") as setup:
        await setup.publish(message("nonsense", "7", "k"))
        await setup.source.start()
        await setup.settled(1)
        assert server.counters.dead_letters == []
        [dead] = await setup.read("letters", 1)
        assert (dead.key, dict(dead.headers)[provenance.REASON]) == (b"k", b"no_route")


async def test_a_retry_longer_than_max_hold_is_dead_lettered(tmp_path: Path, server: ServiceBusServer) -> None:
    source = "    retry: {initial: 300ms, in_memory: 1h}\n    servicebus: {max_hold: 500ms}"
    async with bus_setup(tmp_path, server.connection_string, source=source) as setup:

        async def before(command: Command) -> None:
            raise InstanceNotFound("not yet")

        setup.faults.before = before
        await setup.publish(message("start", "1"))
        await setup.source.start()
        await setup.settled(1)
        assert outcomes(setup) == {"dead_lettered": 1}
        assert setup.source.ledger.received == 1


async def test_a_drain_gives_everything_back_uncounted(tmp_path: Path, server: ServiceBusServer) -> None:
    limits = "    limits: {max_in_flight: 20}\n    servicebus: {prefetch: 10}"
    async with bus_setup(tmp_path, server.connection_string, "queue: slow", source=limits) as setup:
        await setup.publish(*(message("start", n) for n in range(100)), topic="slow")
        setup.faults.outage = EngineUnavailable("away")
        await setup.source.start()
        locked = server.queue("slow").contents
        await setup.until(lambda: setup.source.gate.pause_reasons and locked().locked >= 10, "held")
        await setup.source.drain(1)
    assert not server.counters.expired_locks
    contents = server.queue("slow").contents()
    assert (contents.active, contents.locked) == (100, 0)
    async with bus_setup(tmp_path / "again", server.connection_string, "queue: slow") as setup:
        subscription = await setup.broker.subscribe(SubscribeOptions(("slow",), dead_letter=None), Assignments())
        deliveries = await take(subscription, 100)
        assert {delivery.attempt for delivery in deliveries} == {1}


async def test_the_delivery_count_is_told(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.publish(message("nonsense", "1"))
        subscription = await setup.broker.subscribe(SubscribeOptions(("orders",), dead_letter=None), Assignments())
        [delivery] = await take(subscription, 1)
        assert delivery.attempt == 1
        await delivery.abandon()
        [delivery] = await take(subscription, 1)
        assert delivery.attempt == 2
        await delivery.abandon()
        await subscription.close()
        await setup.source.start()
        await setup.settled(1)
        [dead_letter] = server.counters.dead_letters
        assert dead_letter.delivery_count == 2
        assert '"deliveries":"3"' in (dead_letter.description or "")
