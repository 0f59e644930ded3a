"""Promises of a whole pipeline: poison, hot keys, outages and rebalances on Kafka."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from structlog.testing import capture_logs

from bridge.app.serve.watch import SourceView
from bridge.core.commands import Command
from bridge.core.errors import EngineUnavailable, InstanceNotFound
from tests.brokers.kafka.bench import kafka_bench
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kit.pipeline import PipelineFixture, message, offsets_by_key
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.prove


def outcomes(bench: PipelineFixture) -> dict[str, int]:
    """Return the outcomes that occurred, with their counts."""
    return {str(outcome): count for outcome, count in bench.source.ledger.outcomes.items() if count}


async def test_poison_among_thousands(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("poison")
    async with kafka_bench(tmp_path, harness, topic) as bench:
        batch = [message("start", f"{n % 50}-{n}", str(n % 50)) for n in range(2000)]
        batch.insert(700, message("nonsense", "7-poison", "7"))
        await bench.publish(*batch, topic=topic)
        await bench.source.start()
        await bench.settled(2001)
        assert outcomes(bench) == {"executed": 2000, "dead_lettered": 1}
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(bench.faults.taken).values())
        [dead] = await bench.read(f"{topic}.dlq", 1)
        assert dead.key == b"7"
        assert dict(dead.headers)["bridge.reason"] == b"no_route"


async def test_a_blocked_hot_key_holds_itself_and_then_its_partition(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("hot")
    limits = "    retry: {initial: 10ms, in_memory: 1h}\n    limits: {max_key_backlog: 500, max_gap: 300}"
    async with kafka_bench(tmp_path, harness, topic, partitions=1, source=limits) as bench:
        blocked = True

        async def before(command: Command) -> None:
            if blocked and command.instance_id.startswith("order-hot"):  # type: ignore[union-attr]
                raise InstanceNotFound("not yet")

        bench.faults.before = before
        batch = [message("start", f"hot-{n}", "hot") for n in range(20)]
        batch += [message("start", f"cold{n % 9}-{n}", f"cold{n % 9}") for n in range(1000)]
        await bench.publish(*batch, topic=topic)
        await bench.source.start()
        # Other keys continue up to the gap limit, and no further
        with capture_logs() as logs:
            await bench.until(lambda: bench.source.gate.paused, "the gap limit")
        assert [f"{topic}/0 is read no further" in line["event"] for line in logs if line.get("action") == "pause"]
        await bench.until(lambda: bench.source.ledger.in_flight == 20, "only the hot key is left")
        settled = len(bench.faults.taken)
        assert 250 <= settled < 900
        [(_, _, gap, lag)] = list(SourceView(bench.source).partitions())
        assert gap >= 300
        assert lag >= 1020 - settled - 1
        await asyncio.sleep(0.5)
        assert len(bench.faults.taken) == settled
        # Other sources and partitions may be fine: this partition is reported by itself
        view = SourceView(bench.source, stuck_after=1.0)
        await bench.until(lambda: view.reading().holds, "the stall")
        assert "records wait, and none was read or settled" in view.reading().holds[f"{topic}/0"]
        blocked = False
        await bench.settled(1020)
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(bench.faults.taken).values())


async def test_a_rebalance_in_the_middle_of_a_retry(tmp_path: Path, harness: KafkaHarness) -> None:
    """A delivery in backoff is released at once, its next owner continues the key in order, and no instance starts
    twice."""
    topic = unique("retry")
    slow = "    retry: {initial: 10m, max_delay: 10m, in_memory: 1h}"
    async with (
        kafka_bench(tmp_path / "one", harness, topic, source=slow) as one,
        kafka_bench(tmp_path / "two", harness, topic, source=slow) as two,
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
        kafka_bench(tmp_path / "one", harness, topic, source=limits) as one,
        kafka_bench(tmp_path / "two", harness, topic, source=limits) as two,
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
    async with kafka_bench(tmp_path, harness, topic) as bench:
        await bench.publish(*(message("start", f"{n % 5}-{n}", str(n % 5)) for n in range(50)), topic=topic)
        bench.faults.outage = EngineUnavailable("away")
        await bench.source.start()
        await bench.until(lambda: SourceView(bench.source).held, "held")
        partitions = set(bench.source.assignment)
        await asyncio.sleep(4)
        bench.faults.outage = None
        await bench.settled(50)
        assert set(bench.source.assignment) == partitions
        assert outcomes(bench) == {"executed": 50}


async def test_dead_letters_beyond_the_limit_wait(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("limited")
    async with kafka_bench(tmp_path, harness, topic, source="    limits: {dead_letter_limit: 10}") as bench:
        await bench.publish(*(message("nonsense", n, str(n)) for n in range(100)), topic=topic)
        await bench.source.start()
        await bench.until(lambda: bench.source.dead_letter_limit.active, "limited")
        await bench.publish(*(message("start", n, f"g{n}") for n in range(20)), topic=topic)
        await bench.until(lambda: outcomes(bench).get("executed") == 20, "good ones go on")
        await bench.until(lambda: outcomes(bench).get("dead_lettered", 0) >= 10, "those that were allowed")
        assert outcomes(bench)["dead_lettered"] < 100


async def test_partitions_are_added_while_keys_are_in_flight(tmp_path: Path, harness: KafkaHarness) -> None:
    """Keys move to other partitions: each message takes effect once, in order within each partition of its key."""
    topic = unique("grows")
    async with kafka_bench(tmp_path, harness, topic, partitions=2) as bench:
        await bench.publish(*(message("start", f"{n % 20}-{n}", str(n % 20)) for n in range(200)), topic=topic)
        gate = asyncio.Event()

        async def before(command: Command) -> None:
            if len(bench.faults.taken) > 50:
                await gate.wait()

        bench.faults.before = before
        await bench.source.start()
        await bench.until(lambda: bench.source.at_work >= 10, "keys in flight")
        admin = AIOKafkaAdminClient(bootstrap_servers=harness.bootstrap)
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(6)})
        await admin.close()
        await bench.until(lambda: len(bench.source.assignment) == 6, "the new partitions")
        gate.set()
        # The producer of this client must know the new partitions, or the keys stay where they are
        await bench.publish(*(message("start", f"{n % 20}-{n}", str(n % 20)) for n in range(200, 400)), topic=topic)
        await bench.until(lambda: len({each.instance_id for each in bench.faults.taken}) == 400, "all of them")  # type: ignore[union-attr]
        for numbers in offsets_by_key(bench.faults.taken).values():
            firsts = list(dict.fromkeys(numbers))
            for part in (range(200), range(200, 400)):
                within = [number for number in firsts if number in part]
                assert within == sorted(within)
