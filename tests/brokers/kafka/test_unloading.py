"""Messages beyond the dead-letter limit leave memory and return from Kafka: whole, in order, to any owner."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.core.commands import Command
from bridge.core.errors import EngineRejected
from bridge.core.message import Message
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.setup import kafka_setup
from tests.kit.pipeline import PipelineFixture, message, offsets_by_key
from tests.kit.waiting import TIMEOUT

SMALL = "    limits: {dead_letter_limit: 3, max_in_flight: 20}"


def free(setup: PipelineFixture) -> None:
    """Remove the limit on dead letters from now on."""
    limit = setup.source.dead_letter_limit
    limit._paces.resume(None)
    limit.limit = 100_000
    limit._wake.set()


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_others_go_on_and_nothing_is_lost(tmp_path: Path, harness: KafkaHarness, compression: str) -> None:
    topic = unique("unloaded")
    async with kafka_setup(tmp_path, harness, topic, source=SMALL) as setup:
        sent = [Message(b"%d" % n * 500, b"k%d" % (n % 60), (("type", b"x"), ("n", b"%d" % n))) for n in range(150)]
        publisher = await harness.broker(compression=compression)
        await publisher.publish(topic, sent)
        await setup.source.start()
        await setup.until(lambda: setup.source.unloading.count > 100, "unloaded")
        await setup.publish(*(message("start", f"g-{n}", f"g{n}") for n in range(20)), topic=topic)
        await setup.until(lambda: setup.source.ledger.outcomes["executed"] == 20, "good ones go on")
        await setup.until(lambda: setup.source.unloading.in_memory <= 20, "the others have no bodies")
        free(setup)
        await setup.settled(170)
        dead_letters = await setup.read(f"{topic}.dlq", 150)
        assert sorted((each.body, each.key, dict(each.headers)["n"]) for each in dead_letters) == sorted(
            (each.body, each.key, dict(each.headers)["n"]) for each in sent
        )


async def test_the_next_owner_gets_them_in_order(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("owner")
    async with (
        kafka_setup(tmp_path / "one", harness, topic, source=SMALL) as one,
        kafka_setup(tmp_path / "two", harness, topic) as two,
    ):

        async def refuse(command: Command) -> None:
            raise EngineRejected("too large")

        one.faults.before = refuse
        await one.publish(
            *(message("start", f"{key}-{n}", str(key)) for n in range(8) for key in range(20)), topic=topic
        )
        await one.source.start()
        await one.until(lambda: one.source.unloading.count > 100, "unloaded")
        async with asyncio.timeout(TIMEOUT):
            await two.source.start()
        await one.source.drain(5)
        written = one.source.ledger.dead_letters["engine_rejected"]
        await two.until(lambda: len(two.faults.taken) == 160 - written, "all but the dead letters")
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(two.faults.taken).values())
