"""SIGKILL of bridge daemons, and joining daemons, on topics with healthy and damaged records of every kind.

No healthy record is lost, started twice or overtaken, and each damaged run is treated as its source says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks._sidecar import sidecar
from tests.brokers.kafka.damaged_topic import POLICIES, DamagedTopic, Policy
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kafka.batches import acceptable, mixed
from tests.kafka.disk import place
from tests.kafka.node import Node
from tests.kafka.produce import produce
from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import eventually

pytestmark = pytest.mark.long

PARTITIONS = 3
by_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


@asynccontextmanager
async def damaged(
    directory: Path, bootstrap: str, rng: random.Random, policy: Policy, batches: int
) -> AsyncIterator[DamagedTopic]:
    """Create a topic with empty partitions."""
    harness = KafkaHarness(bootstrap)
    topic = unique("damaged")
    await harness.create_topic(topic, PARTITIONS)
    logs = [mixed(rng, f"p{number}", batches) for number in range(PARTITIONS)]
    with sidecar() as engine:
        yield DamagedTopic(directory / "daemons", harness, topic, logs, policy, engine)
    await harness.stop()


async def add(topic: DamagedTopic, rng: random.Random, batches: int) -> None:
    """Add records as a producer sends them; some have a damaged header name."""
    for _ in range(batches):
        number = rng.randrange(PARTITIONS)
        log = topic.logs[number]
        log.add(acceptable(rng, f"p{number}.{log.end}", rng.randrange(1, 6)))
        await produce(topic.harness.bootstrap, topic.topic, number, log.batches[-1])


async def done(topic: DamagedTopic) -> bool:
    return await topic.positions() == topic.ends()


async def until_done(topic: DamagedTopic, *daemons: DaemonProcess) -> None:
    """Wait until the group is at its final position and the daemons show their stops."""
    try:

        async def reached() -> object:
            return await done(topic) and topic.stops_are_shown(*daemons)

        await eventually(reached)
    except TimeoutError:
        shown = [daemon.get("/readyz")[1] for daemon in daemons]
        raise AssertionError(f"{await topic.positions()} of {topic.ends()}, {shown}") from None


async def killed(topic: DamagedTopic, rng: random.Random, kills: int) -> None:
    """Run two daemons on the topic; repeatedly kill one of them during work and start another one."""
    interrupted = 0
    with ExitStack() as stack:

        def join() -> DaemonProcess:
            return stack.enter_context(topic.serve())

        first = join()
        second = asyncio.create_task(asyncio.to_thread(join))
        for _ in range(kills):
            before, enough = first.settled(), rng.randrange(1, 40)
            while first.settled() < before + enough and not await done(topic):
                await asyncio.sleep(0.01)
            await add(topic, rng, 4)
            topic.kill(first)
            interrupted += not await done(topic)
            first = await second
            second = asyncio.create_task(asyncio.to_thread(join))
        await add(topic, rng, 4)
        daemons = (first, await second)
        await until_done(topic, *daemons)
    # An early stop leaves no work to interrupt
    assert interrupted or stops(topic)
    await topic.check()


def stops(topic: DamagedTopic) -> bool:
    return any(topic.stop_of(number) is not None for number in range(PARTITIONS))


async def run(topic: DamagedTopic, rng: random.Random, kills: int) -> None:
    await killed(topic, rng, kills)
    if stops(topic):
        topic.resume()
        with topic.serve() as daemon:
            await until_done(topic, daemon)
        await topic.check()


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    server = ThreadedServer()
    yield server
    server.stop()


async def on_server(
    directory: Path, server: ThreadedServer, policy: Policy, seed: int, batches: int, kills: int
) -> None:
    rng = random.Random(f"{policy.name}{seed}")
    async with damaged(directory, server.bootstrap, rng, policy, batches) as topic:
        server.fill(topic.topic, [(log.batches, log.end) for log in topic.logs])
        await run(topic, rng, kills)


@pytest.mark.parametrize("policy", [POLICIES[0], POLICIES[3]], ids=lambda policy: policy.name)
async def test_daemons_killed_on_damaged_partitions(tmp_path: Path, server: ThreadedServer, policy: Policy) -> None:
    await on_server(tmp_path, server, policy, 0, 40, 1)


@pytest.mark.prove
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
@by_policy
async def test_daemons_killed_on_damaged_partitions_at_length(
    tmp_path: Path, server: ThreadedServer, policy: Policy, seed: int
) -> None:
    await on_server(tmp_path, server, policy, 100 + seed, 150, 5)


@pytest.mark.prove
@pytest.mark.timeout(300)
@by_policy
async def test_daemons_killed_on_a_node_with_damage_on_its_disk(tmp_path: Path, node: Node, policy: Policy) -> None:
    rng = random.Random(f"node{policy.name}")
    async with damaged(tmp_path, node.bootstrap, rng, policy, 120) as topic:
        for number, log in enumerate(topic.logs):
            await place([node], topic.topic, number, log)
        await run(topic, rng, 4)
