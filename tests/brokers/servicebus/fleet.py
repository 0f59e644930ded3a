"""Bridge processes on one queue, and what they did."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusSender

from bridge.app.composition import build_engine, load_config
from bridge.engines.base import Engine
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

CONFIG = """
engine: {{type: embedded, path: {directory}/engine}}
brokers:
  bus: {{type: servicebus, connection_string: "{connection}", request_timeout: 5s}}
sources:
  orders:
    broker: bus
    queue: orders
    sessions: {sessions}
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
START_SECONDS = 60.0


class Fleet:
    """The engine runs here, the server and the members are processes of their own."""

    def __init__(self, directory: Path, server: ServerProcess, engine: Engine, sender: ServiceBusSender) -> None:
        self.server, self.engine, self._sender = server, engine, sender
        self.config, self.effects_file = directory / "bridge.yaml", directory / "effects"
        self.members: list[asyncio.subprocess.Process] = []
        self.published = 0
        self._sequence: Counter[int] = Counter()

    async def join(self) -> asyncio.subprocess.Process:
        """Another member, once it reads."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.brokers.servicebus.member", str(self.config), str(self.effects_file),
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        self.members.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            assert await process.stdout.readline() == b"started\n"
        return process

    async def end(self, member: asyncio.subprocess.Process, how: signal.Signals = signal.SIGKILL) -> None:
        """Return when it is gone."""
        self.members.remove(member)
        member.send_signal(how)
        code = await member.wait()
        assert how is signal.SIGKILL or code == 0

    async def publish(self, count: int) -> None:
        """Numbered starts, spread over the keys, which are the sessions too."""
        messages = []
        for _ in range(count):
            key = self.published % KEYS
            body = orjson.dumps({"id": f"{key}-{self._sequence[key]}"})
            messages.append(ServiceBusMessage(body, session_id=str(key), content_type="application/json"))
            self._sequence[key] += 1
            self.published += 1
        await self._sender.send_messages(messages)

    async def load(self, until: asyncio.Event, rate: int) -> None:
        """Publish `rate` a second until told to stop."""
        while not until.is_set():
            await self.publish(rate // 10)
            await asyncio.sleep(0.1)

    def counters(self) -> dict[str, Any]:
        return self.server.counters()

    def completed(self) -> int:
        return int(self.counters()["settled"].get("orders complete", 0))

    async def settled(self, seconds: float = 90.0) -> None:
        """Nothing is left in the queue."""
        left: dict[str, int] = {}
        try:
            async with asyncio.timeout(seconds):
                while (left := self.server.contents("orders"))["active"] or left["locked"]:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"left in the queue: {left}") from None

    async def check(self, *, ordered: bool, may_lack: int = 0) -> None:
        """Every start was taken once, none was dead-lettered; by key in order. The order is the engine's own.

        may_lack: effects whose line a kill may have swallowed.
        """
        assert self.counters()["crashes"] == []
        assert self.counters()["dead_letters"] == []
        for key, count in self._sequence.items():
            created = []
            for number in range(count):
                state = await self.engine.client.get_orchestration_state(f"order-{key}-{number}")
                assert state is not None, f"key {key}: number {number} was lost"
                created.append(state.created_at)
            late = [number for number in range(1, count) if created[number] < created[number - 1]]
            assert not (ordered and late), f"key {key}: {late} came before those that precede them"
        effects = self._effects()
        for key, numbers in effects.items():
            assert len(numbers) == len(set(numbers)), f"key {key} started twice: {numbers}"
        assert self.published - may_lack <= sum(map(len, effects.values())) <= self.published

    def _effects(self) -> dict[int, list[int]]:
        """Numbers of the starts that the engine took as new, by key."""
        found: dict[int, list[int]] = defaultdict(list)
        for line in self.effects_file.read_text().splitlines() if self.effects_file.exists() else ():
            key, number, _ = line.split()
            found[int(key)].append(int(number))
        return found


@asynccontextmanager
async def fleet(directory: Path, queue: QueueConfig) -> AsyncIterator[Fleet]:
    """queue: its name is `orders`."""
    with ServerProcess((queue,)) as server:
        sessions = "{concurrent: 12, idle: 300ms, turn: 5s}" if queue.requires_session else "false"
        config = directory / "bridge.yaml"
        config.write_text(CONFIG.format(directory=directory, connection=server.connection_string, sessions=sessions))
        engine = build_engine(load_config([config]), "default", host=True)
        await engine.start()
        async with (
            ServiceBusClient.from_connection_string(server.connection_string) as client,
            client.get_queue_sender("orders") as sender,
        ):
            found = Fleet(directory, server, engine, sender)
            try:
                yield found
            finally:
                for member in found.members:
                    member.send_signal(signal.SIGCONT)
                    member.kill()
                    await member.wait()
                await engine.stop()
