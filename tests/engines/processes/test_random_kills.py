"""Processes of workers that end at random moments, in every way, under load: nothing is lost, doubled or failed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from durabletask.entities import EntityInstanceId

from bridge.app.serve.worker_processes import MODULE
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import RaiseEvent, ScheduleOrchestration
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import MAX_PAUSE, default_command
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from tests.engines.processes import deaths
from tests.engines.processes.conftest import ROOT
from tests.kit.waiting import TIMEOUT, TIMEOUT_OPTION, eventually
from tests.sqlite_engine import crash_child
from tests.sqlite_engine.crash_child import EVENTS

BETWEEN = 20
"""Instances that are started between two kills."""

WORKERS = 2
MEMORY = 768 * 1024 * 1024
MODULES = ("tests.sqlite_engine.crash_child", "tests.engines.processes.deaths")


START = TIMEOUT + 1.2 * MAX_PAUSE
"""Seconds within which a process runs: one that is killed before its first result pauses before its next start."""


class Workers(Protocol):
    """Processes that run the work."""

    @property
    def ended(self) -> int:
        """Number of processes that have ended."""

    def running(self) -> list[int]:
        """Ids of the processes that take work."""

    def replace(self) -> None:
        """Replace the processes that have ended."""


class Supervised:
    """Processes that the engine's process starts and replaces."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        settings = ProcessSettings("default", MODULES, str(ROOT), memory_limit=MEMORY)
        command = default_command(MODULE)
        self.processes = engine.worker_processes(WORKERS, settings, load(MODULES, ROOT), command)
        self.processes.start()

    @property
    def ended(self) -> int:
        return sum(self.processes.ends.values())

    def running(self) -> list[int]:
        return [view.pid for view in self.processes.views() if view.runs and view.pid is not None]

    def replace(self) -> None:
        """Leave that to the engine's process."""


class Joined:
    """Processes that join the engine by its socket. They are replaced as a service manager does."""

    def __init__(self, engine: EmbeddedEngine, directory: Path) -> None:
        self._engine = engine
        module = "tests.engines.processes.attached_child"
        self._command = [sys.executable, "-m", module, str(directory), ",".join(MODULES), str(MEMORY)]
        self.children: list[subprocess.Popen[bytes]] = []
        self.ended = -WORKERS
        self.replace()

    def running(self) -> list[int]:
        socket = self._engine._worker_socket
        assert socket is not None
        return [child.pid for child in self.children if child.pid in socket.process_ids and child.poll() is None]

    def replace(self) -> None:
        self.children = [child for child in self.children if child.poll() is None]
        while len(self.children) < WORKERS:
            self.ended += 1
            self.children.append(subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.DEVNULL))


@asynccontextmanager
async def running(kind: str, directory: Path) -> AsyncIterator[tuple[EmbeddedEngine, Workers]]:
    config = EmbeddedEngineConfig.model_validate(
        {"type": "embedded", "timeout": TIMEOUT_OPTION, "worker": {"processes": WORKERS}}
    )
    engine = EmbeddedEngine("default", config, directory, host=True)
    await engine.start()
    if kind == "supervised":
        supervised = Supervised(engine)
        try:
            yield engine, supervised
        finally:
            assert await stop_worker(supervised.processes, TIMEOUT)
            await engine.stop()
        assert not supervised.processes.ends["frozen"]
        return
    joined = Joined(engine, directory)
    try:
        yield engine, joined
    finally:
        for child in joined.children:
            child.kill()
            child.wait()
        await engine.stop()


def frozen_and_killed(pid: int, chance: random.Random) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(chance.random() * 0.2)  # the moment of the kill
    os.kill(pid, signal.SIGKILL)


def killed(pid: int, chance: random.Random) -> None:
    os.kill(pid, signal.SIGKILL)


KILLS: tuple[Callable[[int, random.Random], None], ...] = (killed, frozen_and_killed)


class Load:
    """Random instances, and their correct results."""

    def __init__(self, executor: CommandRunner, directory: Path, chance: random.Random) -> None:
        self._executor = executor
        self._directory = directory
        self._chance = chance
        self.results: dict[str, Any] = {}
        self.counted = 0
        """Instances that count with the shared entities."""

    async def start(self, number: int) -> None:
        """Start an instance that works, with three events if it needs some."""
        kind, value = self._chance.choice(crash_child.KINDS), number * 10
        instance_id = f"{kind}-{value}"
        await self._executor.execute(ScheduleOrchestration(kind, instance_id, value))
        self.results[instance_id] = crash_child.expected(kind, value)
        self.counted += kind == "counting"
        for event in range(EVENTS if kind == "events" else 0):
            await self._executor.execute(RaiseEvent(instance_id, "number", event))

    async def start_deadly(self, number: int) -> None:
        """Start an instance that ends its process, or one of its own steps."""
        kind = self._chance.choice(list(deaths.KINDS))
        how = self._chance.choice(deaths.KINDS[kind])
        instance_id = f"{kind}-{number}"
        marker = str(self._directory / f"{instance_id}-{how}")
        await self._executor.execute(ScheduleOrchestration(kind, instance_id, [how, marker, number]))
        self.results[instance_id] = deaths.expected(kind, number)


def state_of(engine: EmbeddedEngine, left: set[str]) -> str:
    """State of the engine for a failed test."""
    assert engine._database is not None
    hub = engine._database.hub
    dispatcher = hub.dispatcher
    leases = [(each.kind, each.name, each.instance_id, each.is_alone) for each in dispatcher.leases.open()]
    queues = [len(queue) for queue in (*dispatcher.ready, dispatcher.starts)]
    turns = [len(stream.turns) for stream in dispatcher.streams]
    locked = hub.entities.find("@counter@locked")
    return (
        f"{sorted(left)[:5]}, leases {leases[:10]}, queues {queues}, turns of streams {turns}, "
        f"suspects {dispatcher._suspects}, waiting {list(dispatcher._waiting)}, alone {dispatcher._alone}, "
        f"quiet {dispatcher._quiet}, paused {len(dispatcher._paused)}, "
        f"lock {None if locked is None else (locked.owner, len(locked.queue), locked.token)}"
    )


async def check(kind: str, directory: Path, kills: int) -> None:
    chance = random.Random(20261129)
    async with running(kind, directory / "engine") as (engine, workers):
        load_ = Load(CommandRunner(engine), directory, chance)
        ended: set[str] = set()
        engine.watch_finishes(lambda finishes: ended.update(each.instance_id for each in finishes))
        kill = 0

        def found() -> list[int]:
            workers.replace()
            return workers.running()

        while kill < kills:
            await eventually(found, "a process runs", within=START)
            for number in range(BETWEEN):
                await load_.start(kill * BETWEEN + number)
            if kill % 2:
                await load_.start_deadly(kill)
            await asyncio.sleep(chance.random() * 0.3)  # the moment of the kill
            pids = await eventually(found, "a process runs", within=START)
            kill += 1
            with suppress(ProcessLookupError):
                chance.choice(KILLS)(chance.choice(pids), chance)
        while left := load_.results.keys() - ended:
            ends = workers.ended

            def goes_on(left: set[str] = left, ends: int = ends) -> bool:
                """An instance or a process has ended: the last instances end theirs."""
                found()
                return bool(left & ended) or workers.ended > ends

            await eventually(
                goes_on,
                lambda left=left: f"{len(left)} instances are left: {state_of(engine, left)}",  # type: ignore[misc]
                within=START,
            )
        for instance_id, result in load_.results.items():
            state = await engine.client.get_orchestration_state(instance_id)
            assert state is not None
            assert state.runtime_status.name == "COMPLETED", (instance_id, state.failure_details)
            assert state.get_output() == result, instance_id
        for key in ("shared", "locked"):
            entity = EntityInstanceId("counter", key)

            async def is_complete(entity: EntityInstanceId = entity) -> bool:
                found = await engine.client.get_entity(entity)
                return found is not None and found.get_typed_state(int) == load_.counted

            await eventually(is_complete, f"{key} counted {load_.counted}")


@pytest.mark.parametrize("kind", ["supervised", "joined"])
@pytest.mark.timeout(600)
async def test_everything_is_finished_with_correct_results(tmp_path: Path, kind: str) -> None:
    await check(kind, tmp_path, 8)


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["supervised", "joined"])
@pytest.mark.timeout(1800)
async def test_everything_is_finished_with_correct_results_after_a_hundred_kills(tmp_path: Path, kind: str) -> None:
    await check(kind, tmp_path, 100)
