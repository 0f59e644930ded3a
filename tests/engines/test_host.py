"""Life cycle of the embedded engine: hosting, permissions, and remains after a stop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import create_engine
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.commands import ScheduleOrchestration
from bridge.core.errors import EngineMisconfigured, EngineTimeout, EngineUnavailable
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.address import FILE, SOCKET
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.sqlite_engine.options import RetentionPolicy
from tests.engines.contract import workflows
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT, eventually

CONFIG = EmbeddedEngineConfig(type="embedded", timeout="5s")


def host_elsewhere(directory: Path) -> ModuleProcess:
    process = ModuleProcess("tests.engines.host_child", directory)
    assert process.read() == "ready"
    return process


async def test_one_host_per_directory(tmp_path: Path) -> None:
    first = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await first.start()
    second = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    with pytest.raises(EngineUnavailable, match=rf"{FILE}: process {os.getpid()} has this engine file open"):
        await second.start()
    await second.stop()
    await first.probe()
    await first.stop()
    await second.start()
    await second.stop()


async def test_a_killed_host_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    process = host_elsewhere(tmp_path)
    try:
        with pytest.raises(EngineUnavailable, match=f"process {process.pid} has this engine file open"):
            await EmbeddedEngine("default", CONFIG, tmp_path, host=True).start()
    finally:
        process.end()
    assert (tmp_path / SOCKET).exists()
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await engine.start()
    attached = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await attached.start()
    await attached.probe()
    await attached.stop()
    await engine.stop()
    assert not (tmp_path / SOCKET).exists()
    assert (tmp_path / f"{FILE}.lock").read_text() == str(os.getpid())


async def test_without_a_daemon_it_says_what_to_do_and_recovers(tmp_path: Path) -> None:
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await engine.start()
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match="start `bridge serve`"):
        await engine.probe()
    with pytest.raises(EngineUnavailable, match="start 'a'"):
        await CommandRunner(engine).execute(ScheduleOrchestration("echo", "a"))
    assert time.monotonic() - began < 2 * CONFIG.timeout
    process = host_elsewhere(tmp_path)
    try:
        await until_it_answers(engine)
        await CommandRunner(engine).execute(ScheduleOrchestration("echo", "a"))
    finally:
        process.end()
    with pytest.raises(EngineUnavailable):
        await engine.probe()
    await engine.stop()


async def until_it_answers(engine: Engine) -> None:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await engine.probe()
            except EngineUnavailable:
                await asyncio.sleep(0.05)


async def test_the_directory_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "engine"
    directory.mkdir(mode=0o755)
    engine = EmbeddedEngine("default", CONFIG, directory, host=True)
    await engine.start()
    assert directory.stat().st_mode & 0o777 == 0o700
    await engine.stop()


async def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineMisconfigured, match="cannot set mode 0700"):
        await EmbeddedEngine("default", CONFIG, tmp_path / "file", host=True).start()


async def test_stop_ends_waits_of_other_processes_and_is_idempotent(tmp_path: Path) -> None:
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await host.start()
    attached = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await attached.start()
    await attached.client.schedule_new_orchestration("nobody", instance_id="a")
    waits = [
        asyncio.ensure_future(engine.client.wait_for_orchestration_completion("a", timeout=600))
        for engine in (host, attached)
    ]
    assert host._database is not None
    waiters = host._database.hub.waiters
    await eventually(lambda: len(waiters) == 2)
    async with asyncio.timeout(TIMEOUT):
        await host.stop()
        results = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    await host.stop()
    await attached.stop()
    await until_threads_are_gone()


@pytest.fixture(autouse=True)
def before() -> None:
    """Record the engine threads that other tests of the same process left running."""
    OTHERS.clear()
    OTHERS.update(engine_threads())


OTHERS: set[str] = set()


async def until_threads_are_gone() -> None:
    try:
        await eventually(lambda: not set(engine_threads()) - OTHERS)
    except TimeoutError:
        raise AssertionError(f"threads are left: {set(engine_threads()) - OTHERS}") from None


def engine_threads() -> list[str]:
    ours = (
        "bridge-", "engine-", "turns-", "activities-", "entities-", "DurableTask", "(run_loop)", "(stream_reader)",
    )  # fmt: skip
    return [thread.name for thread in threading.enumerate() if any(part in thread.name for part in ours)]


@pytest.mark.parametrize(("host", "dispatch"), [(True, "direct"), (True, "protocol"), (False, "direct")])
async def test_workers_leave_no_threads(tmp_path: Path, host: Any, dispatch: Any) -> None:
    owner = EmbeddedEngine("default", CONFIG.model_copy(update={"dispatch": dispatch}), tmp_path, host=True)
    await owner.start()
    engine = owner if host else EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await engine.start()
    client = engine.client
    for number in range(3):
        worker = engine.worker(workflows())
        worker.start()
        await client.schedule_new_orchestration("chain", input=1, instance_id=f"a{number}")
        state = await client.wait_for_orchestration_completion(f"a{number}", timeout=TIMEOUT)
        assert state is not None
        assert state.get_output() == 3
        assert await stop_worker(worker, TIMEOUT)
    await engine.stop()
    await owner.stop()
    await until_threads_are_gone()


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_a_worker_that_cannot_stop_is_reported(tmp_path: Path, dispatch: Any) -> None:
    """An activity that blocks keeps the SDK's stop waiting."""
    engine = EmbeddedEngine("default", CONFIG.model_copy(update={"dispatch": dispatch}), tmp_path, host=True)
    await engine.start()
    entered, leave = threading.Event(), threading.Event()

    def block(ctx: Any, _: Any) -> None:
        entered.set()
        leave.wait(TIMEOUT)

    def blocked(ctx: Any, _: Any) -> Any:
        yield ctx.call_activity(block)

    worker = engine.worker(type(workflows())(orchestrators={"blocked": blocked}, activities={"block": block}))
    worker.start()
    await engine.client.schedule_new_orchestration("blocked", instance_id="a")
    assert await asyncio.to_thread(entered.wait, TIMEOUT)
    assert not await stop_worker(worker, 0.2)
    leave.set()
    assert await stop_worker(worker, TIMEOUT)
    await engine.stop()


async def test_what_was_taken_survives_a_stop(tmp_path: Path) -> None:
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await engine.start()
    await engine.client.schedule_new_orchestration("twice", instance_id="a")
    await engine.client.raise_orchestration_event("a", "item", data=1)
    await engine.stop()
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await engine.start()
    worker = engine.worker(workflows())
    worker.start()
    await engine.client.raise_orchestration_event("a", "item", data=2)
    state = await engine.client.wait_for_orchestration_completion("a", timeout=TIMEOUT)
    assert state is not None
    assert state.get_output() == [1, 2]
    assert await stop_worker(worker, TIMEOUT)
    await engine.stop()


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """The acknowledged calls arrive through the socket, as from another process."""
    process = host_elsewhere(tmp_path)
    attached = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    try:
        await attached.start()
        await attached.client.schedule_new_orchestration("approval", instance_id="a")
        await attached.client.raise_orchestration_event("a", "approve", data="kept")
    finally:
        process.end()
        await attached.stop()
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await engine.start()
    worker = engine.worker(workflows())
    worker.start()
    state = await engine.client.wait_for_orchestration_completion("a", timeout=TIMEOUT)
    assert state is not None
    assert state.get_output() == "kept"
    assert await stop_worker(worker, TIMEOUT)
    await engine.stop()


async def test_an_attached_worker_outlives_its_host(tmp_path: Path) -> None:
    """The host is killed and restarted; the worker and the client of another process continue by themselves."""
    process = host_elsewhere(tmp_path)
    attached = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await attached.start()
    worker = attached.worker(workflows())
    worker.start()
    try:
        await attached.client.schedule_new_orchestration("approval", instance_id="a")
        await attached.client.wait_for_orchestration_start("a", timeout=TIMEOUT)
        process.end()
        process = host_elsewhere(tmp_path)
        await until_it_answers(attached)
        await attached.client.raise_orchestration_event("a", "approve", data="again")
        state = await attached.client.wait_for_orchestration_completion("a", timeout=TIMEOUT)
        assert state is not None
        assert state.get_output() == "again"
        assert await stop_worker(worker, TIMEOUT)
        await attached.stop()
    finally:
        process.end()


async def test_finished_instances_go_after_their_retention(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"retention": 0.3, "retention_count": 5})
    engine = EmbeddedEngine("default", config, tmp_path, host=True)
    await engine.start()
    assert engine._database is not None
    assert engine._database.options.retention == RetentionPolicy(age=0.3, count=5, period=1.0)
    worker = engine.worker(workflows())
    worker.start()
    client = engine.client
    await client.schedule_new_orchestration("echo", instance_id="a")
    await client.schedule_new_orchestration("approval", instance_id="b")

    async def reached() -> object:
        return await client.get_orchestration_state("a") is None

    await eventually(reached)
    assert await client.get_orchestration_state("b") is not None
    assert await stop_worker(worker, TIMEOUT)
    await engine.stop()


async def test_timers_and_waits_need_no_threads(tmp_path: Path) -> None:
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await host.start()
    attached = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await attached.start()
    worker = host.worker(workflows())
    worker.start()
    before = threading.active_count()
    for number in range(100):
        await host.client.schedule_new_orchestration("patient", input=3600, instance_id=f"a{number}")
        await host.client.wait_for_orchestration_start(f"a{number}", timeout=TIMEOUT)
    waits = [
        asyncio.ensure_future(engine.client.wait_for_orchestration_completion(f"a{number}", timeout=600))
        for number in range(100)
        for engine in (host, attached)
    ]
    assert host._database is not None
    waiters = host._database.hub.waiters
    await eventually(lambda: len(waiters) == 200)
    # Threads of earlier tests may end meanwhile
    assert threading.active_count() <= before
    assert await attached.client.get_orchestration_state("a0") is not None
    assert await stop_worker(worker, TIMEOUT)
    await host.stop()
    assert all(isinstance(result, Exception) for result in await asyncio.gather(*waits, return_exceptions=True))
    await attached.stop()


async def test_a_wait_without_time_left_ends_at_once(tmp_path: Path) -> None:
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await engine.start()
    await engine.client.schedule_new_orchestration("nobody", instance_id="a")
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(EngineTimeout):
            await engine.client.wait_for_orchestration_completion("a", timeout=0.05)
    assert engine._database is not None
    waiters = engine._database.hub.waiters
    await eventually(lambda: len(waiters) == 0)
    await engine.stop()


async def test_descriptions_and_factory(tmp_path: Path) -> None:
    embedded = create_engine("default", CONFIG, tmp_path, host=True)
    assert isinstance(embedded, EmbeddedEngine)
    assert embedded.durable
    assert embedded.description == f"durable, in {tmp_path / CONFIG.path / FILE}"
    attached = create_engine("default", CONFIG, tmp_path, host=False)
    assert attached.description == f"durable, attached through {tmp_path / CONFIG.path / SOCKET}"
    scheduler = create_engine("eu", SchedulerEngineConfig(type="scheduler"), tmp_path, host=True)
    assert isinstance(scheduler, SchedulerEngine)
    with pytest.raises(RuntimeError, match="not started"):
        _ = embedded.client


def test_a_socket_is_not_reachable_by_others(tmp_path: Path) -> None:
    """The mode of the directory protects the socket; there is no other check."""

    async def main() -> None:
        engine = EmbeddedEngine("default", CONFIG, tmp_path / "engine", host=True)
        await engine.start()
        assert (tmp_path / "engine").stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "engine" / SOCKET))
        await engine.stop()

    asyncio.run(main())
