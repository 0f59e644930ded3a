"""Bridge processes that share one source, and their effects on the engine, which runs in the test process."""

from __future__ import annotations

import asyncio
import signal
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from pathlib import Path

import orjson

from bridge.engines.base import Engine
from tests.kit.processes import ModuleProcess

KEYS = 40


class Members(ABC):
    """Member processes.

    module: module of a member; its arguments are the paths of the configuration and of the effects file.
    """

    engine: Engine

    def __init__(self, directory: Path, module: str) -> None:
        self.config, self.effects_file = directory / "bridge.yaml", directory / "effects"
        self.members: list[ModuleProcess] = []
        self.published = 0
        self._module = module
        self._sequence: Counter[int] = Counter()

    async def join(self) -> ModuleProcess:
        """Start another member and return when it reads."""
        process = ModuleProcess(self._module, self.config, self.effects_file)
        self.members.append(process)
        assert await process.line() == "started"
        return process

    async def end(self, member: ModuleProcess, how: signal.Signals = signal.SIGKILL) -> None:
        """End a member with a signal and wait for its exit."""
        self.members.remove(member)
        member.signal(how)
        code = await member.ended()
        member.end()
        assert how is signal.SIGKILL or code == 0

    async def end_all(self) -> None:
        """Kill all members, including stopped ones."""
        for member in self.members:
            member.end()

    @abstractmethod
    async def publish(self, count: int) -> None:
        """Publish numbered starts, spread over the keys."""

    def starts(self, count: int) -> list[tuple[int, bytes]]:
        """Return keys and bodies of the next starts."""
        found = []
        for _ in range(count):
            key = self.published % KEYS
            found.append((key, orjson.dumps({"id": f"{key}-{self._sequence[key]}"})))
            self._sequence[key] += 1
            self.published += 1
        return found

    async def load(self, until: asyncio.Event, rate: int) -> None:
        """Publish `rate` messages a second until the event is set."""
        while not until.is_set():
            await self.publish(rate // 10)
            await asyncio.sleep(0.1)

    def effects(self) -> dict[int, list[int]]:
        """Return the numbers of the starts that the engine took as new, by key."""
        found: dict[int, list[int]] = defaultdict(list)
        for line in self.effects_file.read_text().splitlines() if self.effects_file.exists() else ():
            key, number, _ = line.split()
            found[int(key)].append(int(number))
        return found

    async def check(self, *, ordered: bool = True, may_lack: int = 0) -> None:
        """Assert that every start was taken once, and in order by key.

        The order comes from the engine's creation times, because a stopped member may report late. may_lack: number of
        effects whose line a kill may have prevented.
        """
        for key, count in self._sequence.items():
            created = []
            for number in range(count):
                state = await self.engine.client.get_orchestration_state(f"order-{key}-{number}")
                assert state is not None, f"key {key}: number {number} was lost"
                created.append(state.created_at)
            late = [number for number in range(1, count) if created[number] < created[number - 1]]
            assert not (ordered and late), f"key {key}: {late} came before those that precede them"
        effects = self.effects()
        for key, numbers in effects.items():
            assert len(numbers) == len(set(numbers)), f"key {key} started twice: {numbers}"
        assert self.published - may_lack <= sum(map(len, effects.values())) <= self.published
