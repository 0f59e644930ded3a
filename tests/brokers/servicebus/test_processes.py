"""Bridge processes that compete for one queue with sessions, killed and rolled under load."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from bridge.app.composition import build_broker, build_engine, load_config
from bridge.core.message import Message
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import eventually
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

pytestmark = pytest.mark.long

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers: {{bus: {{type: servicebus, connection_string: "{connection_string}", request_timeout: 5s}}}}
sources:
  orders:
    broker: bus
    queue: orders
    sessions: {{concurrent: 6, idle: 300ms, turn: 2s}}
    codec: json
    no_match: dead_letter
    attributes: {{type: "'start'", id: payload.id}}
routes:
  - name: start
    from: orders
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
workflows: {{external: [order]}}
"""
KEYS = 15


class Members:
    """Member processes on one queue; server, engine and publisher run in the test process."""

    def __init__(self, directory: Path, server: ServerProcess) -> None:
        self.server = server
        self.effects_file = directory / "effects"
        self.config = directory / "bridge.yaml"
        self.config.write_text(CONFIG.format(directory=directory, connection_string=server.connection_string))
        loaded = load_config([self.config])
        self.engine = build_engine(loaded, "default", host=True)
        self.broker = build_broker(loaded, "bus")
        self.running: list[ModuleProcess] = []
        self.sequence: dict[int, int] = defaultdict(int)
        self.published = 0

    async def join(self) -> None:
        process = ModuleProcess("tests.brokers.servicebus.member", self.config, self.effects_file)
        self.running.append(process)
        assert await process.line() == "started"

    async def end(self, how: signal.Signals) -> None:
        member = self.running.pop(random.randrange(len(self.running)))
        member.signal(how)
        code = await member.ended()
        member.end()
        assert how is signal.SIGKILL or code == 0

    async def load(self, until: asyncio.Event) -> None:
        while not until.is_set():
            messages = []
            for _ in range(30):
                key = self.published % KEYS
                messages.append(Message(orjson.dumps({"id": f"{key}-{self.sequence[key]}"}), b"%d" % key))
                self.sequence[key] += 1
                self.published += 1
            await self.broker.publish("orders", messages)
            await asyncio.sleep(0.1)

    async def check(self) -> None:
        """Assert that all messages are settled, none is dead-lettered, and every start was taken once, in order by
        key."""
        await eventually(lambda: not sum(self.server.contents("orders").values()))
        assert self.server.counters()["dead_letters"] == []
        for key, count in self.sequence.items():
            created = []
            for number in range(count):
                state = await self.engine.client.get_orchestration_state(f"order-{key}-{number}")
                assert state is not None, f"key {key}: number {number} was lost"
                created.append(state.created_at)
            assert created == sorted(created), f"key {key} is out of order"
        lines = self.effects_file.read_text().splitlines()
        starts = [tuple(line.split()[:2]) for line in lines]
        assert len(starts) == len(set(starts))


@asynccontextmanager
async def members(directory: Path) -> AsyncIterator[Members]:
    queue = QueueConfig("orders", lock_duration=5, max_delivery_count=20, requires_session=True)
    with ServerProcess((queue,)) as server:
        found = Members(directory, server)
        await found.engine.start()
        await found.broker.start()
        try:
            yield found
        finally:
            for process in found.running:
                process.end()
            await found.broker.stop()
            await found.engine.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_members_ended_under_load(tmp_path: Path, how: signal.Signals) -> None:
    async with members(tmp_path) as found:
        await asyncio.gather(found.join(), found.join())
        stop = asyncio.Event()
        load = asyncio.create_task(found.load(stop))
        for _ in range(2):
            await asyncio.sleep(random.uniform(1.0, 2.0))
            await found.end(how)
            await found.join()
        stop.set()
        await load
        await found.check()
