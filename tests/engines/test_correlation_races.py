"""Many killed and restarted processes on one engine with the same messages; and a crash at every call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import Command, OnExisting, OnFinished, RaiseEvent, ScheduleOrchestration, StartOrRaise
from bridge.core.errors import AlreadyTaken
from bridge.core.origin import MessageOrigin
from bridge.engines.client import EngineClient
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.engines.contract import harness
from tests.engines.correlation import FIRST, SECOND, THIRD, fresh
from tests.engines.correlation_child import INSTANCES, MESSAGES, commands, instance
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT

PROCESSES = 3
KILLS = 6


@pytest_asyncio.fixture(name="hosted")
async def _hosted(tmp_path: Path) -> Any:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    await engine.start()
    async with harness(engine) as running:
        yield running, tmp_path / "engine"
    await engine.stop()


async def member(directory: Path, seed: int, done: set[int], until: asyncio.Event) -> None:
    """Run a process that delivers all messages; kill it when `until` is set. The caller restarts it."""
    process = ModuleProcess("tests.engines.correlation_child", directory, seed)

    async def read() -> None:
        while line := await process.line():
            done.add(int(line))

    reading = asyncio.create_task(read())
    waiting = asyncio.create_task(until.wait())
    await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
    if waiting.done() and not reading.done():
        process.signal(signal.SIGKILL)
    await reading
    waiting.cancel()
    assert await process.ended() in (0, -9)
    process.end()


async def test_processes_that_are_killed_lose_and_double_nothing(hosted: Any) -> None:
    running, directory = hosted
    chance = random.Random(5)
    total = len(commands())
    done: list[set[int]] = [set() for _ in range(PROCESSES)]
    stops = [asyncio.Event() for _ in range(PROCESSES)]
    finished = [False] * PROCESSES

    async def keep(number: int) -> None:
        seed = number
        while not finished[number]:
            stops[number].clear()
            before = stops[number]
            await member(directory, seed, done[number], before)
            finished[number] = not before.is_set()
            seed += 100

    stores = [asyncio.create_task(keep(number)) for number in range(PROCESSES)]
    for _ in range(KILLS):
        seen = [len(each) for each in done]
        wanted = chance.randint(1, 12)
        async with asyncio.timeout(TIMEOUT):
            while not all(finished) and sum(map(len, done)) < min(sum(seen) + wanted, PROCESSES * total):
                await asyncio.sleep(0.005)
        stops[chance.randrange(PROCESSES)].set()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*stores)
    for number in range(INSTANCES):
        first, *rest = await running.output(instance(number))
        assert sorted([first[1], *rest]) == list(range(MESSAGES))
    expected = sorted(f"{number}/{message}" for number in range(INSTANCES) for message in range(3))
    assert sorted(await running.noted(len(expected))) == expected


class Crash(BaseException):
    """Raised where the process would end."""


class Crashing:
    """Client that crashes at the call with this number: before the call, or after its effect and before its answer."""

    def __init__(self, client: Any, at: int, after: bool) -> None:
        self._client = client
        self._left = at
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*args: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._after:
                raise Crash
            result = await method(*args, **named)
            if self._left < 0:
                raise Crash
            return result

        return call


async def crash_then_redeliver(running: Any, command: Command, origin: MessageOrigin, at: int, after: bool) -> bool:
    """Crash a command at this call and redeliver it until it succeeds. Returns whether the crash happened."""
    client = Crashing(running.engine.client, at, after)
    executor = CommandRunner(SimpleNamespace(client=EngineClient(client), confirms_event_delivery=True))  # type: ignore[arg-type]
    crashed = False
    try:
        await executor.execute(command, origin)
    except Crash:
        crashed = True
    except AlreadyTaken:
        pass
    with contextlib.suppress(AlreadyTaken):
        await running.executor.execute(command, origin)
    return crashed


@pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
async def test_a_crash_at_any_call_loses_and_doubles_nothing(hosted: Any, after: bool) -> None:
    running, _ = hosted
    for at in itertools.count():
        crashed = []
        # No instance: the message starts it
        new = StartOrRaise("collect", fresh(), "item", [1, "new"])
        crashed.append(await crash_then_redeliver(running, new, FIRST, at, after))
        # Running instance: the message is raised
        received = StartOrRaise("collect", new.instance_id, "item", data="noted")
        crashed.append(await crash_then_redeliver(running, received, SECOND, at, after))
        assert await running.output(new.instance_id) == [[1, "new"], "noted"]
        # Finished instance: an event restarts it
        late = RaiseEvent(new.instance_id, "item", "late", on_finished=OnFinished.RESTART)
        crashed.append(await crash_then_redeliver(running, late, THIRD, at, after))
        assert await running.output(new.instance_id) == [[1, "new"], "late"]
        # Finished instance: a start replaces it, once
        name = f"{at}-{after}"
        for number, origin in enumerate((FIRST, SECOND)):
            again = ScheduleOrchestration("noted", f"noted-{name}", f"{name}/{number}", on_existing=OnExisting.RESTART)
            crashed.append(await crash_then_redeliver(running, again, origin, at, after))
            await running.finished(again.instance_id)
        # An event is raised in place of a start
        other = ScheduleOrchestration("collect", fresh(), [1], on_existing=OnExisting.RAISE, event="item")
        crashed.append(await crash_then_redeliver(running, other, FIRST, at, after))
        crashed.append(await crash_then_redeliver(running, other, SECOND, at, after))
        assert await running.output(other.instance_id) == [[1], [1]]
        if not any(crashed):
            break
    assert at >= 4
    noted = await running.noted(2 * (at + 1))
    assert sorted(noted) == sorted(f"{number}-{after}/{which}" for number in range(at + 1) for which in (0, 1))
