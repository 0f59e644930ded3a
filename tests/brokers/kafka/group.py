"""Bridge processes in one consumer group, and what they did."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
from aiokafka import TopicPartition

from bridge.app.composition import build_engine, load_config
from bridge.brokers.kafka import KafkaBroker
from bridge.engines.base import Engine
from bridge.message import Message
from tests.brokers.kafka.harness import KafkaHarness, unique

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  kafka:
    type: kafka
    bootstrap_servers: "{bootstrap}"
    create_topics: true
    commit_interval: 200ms
    session_timeout: 3s
    rebalance_timeout: 8s
    request_timeout: 5s
    metadata_max_age: 2s
sources:
  orders:
    broker: kafka
    topics: [{topic}]
    group: {topic}
    codec: json
    no_match: dead_letter
    attributes: {{type: "'start'", id: payload.id}}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""
KEYS = 40


class Group:
    """Members of one group on one topic with 6 partitions; the engine runs here."""

    def __init__(self, directory: Path, harness: KafkaHarness, broker: KafkaBroker) -> None:
        self.engine: Engine
        self.topic = unique("group")
        self.effects_file = directory / "effects"
        self.config = directory / "bridge.yaml"
        self.config.write_text(CONFIG.format(directory=directory, bootstrap=harness.bootstrap, topic=self.topic))
        self.broker = broker
        self.members: list[asyncio.subprocess.Process] = []
        self.published = 0
        self._sequence: dict[int, int] = defaultdict(int)

    async def join(self) -> asyncio.subprocess.Process:
        """Another member, once it has its share."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.brokers.kafka.member", str(self.config), str(self.effects_file),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        self.members.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"started\n"
        return process

    async def kill(self, member: asyncio.subprocess.Process, how: signal.Signals = signal.SIGKILL) -> None:
        """End a member; return when it is gone."""
        self.members.remove(member)
        member.send_signal(how)
        code = await member.wait()
        assert how is signal.SIGKILL or code == 0

    async def publish(self, count: int) -> None:
        """Numbered starts, spread over the keys."""
        messages = []
        for _ in range(count):
            key = self.published % KEYS
            body = orjson.dumps({"id": f"{key}-{self._sequence[key]}"})
            messages.append(Message(body, b"%d" % key))
            self._sequence[key] += 1
            self.published += 1
        await self.broker.publish(self.topic, messages)

    async def load(self, until: asyncio.Event, rate: int) -> None:
        """Publish `rate` a second until told to stop."""
        while not until.is_set():
            await self.publish(rate // 10)
            await asyncio.sleep(0.1)

    def effects(self) -> dict[int, list[int]]:
        """Numbers of the starts that the engine took as new, by key."""
        found: dict[int, list[int]] = defaultdict(list)
        text = self.effects_file.read_text() if self.effects_file.exists() else ""
        for line in text.splitlines():
            key, number, _ = line.split()
            found[int(key)].append(int(number))
        return found

    async def committed(self) -> int:
        """Records that the group has settled, over all partitions."""
        found = await self.broker._cluster.committed(self.topic, [TopicPartition(self.topic, n) for n in range(6)])
        return sum(position.offset for position in found.values())

    async def settled(self, seconds: float = 60.0) -> None:
        """Everything published is committed."""
        last = 0
        try:
            async with asyncio.timeout(seconds):
                while (last := await self.committed()) < self.published:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{last} of {self.published} were settled") from None

    async def check(self, may_lack: int = 0) -> None:
        """Every start was taken once, by key in order. The order is the engine's own: a member that is stopped may tell
        late what it did in time. `may_lack`: effects whose line a kill may have swallowed.
        """
        for key, count in self._sequence.items():
            created = []
            for number in range(count):
                state = await self.engine.client.get_orchestration_state(f"order-{key}-{number}")
                assert state is not None, f"key {key}: number {number} was lost"
                created.append(state.created_at)
            late = [number for number in range(1, count) if created[number] < created[number - 1]]
            assert not late, f"key {key}: {late} came before those that precede them"
        effects = self.effects()
        for key, numbers in effects.items():
            assert len(numbers) == len(set(numbers)), f"key {key} started twice: {numbers}"
        assert self.published - may_lack <= sum(map(len, effects.values())) <= self.published


@asynccontextmanager
async def group(directory: Path, harness: KafkaHarness) -> AsyncIterator[Group]:
    broker = await harness.broker()
    found = Group(directory, harness, broker)
    await harness.create_topic(found.topic, 6)
    engine = build_engine(load_config([found.config]), "default", host=True)
    await engine.start()
    found.engine = engine
    try:
        yield found
    finally:
        for member in found.members:
            member.kill()
            await member.wait()
        await engine.stop()
