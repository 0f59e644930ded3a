"""Pause of a source by a person: messages in flight, sessions, and messages that were fetched ahead."""

from __future__ import annotations

import asyncio
from pathlib import Path

from azure.servicebus.aio import ServiceBusClient

from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import PipelineFixture, message, offsets_by_key
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

SERVER = ServerConfig(
    (QueueConfig("by-session", lock_duration=10, requires_session=True), QueueConfig("orders", lock_duration=2))
)

SESSIONS = "queue: by-session\n    sessions: {concurrent: 2, idle: 10s, turn: 60s}"
ONE_AT_A_TIME = "    limits: {max_in_flight: 1, concurrency: 1}"


class Blocked:
    """Lets no command through until `go` is set. started: a command waits."""

    def __init__(self, setup: PipelineFixture) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        setup.faults.before = self._before

    async def _before(self, command: object) -> None:
        self.started.set()
        await self.go.wait()


async def test_a_pause_closes_sessions_after_what_is_in_flight(tmp_path: Path, server: ServiceBusServer) -> None:
    async with (
        bus_setup(tmp_path, server.connection_string, SESSIONS, source=ONE_AT_A_TIME) as setup,
        ServiceBusClient.from_connection_string(server.connection_string) as client,
    ):
        blocked = Blocked(setup)
        await setup.publish(
            *(message("start", f"{key}-{n}", key) for n in range(5) for key in "ab"), topic="by-session"
        )
        await setup.source.start()
        await asyncio.wait_for(blocked.started.wait(), TIMEOUT)
        setup.source.pause("paused")
        blocked.go.set()
        # Another consumer gets both sessions, although they have messages and their turns are not over
        for key in "ab":
            async with client.get_queue_receiver("by-session", session_id=key, max_wait_time=10) as receiver:
                assert (await receiver.peek_messages(1))[0].session_id == key
        done = sum(outcomes(setup).values())
        assert 1 <= done < 10
        assert setup.source.ledger.in_flight == 0
        granted = server.counters.granted_sessions["by-session"]
        await setup.publish(message("start", "c-0", "c"), topic="by-session")
        await asyncio.sleep(1.5)  # longer than a receiver takes to look for room
        assert server.counters.granted_sessions["by-session"] == granted
        assert sum(outcomes(setup).values()) == done
        setup.source.resume()
        await setup.settled(11)
        assert outcomes(setup) == {"executed": 11}
        assert setup.source.ledger.locks_lost == 0
        found = offsets_by_key(setup.faults.taken)
        assert found["a"] == found["b"] == list(range(5))


async def test_a_source_that_starts_paused_accepts_no_session(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, SESSIONS) as setup:
        await setup.publish(message("start", "a-0", "a"), topic="by-session")
        setup.source.pause("paused")
        await setup.source.start()
        await asyncio.sleep(1.5)  # as above
        assert server.counters.granted_sessions["by-session"] == 0
        setup.source.resume()
        await setup.settled(1)


async def test_messages_fetched_ahead_are_given_back(tmp_path: Path, server: ServiceBusServer) -> None:
    """A message in flight keeps its lock, which ends after 2 s. The others are free for another consumer at once."""
    async with (
        bus_setup(tmp_path, server.connection_string, source=ONE_AT_A_TIME) as setup,
        ServiceBusClient.from_connection_string(server.connection_string) as client,
    ):
        blocked = Blocked(setup)
        await setup.publish(*(message("start", str(n)) for n in range(6)))
        await setup.source.start()
        await asyncio.wait_for(blocked.started.wait(), TIMEOUT)
        await setup.until(lambda: server.queue("orders").contents().locked == 6, "all are locked")
        setup.source.pause("paused")
        await setup.until(lambda: server.queue("orders").contents().locked == 1, "given back")
        await asyncio.sleep(3)  # longer than the lock
        assert setup.source.ledger.in_flight == 1
        blocked.go.set()
        await setup.until(lambda: not setup.source.ledger.in_flight, "what is in flight")
        assert outcomes(setup) == {"executed": 1}
        async with client.get_queue_receiver("orders", max_wait_time=10) as receiver:
            [other] = await receiver.receive_messages(1)
            assert other.delivery_count == 0
            await receiver.complete_message(other)
        await setup.publish(message("start", "7"))
        await asyncio.sleep(0.5)  # a link with credit would have it
        assert server.queue("orders").contents().locked == 0
        setup.source.resume()
        await setup.settled(6)
        assert outcomes(setup) == {"executed": 6}
        assert setup.source.ledger.locks_lost == 0
        assert setup.source.ledger.received == 6


async def test_a_pause_over_a_lost_connection_and_a_second_pause(tmp_path: Path, server: ServiceBusServer) -> None:
    """Messages that cannot be given back come again when their locks have expired."""
    async with bus_setup(tmp_path, server.connection_string, source=ONE_AT_A_TIME) as setup:
        blocked = Blocked(setup)
        await setup.publish(*(message("start", str(n)) for n in range(6)))
        await setup.source.start()
        await asyncio.wait_for(blocked.started.wait(), TIMEOUT)
        await setup.until(lambda: server.queue("orders").contents().locked == 6, "all are locked")
        # Locks outlive their connection, but a message can be given back on its own connection only
        server.faults.drop("orders")
        await setup.until(lambda: setup.source.subscription.reconnects == 1, "connected again")  # type: ignore[attr-defined]  # of this broker
        setup.source.pause("paused")
        setup.source.pause("paused again")
        blocked.go.set()
        await setup.until(lambda: not setup.source.ledger.in_flight, "what is in flight")
        await setup.until(lambda: server.queue("orders").contents().locked == 0, "given back or expired")
        setup.source.resume()
        await setup.until(lambda: sum(outcomes(setup).get(each, 0) for each in ("executed", "duplicate")) >= 6, "all")
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        assert outcomes(setup)["executed"] == 6
        assert setup.source.ledger.locks_lost >= 5
