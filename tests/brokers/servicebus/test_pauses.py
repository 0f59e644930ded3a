"""Pause of a source by a person: messages in flight, sessions, and messages that were fetched ahead."""

from __future__ import annotations

import asyncio
from pathlib import Path

from azure.servicebus.aio import ServiceBusClient

from tests.brokers.servicebus.bench import bus_bench, outcomes
from tests.kit.pipeline import PipelineFixture, message, offsets_by_key
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

SERVER = ServerConfig(
    (QueueConfig("by-session", lock_duration=10, requires_session=True), QueueConfig("orders", lock_duration=2))
)

SESSIONS = "queue: by-session\n    sessions: {concurrent: 2, idle: 10s, turn: 60s}"
ONE_AT_A_TIME = "    limits: {max_in_flight: 1, concurrency: 1}"


class Blocked:
    """Lets no command through until `go` is set. started: a command waits."""

    def __init__(self, bench: PipelineFixture) -> None:
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        bench.faults.before = self._before

    async def _before(self, command: object) -> None:
        self.started.set()
        await self.go.wait()


async def test_a_pause_closes_sessions_after_what_is_in_flight(tmp_path: Path, server: ServiceBusServer) -> None:
    async with (
        bus_bench(tmp_path, server.connection_string, SESSIONS, source=ONE_AT_A_TIME) as bench,
        ServiceBusClient.from_connection_string(server.connection_string) as client,
    ):
        blocked = Blocked(bench)
        await bench.publish(
            *(message("start", f"{key}-{n}", key) for n in range(5) for key in "ab"), topic="by-session"
        )
        await bench.source.start()
        await asyncio.wait_for(blocked.started.wait(), 10)
        bench.source.pause("paused")
        blocked.go.set()
        # Another consumer gets both sessions, although they have messages and their turns are not over
        for key in "ab":
            async with client.get_queue_receiver("by-session", session_id=key, max_wait_time=10) as receiver:
                assert (await receiver.peek_messages(1))[0].session_id == key
        done = sum(outcomes(bench).values())
        assert 1 <= done < 10
        assert bench.source.ledger.in_flight == 0
        granted = server.counters.granted_sessions["by-session"]
        await bench.publish(message("start", "c-0", "c"), topic="by-session")
        await asyncio.sleep(1.5)  # longer than a receiver takes to look for room
        assert server.counters.granted_sessions["by-session"] == granted
        assert sum(outcomes(bench).values()) == done
        bench.source.resume()
        await bench.settled(11)
        assert outcomes(bench) == {"executed": 11}
        assert bench.source.ledger.locks_lost == 0
        found = offsets_by_key(bench.faults.taken)
        assert found["a"] == found["b"] == list(range(5))


async def test_a_source_that_starts_paused_accepts_no_session(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_bench(tmp_path, server.connection_string, SESSIONS) as bench:
        await bench.publish(message("start", "a-0", "a"), topic="by-session")
        bench.source.pause("paused")
        await bench.source.start()
        await asyncio.sleep(1.5)  # as above
        assert server.counters.granted_sessions["by-session"] == 0
        bench.source.resume()
        await bench.settled(1)


async def test_messages_fetched_ahead_are_given_back(tmp_path: Path, server: ServiceBusServer) -> None:
    """A message in flight keeps its lock, which ends after 2 s. The others are free for another consumer at once."""
    async with (
        bus_bench(tmp_path, server.connection_string, source=ONE_AT_A_TIME) as bench,
        ServiceBusClient.from_connection_string(server.connection_string) as client,
    ):
        blocked = Blocked(bench)
        await bench.publish(*(message("start", str(n)) for n in range(6)))
        await bench.source.start()
        await asyncio.wait_for(blocked.started.wait(), 10)
        await bench.until(lambda: server.queue("orders").contents().locked == 6, "all are locked")
        bench.source.pause("paused")
        await bench.until(lambda: server.queue("orders").contents().locked == 1, "given back")
        await asyncio.sleep(3)  # longer than the lock
        assert bench.source.ledger.in_flight == 1
        blocked.go.set()
        await bench.until(lambda: not bench.source.ledger.in_flight, "what is in flight")
        assert outcomes(bench) == {"executed": 1}
        async with client.get_queue_receiver("orders", max_wait_time=10) as receiver:
            [other] = await receiver.receive_messages(1)
            assert other.delivery_count == 0
            await receiver.complete_message(other)
        await bench.publish(message("start", "7"))
        await asyncio.sleep(0.5)  # a link with credit would have it
        assert server.queue("orders").contents().locked == 0
        bench.source.resume()
        await bench.settled(6)
        assert outcomes(bench) == {"executed": 6}
        assert bench.source.ledger.locks_lost == 0
        assert bench.source.ledger.received == 6


async def test_a_pause_over_a_lost_connection_and_a_second_pause(tmp_path: Path, server: ServiceBusServer) -> None:
    """Messages that cannot be given back come again when their locks have expired."""
    async with bus_bench(tmp_path, server.connection_string, source=ONE_AT_A_TIME) as bench:
        blocked = Blocked(bench)
        await bench.publish(*(message("start", str(n)) for n in range(6)))
        await bench.source.start()
        await asyncio.wait_for(blocked.started.wait(), 10)
        await bench.until(lambda: server.queue("orders").contents().locked == 6, "all are locked")
        # Locks outlive their connection, but a message can be given back on its own connection only
        server.faults.drop("orders")
        await bench.until(lambda: bench.source.subscription.reconnects == 1, "connected again")  # type: ignore[attr-defined]  # of this broker
        bench.source.pause("paused")
        bench.source.pause("paused again")
        blocked.go.set()
        await bench.until(lambda: not bench.source.ledger.in_flight, "what is in flight")
        await bench.until(lambda: server.queue("orders").contents().locked == 0, "given back or expired")
        bench.source.resume()
        await bench.until(lambda: sum(outcomes(bench).get(each, 0) for each in ("executed", "duplicate")) >= 6, "all")
        await bench.until(lambda: not server.queue("orders").contents().unsettled, "all settled")
        assert outcomes(bench)["executed"] == 6
        assert bench.source.ledger.locks_lost >= 5
