"""Kills: the faults to which both variants are exposed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tests.prove.stage import KEYS, ProofFixture


@dataclass(frozen=True, slots=True)
class Kill:
    """Row of the table: one fault.

    promise: its number in docs/guarantees.md. test: file that tests the same fault in more ways. quiet: seconds without
    an effect after which missing messages count as lost. broker: `servicebus` is the project's test server.
    """

    name: str
    promise: int
    breaks: str
    test: str
    run: Callable[[ProofFixture], Awaitable[None]]
    quiet: float = 15.0
    broker: Literal["kafka", "servicebus"] = "kafka"


async def _loaded(stage: ProofFixture, seconds: float, harm: Callable[[], Awaitable[None]]) -> None:
    """Run `harm` while messages arrive."""
    load = asyncio.create_task(stage.load(seconds))
    await asyncio.sleep(1.5)
    await harm()
    await load


async def consumer_killed(stage: ProofFixture) -> None:
    stage.join()
    stage.join()

    async def harm() -> None:
        for number in range(5):
            await asyncio.sleep(1.2)
            await stage.kill(number % 2)

    await _loaded(stage, 9.0, harm)


async def consumer_rolled(stage: ProofFixture) -> None:
    stage.join()
    stage.join()

    async def harm() -> None:
        await asyncio.sleep(1.0)
        await stage.roll()

    await _loaded(stage, 7.0, harm)


async def consumer_frozen(stage: ProofFixture) -> None:
    stage.join()
    stage.join()

    async def harm() -> None:
        await asyncio.sleep(2.0)
        stage.freeze()
        await asyncio.sleep(6.0)  # longer than the session timeout of 3 s: the other consumer takes its partitions
        stage.thaw()

    await _loaded(stage, 11.0, harm)


async def engine_killed(stage: ProofFixture) -> None:
    stage.join()

    async def harm() -> None:
        for _ in range(3):
            await asyncio.sleep(1.5)
            await stage.engine.kill()
            await stage.engine.start()

    await _loaded(stage, 9.0, harm)


async def engine_away(stage: ProofFixture) -> None:
    stage.join()

    async def harm() -> None:
        await asyncio.sleep(2.0)
        await stage.engine.kill()
        await asyncio.sleep(15.0)
        await stage.engine.start()

    await _loaded(stage, 8.0, harm)


async def early_events(stage: ProofFixture) -> None:
    stage.join()
    for number in (1, 2):
        for key in range(2):
            await stage.send(f"k{key}", number, early=True)
    await asyncio.sleep(10.0)
    for key in range(KEYS):
        await stage.send(f"k{key}", 0)


async def bad_messages(stage: ProofFixture) -> None:
    stage.join()

    async def harm() -> None:
        for number in range(10):
            await stage.send_bad(f"k{number}")
            await asyncio.sleep(0.2)

    await _loaded(stage, 5.0, harm)


async def unreadable_messages(stage: ProofFixture) -> None:
    stage.join()
    stage.join()

    async def harm() -> None:
        for part in stage.broker.parts:
            await stage.send_unreadable(part)
            await asyncio.sleep(0.3)
            if part % 2:
                await stage.kill(0)

    await _loaded(stage, 8.0, harm)


KILLS = (
    Kill(
        "consumer-killed", 1, "kill -9 of a consumer, five times, two in a group",
        "tests/acceptance/test_kill.py", consumer_killed,
    ),
    Kill(
        "engine-killed", 2, "kill -9 of the engine, three times, back at once",
        "tests/sqlite_engine/test_crash.py", engine_killed,
    ),
    Kill(
        "early-events", 2, "two events of two keys come 10 s before the messages that start them",
        "tests/early_messages/test_protocol.py", early_events, quiet=30.0,
    ),
    Kill(
        "consumers-rolled", 3, "SIGTERM of one consumer after the other, as a release does",
        "tests/brokers/kafka/test_processes.py", consumer_rolled,
    ),
    Kill(
        "consumer-frozen", 3, "a consumer frozen for 6 s, past its session of 3 s, and thawed",
        "tests/brokers/kafka/test_processes.py", consumer_frozen,
    ),
    Kill(
        "bad-messages", 5, "ten messages that can never succeed among the others",
        "tests/pipeline/test_poison.py", bad_messages,
    ),
    Kill(
        "unreadable-records", 5, "a record that no client library can parse in each partition, and three kill -9",
        "tests/brokers/kafka/test_unreadable.py", unreadable_messages,
    ),
    Kill(
        "unreadable-messages", 5, "a message that the SDK cannot decode in each of six sessions, and three kill -9",
        "tests/brokers/servicebus/test_unreadable.py", unreadable_messages, quiet=30.0, broker="servicebus",
    ),
    Kill(
        "engine-away", 6, "the engine is away for 15 s",
        "tests/acceptance/test_outage.py", engine_away,
    ),
)  # fmt: skip
