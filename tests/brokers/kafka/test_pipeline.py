"""Promises of a whole pipeline: poison, hot keys, outages and rebalances on Kafka."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from structlog.testing import capture_logs

from bridge.app.serve.views.watch import SourceView
from bridge.core.commands import Command
from bridge.core.errors import EngineUnavailable, InstanceNotFound
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.setup import kafka_setup
from tests.kit.pipeline import PipelineFixture, message, offsets_by_key
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.prove


def outcomes(setup: PipelineFixture) -> dict[str, int]:
    """Return the outcomes that occurred, with their counts."""
    return {str(outcome): count for outcome, count in setup.source.ledger.outcomes.items() if count}


async def test_poison_among_thousands(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("poison")
    async with kafka_setup(tmp_path, harness, topic) as setup:
        batch = [message("start", f"{n % 50}-{n}", str(n % 50)) for n in range(2000)]
        batch.insert(700, message("nonsense", "7-poison", "7"))
        await setup.publish(*batch, topic=topic)
        await setup.source.start()
        await setup.settled(2001)
        assert outcomes(setup) == {"executed": 2000, "dead_lettered": 1}
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(setup.faults.taken).values())
        [dead] = await setup.read(f"{topic}.dlq", 1)
        assert dead.key == b"7"
        assert dict(dead.headers)["bridge.reason"] == b"no_route"


async def test_a_blocked_hot_key_holds_itself_and_then_its_partition(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("hot")
    limits = "    retry: {initial: 10ms, in_memory: 1h}\n    limits: {max_key_backlog: 500, max_gap: 300}"
    async with kafka_setup(tmp_path, harness, topic, partitions=1, source=limits) as setup:
        blocked = True

        async def before(command: Command) -> None:
            if blocked and command.instance_id.startswith("order-hot"):  # type: ignore[union-attr]
                raise InstanceNotFound("not yet")

        setup.faults.before = before
        batch = [message("start", f"hot-{n}", "hot") for n in range(20)]
        batch += [message("start", f"cold{n % 9}-{n}", f"cold{n % 9}") for n in range(1000)]
        await setup.publish(*batch, topic=topic)
        await setup.source.start()
        # Other keys continue up to the gap limit, and no further
        with capture_logs() as logs:
            await setup.until(lambda: setup.source.gate.paused, "the gap limit")
        assert [f"stops reading {topic}/0: " in line["event"] for line in logs if line.get("action") == "pause"]
        await setup.until(lambda: setup.source.ledger.in_flight == 20, "only the hot key is left")
        settled = len(setup.faults.taken)
        assert 250 <= settled < 900
        [(_, _, gap, lag)] = list(SourceView(setup.source, TIMEOUT).partitions())
        assert gap >= 300
        assert lag >= 1020 - settled - 1
        await asyncio.sleep(0.5)
        assert len(setup.faults.taken) == settled
        # Other sources and partitions may be fine: this partition is reported by itself
        view = SourceView(setup.source, stuck_after=1.0)
        await setup.until(lambda: view.reading().holds, "the stall")
        assert "records wait, and none was read or settled" in view.reading().holds[f"{topic}/0"]
        blocked = False
        await setup.settled(1020)
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(setup.faults.taken).values())


async def test_a_rebalance_in_the_middle_of_a_retry(tmp_path: Path, harness: KafkaHarness) -> None:
    """A delivery in backoff is released at once, its next owner continues the key in order, and no instance starts
    twice."""
    topic = unique("retry")
    slow = "    retry: {initial: 10m, max_delay: 10m, in_memory: 1h}"
    async with (
        kafka_setup(tmp_path / "one", harness, topic, source=slow) as one,
        kafka_setup(tmp_path / "two", harness, topic, source=slow) as two,
    ):
        fail = True

        async def before(command: Command) -> None:
            if fail and command.instance_id.endswith("-0"):  # type: ignore[union-attr]
                raise InstanceNotFound("not yet")

        one.faults.before = before
        batch = [message("start", f"{key}-{number}", str(key)) for number in range(10) for key in range(20)]
        await one.publish(*batch, topic=topic)
        await one.source.start()
        await one.until(lambda: one.source.ledger.retries >= 20, "every key backs off")
        assert one.faults.taken == []
        fail = False
        # The second member joins: the first must release everything long before its retries are due
        async with asyncio.timeout(TIMEOUT):
            await two.source.start()
        await eventually(lambda: len(one.faults.taken) + len(two.faults.taken) >= 200)
        assert one.source.ledger.abandoned["revoked"] >= 20
        first, second = offsets_by_key(one.faults.taken), offsets_by_key(two.faults.taken)
        assert first.keys() | second.keys() == {str(key) for key in range(20)}
        assert not first.keys() & second.keys()
        assert all(numbers == list(range(10)) for numbers in (first | second).values())


async def test_a_rebalance_does_not_lift_the_gap_limit(tmp_path: Path, harness: KafkaHarness) -> None:
    """A rebalance resets the client's paused partitions."""
    topic = unique("paused")
    limits = "    retry: {initial: 10ms, in_memory: 1h}\n    limits: {max_key_backlog: 500, max_gap: 100}"
    async with (
        kafka_setup(tmp_path / "one", harness, topic, source=limits) as one,
        kafka_setup(tmp_path / "two", harness, topic, source=limits) as two,
    ):
        blocked = True

        async def before(command: Command) -> None:
            if blocked:
                raise InstanceNotFound("not yet")

        one.faults.before = two.faults.before = before
        await one.publish(*(message("start", f"{n % 40}-{n // 40}", str(n % 40)) for n in range(2000)), topic=topic)
        await one.source.start()
        await one.until(lambda: len(one.source.gate.paused) == 2, "both partitions at the limit")
        await two.source.start()
        for each in (one, two):
            await each.until(lambda each=each: len(each.source.gate.paused) == 1, "paused again")  # type: ignore[misc]
        await asyncio.sleep(0.5)
        for each in (one, two):
            [partition] = each.source.assignment
            assert 100 <= partition.gap <= 100 + 256  # one batch may exceed the limit
        assert not one.faults.taken + two.faults.taken
        blocked = False
        await eventually(lambda: len(one.faults.taken) + len(two.faults.taken) >= 2000)
        found = offsets_by_key(one.faults.taken) | offsets_by_key(two.faults.taken)
        assert all(numbers == list(range(50)) for numbers in found.values())


async def test_an_outage_longer_than_the_poll_interval_keeps_everything(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("outage")
    async with kafka_setup(tmp_path, harness, topic) as setup:
        await setup.publish(*(message("start", f"{n % 5}-{n}", str(n % 5)) for n in range(50)), topic=topic)
        setup.faults.outage = EngineUnavailable("away")
        await setup.source.start()
        await setup.until(lambda: SourceView(setup.source, TIMEOUT).held, "held")
        partitions = set(setup.source.assignment)
        await asyncio.sleep(4)
        setup.faults.outage = None
        await setup.settled(50)
        assert set(setup.source.assignment) == partitions
        assert outcomes(setup) == {"executed": 50}


async def test_dead_letters_beyond_the_limit_wait(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("limited")
    async with kafka_setup(tmp_path, harness, topic, source="    limits: {dead_letter_limit: 10}") as setup:
        await setup.publish(*(message("nonsense", n, str(n)) for n in range(100)), topic=topic)
        await setup.source.start()
        await setup.until(lambda: setup.source.dead_letter_limit.active, "limited")
        await setup.publish(*(message("start", n, f"g{n}") for n in range(20)), topic=topic)
        await setup.until(lambda: outcomes(setup).get("executed") == 20, "good ones go on")
        await setup.until(lambda: outcomes(setup).get("dead_lettered", 0) >= 10, "those that were allowed")
        assert outcomes(setup)["dead_lettered"] < 100


async def test_partitions_are_added_while_keys_are_in_flight(tmp_path: Path, harness: KafkaHarness) -> None:
    """Keys move to other partitions: each message takes effect once, in order within each partition of its key."""
    topic = unique("grows")
    async with kafka_setup(tmp_path, harness, topic, partitions=2) as setup:
        await setup.publish(*(message("start", f"{n % 20}-{n}", str(n % 20)) for n in range(200)), topic=topic)
        gate = asyncio.Event()

        async def before(command: Command) -> None:
            if len(setup.faults.taken) > 50:
                await gate.wait()

        setup.faults.before = before
        await setup.source.start()
        await setup.until(lambda: setup.source.at_work >= 10, "keys in flight")
        admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(6)})
        await admin.close()
        await setup.until(lambda: len(setup.source.assignment) == 6, "the new partitions")
        gate.set()
        # The producer of this client must know the new partitions, or the keys stay where they are
        await setup.publish(*(message("start", f"{n % 20}-{n}", str(n % 20)) for n in range(200, 400)), topic=topic)
        await setup.until(lambda: len({each.instance_id for each in setup.faults.taken}) == 400, "all of them")  # type: ignore[union-attr]
        for numbers in offsets_by_key(setup.faults.taken).values():
            firsts = list(dict.fromkeys(numbers))
            for part in (range(200), range(200, 400)):
                within = [number for number in firsts if number in part]
                assert within == sorted(within)
