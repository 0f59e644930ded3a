"""Processes that end in every way: others take over at once, losses are counted by item, nothing else suffers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from durabletask.client import OrchestrationStatus

from bridge.app.worker_process import user_workflows
from bridge.core.commands import SignalEntity
from bridge.core.states import ProcessState
from bridge.engines.embedded.processes import settings, supervisor
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.workflow import DataConverter
from tests.engines.processes import deaths
from tests.engines.processes.conftest import MODULES, ROOT, Start
from tests.kit.waiting import TIMEOUT, eventually

DEADLY = ["os._exit", "segfault", "kill"]


@pytest.mark.parametrize("how", DEADLY)
async def test_an_activity_that_ends_its_process_alone_fails(start: Start, how: str) -> None:
    async with start(max_lost_workers=1) as harness:
        culprit = await harness.start("activity_ends", how)
        others = [await harness.start("chain", number) for number in range(20)]
        for number, each in enumerate(others):
            assert await harness.output(each) == number + 4
        state = await harness.finished(culprit)
        assert state.runtime_status is OrchestrationStatus.FAILED
        assert state.failure_details is not None
        assert "is given up: the worker's process ended" in state.failure_details.message
        await harness.all_run()
        assert await harness.output(await harness.start("chain", 1)) == 5
        assert sum(harness.processes.ends.values()) == 3, "two together with others, one alone"


@pytest.mark.parametrize("where", ["step", "task", "thread"])
async def test_an_async_activity_that_ends_its_process_fails_and_not_those_that_wait(
    start: Start, tmp_path: Path, where: str
) -> None:
    async with start(1, max_lost_workers=1) as harness:
        gate = tmp_path / "gate"
        waiting = [await harness.start("calls", ["async_waits", str(gate)]) for _ in range(5)]
        began = Path(f"{gate}.began")
        await eventually(lambda: began.exists() and began.read_text().count("\n") == 5, "the activities wait")
        culprit = await harness.start("calls", ["async_ends", where])
        await eventually(lambda: harness.processes.ends["SIGKILL"] == 2, lambda: str(harness.processes.ends))
        losses = harness.processes.database.hub.losses
        assert losses is not None
        assert len(losses._counts) == 1
        gate.touch()
        for each in waiting:
            assert await harness.output(each) == "done"
        state = await harness.finished(culprit)
        assert state.failure_details is not None
        assert "is given up: the worker's process ended" in state.failure_details.message
        await eventually(lambda: harness.processes.ends["SIGKILL"] == 3, "two ends together with others, one alone")


@pytest.mark.parametrize("how", DEADLY)
async def test_an_orchestrator_that_ends_its_process_is_suspended(start: Start, how: str) -> None:
    async with start(max_lost_workers=1) as harness:
        culprit = await harness.start("orchestrator_ends", how)
        others = [await harness.start("chain", number) for number in range(20)]
        for number, each in enumerate(others):
            assert await harness.output(each) == number + 4
        await harness.until(culprit, OrchestrationStatus.SUSPENDED)


@pytest.mark.parametrize("how", DEADLY)
async def test_an_entity_that_ends_its_process_is_held(start: Start, how: str) -> None:
    async with start(max_lost_workers=1) as harness:
        ends = harness.processes.ends
        await harness.executor.execute(SignalEntity("fragile", "one", "end", how))
        await eventually(lambda: sum(ends.values()) == 3, lambda: str(ends))
        await harness.all_run()
        assert await harness.output(await harness.start("chain", 1)) == 5
        assert sum(ends.values()) == 3


@pytest.mark.parametrize("where", ["activity_ends", "async_fails", "orchestrator_ends", "entity_ends"])
async def test_sys_exit_and_too_much_memory_fail_only_their_work(start: Start, where: str) -> None:
    async with start(worker={"memory_limit": "512MiB"}) as harness:
        pids = harness.pids()
        for how in ("sys.exit", "memory"):
            given = ("calls", [where, how]) if where == "async_fails" else (where, how)
            state = await harness.finished(await harness.start(*given))
            assert state.runtime_status is OrchestrationStatus.FAILED
            assert state.failure_details is not None
        assert await harness.output(await harness.start("chain", 1)) == 5
        assert harness.pids() == pids, "no process ended"


async def test_only_the_work_that_ran_is_counted(start: Start, tmp_path: Path) -> None:
    """Hundreds of items wait in the process beside the one that runs."""
    async with start(1, worker={"threads": 1}) as harness:
        gate = tmp_path / "gate"
        first = await harness.start("calls", ["waits", str(gate)])
        await eventually(lambda: Path(f"{gate}.began").exists(), "the activity runs")
        others = [await harness.start("calls", ["echo", number]) for number in range(100)]
        await eventually(lambda: harness.views()[0].in_flight > 100, lambda: str(harness.views()))
        for _ in range(2):
            os.kill(harness.pids()[0], signal.SIGKILL)
            lines = Path(f"{gate}.began").read_text().count("\n")
            await eventually(
                lambda lines=lines: Path(f"{gate}.began").read_text().count("\n") > lines,  # type: ignore[misc]
                "the activity runs again",
            )
        losses = harness.processes.database.hub.losses
        assert losses is not None
        gate.touch()
        assert await harness.output(first) == "done"
        for number, each in enumerate(others):
            assert await harness.output(each) == number


async def test_a_frozen_process_is_replaced_and_its_work_is_no_loss(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FROZEN_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    async with start(max_lost_workers=1) as harness:
        gate = tmp_path / "gate"
        running = [await harness.start("calls", ["waits", str(gate)]) for _ in range(4)]
        began = Path(f"{gate}.began")
        await eventually(lambda: began.exists() and began.read_text().count("\n") == 4, "the activities run")
        frozen = int(began.read_text().split()[0])
        os.kill(frozen, signal.SIGSTOP)
        await eventually(lambda: harness.processes.ends["frozen"] == 1, lambda: str(harness.views()))
        gate.touch()
        for each in running:
            assert await harness.output(each) == "done"
        await harness.all_run()
        assert frozen not in harness.pids()


@pytest.mark.parametrize("kind", deaths.KINDS)
async def test_code_that_freezes_its_process_once_goes_on_elsewhere(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(supervisor, "FROZEN_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    async with start(max_lost_workers=1) as harness:
        instance = await harness.start(kind, ["stop", str(tmp_path / "marker"), 21])
        others = [await harness.start("chain", number) for number in range(20)]
        assert await harness.output(instance) == deaths.expected(kind, 21)
        for number, each in enumerate(others):
            assert await harness.output(each) == number + 4
        assert harness.processes.ends == {"frozen": 1}


async def test_a_process_that_is_frozen_before_it_is_ready_is_replaced(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FROZEN_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.1)
    async with start(1) as harness:
        (first,) = harness.pids()
        harness.processes.command = ["/bin/sh", "-c", 'kill -STOP $$; exec "$0" "$@"', *harness.processes.command]
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: harness.processes.ends["frozen"] >= 1, lambda: str(harness.views()))
        harness.processes.command = harness.processes.command[3:]
        await harness.all_run()


async def test_a_killed_process_is_no_concern_of_the_others(start: Start, tmp_path: Path) -> None:
    async with start() as harness:
        gate = tmp_path / "gate"
        waiting = [await harness.start("calls", ["waits", str(gate)]) for _ in range(4)]
        began = Path(f"{gate}.began")
        await eventually(lambda: began.exists() and began.read_text().count("\n") == 4, "the activities run")
        killed = int(began.read_text().split()[0])
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: began.read_text().count("\n") == 6, "the survivor runs its work")
        gate.touch()
        for each in waiting:
            assert await harness.output(each) == "done"
        (reason,) = [view.detail for view in harness.views() if view.detail]
        assert "SIGKILL" in reason


async def test_a_process_that_cannot_start_is_tried_again_with_pauses(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 3600.0)
    async with start(1) as harness:
        harness.processes.command = ["/bin/false"]
        os.kill(harness.pids()[0], signal.SIGKILL)
        await eventually(
            lambda: harness.views()[0].restarts >= 2 and harness.views()[0].state is ProcessState.RESTARTING,
            lambda: str(harness.views()),
        )
        assert harness.processes.stuck() == ["no worker process runs; ended with exit code 1"]


async def test_a_process_that_does_not_stop_in_time_is_killed(start: Start) -> None:
    async with start(1) as harness:
        (pid,) = harness.pids()
        os.kill(pid, signal.SIGSTOP)
        assert not await stop_worker(harness.processes, 0.2)
        harness.processes.kill()
        await eventually(lambda: harness.views()[0].state is ProcessState.STOPPED, lambda: str(harness.views()))
        assert not Path(f"/proc/{pid}").exists()
        assert not harness.processes.ends


async def test_an_upgrade_under_a_running_daemon_is_a_clear_reason(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 3600.0)
    async with start(1) as harness:
        monkeypatch.setattr(settings, "__version__", "0.0.1")
        os.kill(harness.pids()[0], signal.SIGKILL)
        await eventually(lambda: harness.views()[0].restarts >= 3, lambda: str(harness.views()))
        (reason,) = harness.processes.stuck()
        assert "the daemon has version 0.0.1, but " in reason
        assert "restart the daemon" in reason


async def test_a_stop_waits_for_running_work_and_returns_the_rest(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with start(1, worker={"threads": 1}) as harness:
        running = await harness.start("calls", ["waits", str(gate)])
        await eventually(lambda: Path(f"{gate}.began").exists(), "the activity runs")
        await harness.start("calls", ["noted", [str(tmp_path / "notes"), "late"]])
        await eventually(lambda: harness.views()[0].in_flight == 2, lambda: str(harness.views()))
        stopping = asyncio.create_task(asyncio.to_thread(harness.processes.stop))
        await eventually(harness.processes.is_stopping.is_set, "stopping")
        gate.touch()
        await stopping
        assert not (tmp_path / "notes").exists()
        assert not harness.processes.ends
        worker = harness.engine.worker(user_workflows(load(MODULES, ROOT)), DataConverter())
        worker.start()
        assert await harness.output(running) == "done"
        assert await stop_worker(worker, TIMEOUT)
        assert Path(f"{gate}.began").read_text().count("\n") == 1, "it did not run again"
