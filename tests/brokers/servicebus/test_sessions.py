"""Sessions: in order, many at once, released fairly, with unchanged state."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest

from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import message, offsets_by_key
from tests.kit.waiting import TIMEOUT
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer, SubscriptionConfig, TopicConfig

FOUR = "queue: by-session\n    sessions: {concurrent: 4}"


SERVER = ServerConfig(
    (QueueConfig("by-session", lock_duration=10, requires_session=True), QueueConfig("plain")),
    (TopicConfig("events", (SubscriptionConfig("bridge", requires_session=True),)),),
)


@pytest.mark.usefixtures("quick_start")
async def test_order_per_session_and_sessions_side_by_side(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, FOUR) as setup:
        at_work = 0
        most = 0

        async def before(command: object) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.005)
            at_work -= 1

        setup.faults.before = before
        batch = [message("start", f"{key}-{number}", str(key)) for number in range(10) for key in range(12)]
        await setup.publish(*batch, topic="by-session")
        await setup.source.start()
        await setup.settled(120)
        assert outcomes(setup) == {"executed": 120}
        assert all(numbers == list(range(10)) for numbers in offsets_by_key(setup.faults.taken).values())
        assert 2 <= most <= 4
        assert server.counters.granted_sessions["by-session"] >= 12


@pytest.mark.usefixtures("quick_start")
async def test_a_topic_s_subscription_with_sessions(tmp_path: Path, server: ServiceBusServer) -> None:
    entity = "topic: events\n    subscription: bridge\n    sessions: true"
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        await setup.publish(*(message("start", f"k-{n}", "k") for n in range(5)), topic="events")
        await setup.source.start()
        await setup.settled(5)
        assert [each.instance_id for each in setup.faults.taken] == [f"order-k-{n}" for n in range(5)]  # type: ignore[union-attr]


@pytest.mark.usefixtures("quick_start")
async def test_a_busy_session_makes_room(tmp_path: Path, server: ServiceBusServer) -> None:
    """With one receiver and an endless session, another session gets its turn."""
    entity = "queue: by-session\n    sessions: {concurrent: 1, turn: 1s}"
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        stop = asyncio.Event()
        first_of: dict[str, int] = defaultdict(int)

        async def before(command: object) -> None:
            first_of[command.instance_id.split("-")[1]] += 1  # type: ignore[attr-defined]

        async def chatter() -> None:
            number = 0
            while not stop.is_set():
                await setup.publish(message("start", f"busy-{number}", "busy"), topic="by-session")
                number += 1
                await asyncio.sleep(0.01)

        setup.faults.before = before
        talking = asyncio.create_task(chatter())
        await setup.source.start()
        await setup.until(lambda: first_of["busy"] >= 10, "the busy one is under way")
        await setup.publish(message("start", "quiet-0", "quiet"), topic="by-session")
        await setup.until(lambda: first_of["quiet"], "the other one's turn")
        stop.set()
        await talking
        await setup.until(lambda: not server.queue("by-session").contents().unsettled, "all done")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all settled")
        numbers = offsets_by_key(setup.faults.taken)["busy"]
        assert numbers == sorted(numbers)
        assert setup.source.ledger.locks_lost == 0


@pytest.mark.usefixtures("quick_start")
async def test_an_idle_session_is_given_up_for_another_process(tmp_path: Path, server: ServiceBusServer) -> None:
    one = "queue: by-session\n    sessions: {concurrent: 1, idle: 200ms}"
    async with (
        bus_setup(tmp_path / "one", server.connection_string, one) as first,
        bus_setup(tmp_path / "two", server.connection_string, one) as second,
    ):
        await first.source.start()
        await first.publish(message("start", "k-0", "k"), topic="by-session")
        await first.settled(1)
        await first.source.drain(5)
        await second.source.start()
        await second.publish(message("start", "k-1", "k"), topic="by-session")
        await second.settled(1)


@pytest.mark.usefixtures("quick_start")
async def test_the_state_of_a_session_is_left_alone(tmp_path: Path, server: ServiceBusServer) -> None:
    async with Client.from_connection_string(server.connection_string) as client:
        async with bus_setup(tmp_path, server.connection_string, FOUR) as setup:
            await setup.publish(message("start", "k-0", "k"), topic="by-session")
            async with client.get_queue_receiver("by-session", session_id="k") as receiver:
                await receiver.session.set_state(b"theirs")
            await setup.source.start()
            await setup.settled(1)
        async with client.get_queue_receiver("by-session", session_id="k") as receiver:
            assert await receiver.session.get_state() == b"theirs"


@pytest.mark.usefixtures("quick_start")
async def test_no_session_is_no_fault(
    tmp_path: Path, server: ServiceBusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.brokers.servicebus.session.ACCEPT_SECONDS", 0.5)
    async with bus_setup(tmp_path, server.connection_string, FOUR) as setup:
        await setup.source.start()
        await setup.until(lambda: server.counters.refused_attaches["by-session"] >= 8, "asked again and again")
        subscription = setup.source.subscription
        assert subscription is not None
        assert (subscription.stopped(), subscription.reconnects) == ({}, 0)  # type: ignore[attr-defined]
        assert setup.source.gate.pause_reasons == {}
        await setup.publish(message("start", "k-0", "k"), topic="by-session")
        await setup.settled(1)


@pytest.mark.parametrize("entity", ["queue: by-session", "queue: plain\n    sessions: true"])
async def test_a_source_that_is_wrong_about_sessions_is_told(
    tmp_path: Path, server: ServiceBusServer, entity: str
) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        with pytest.raises(Exception, match="disagree about sessions"):
            async with asyncio.timeout(TIMEOUT):
                await setup.source.start()
