"""Worker processes in good order: sessions, fork safety, limits, figures."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from bridge.core.commands import RaiseEvent, ScheduleOrchestration
from tests.engines.processes.conftest import Start
from tests.kit.otlp import OtlpReceiver
from tests.kit.waiting import eventually


async def test_turns_go_to_the_process_that_has_the_orchestration_in_memory(start: Start) -> None:
    async with start() as harness:
        instances = [await harness.start("homes") for _ in range(30)]
        homes = [set(await harness.output(each)) for each in instances]
        assert all(len(each) == 1 for each in homes), homes
        assert {pid for each in homes for pid in each} == set(harness.pids()), "both processes have some"
        await eventually(lambda: harness.processes.stats.activities, "a report")
        assert harness.processes.stats.replays == 0


async def test_sessions_that_are_given_up_are_replayed_with_the_same_result(start: Start) -> None:
    async with start(sessions=2) as harness:
        instances = [await harness.start("messages", 3) for _ in range(10)]
        for number in range(3):
            for each in instances:
                await harness.executor.execute(RaiseEvent(each, "item", number))
        for each in instances:
            assert await harness.output(each) == [0, 1, 2]
        assert harness.processes.session_count <= 2
        await eventually(lambda: harness.processes.stats.replays > 0, "a report")


async def test_without_sessions_every_turn_replays(start: Start) -> None:
    async with start(sessions=0) as harness:
        assert await harness.output(await harness.start("chain", 1)) == 5
        assert harness.processes.session_count == 0
        await eventually(lambda: harness.processes.stats.replays == 4, lambda: str(harness.processes.stats.replays))


async def test_finished_orchestrations_leave_the_memory(start: Start) -> None:
    async with start() as harness:
        for each in [await harness.start("chain", 1) for _ in range(20)]:
            await harness.output(each)
        await harness.running(await harness.start("messages", 1))
        await eventually(lambda: harness.processes.session_count == 1, lambda: str(harness.views()))
        await eventually(lambda: len(harness.processes.database.hub.dispatcher.owners) == 1, "one owner")


async def test_a_process_inherits_nothing(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb") as other, socket.create_server(("127.0.0.1", 0)) as listener:
        for each in (other, listener):
            os.set_inheritable(each.fileno(), True)
        async with start(1) as harness:
            found = await harness.output(await harness.start("calls", ["looks", None]))
    files = [each for each in found["files"] if not each.startswith(("pipe:", "/dev/"))]
    sockets = [each for each in files if each.startswith("socket:")]
    assert len(sockets) == 1, "only the channel"
    memory = [each for each in files if "bridge-worker-slots" in each]
    rest = [
        each for each in files
        if each not in sockets and each not in memory and not each.startswith(("anon_inode:", "/proc/"))
    ]  # fmt: skip
    assert not [each for each in rest if str(tmp_path) in each], rest
    threads = [each for each in found["threads"] if not each.startswith(("turns", "activities", "entities"))]
    assert threads == ["MainThread", "reports", "results"]
    assert found["threads of libraries"] == []


async def test_large_work_and_results_pass(start: Start) -> None:
    async with start(worker={"process_bytes": "64KiB"}, max_request="64MiB") as harness:
        large = "x" * (3 << 20)
        instances = [await harness.start("calls", ["echo", large]) for _ in range(6)]
        for each in instances:
            assert await harness.output(each) == large


async def test_a_slow_activity_does_not_hold_up_those_behind_it(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with start(worker={"threads": 1}) as harness:
        slow = await harness.start("calls", ["waits", str(gate)])
        await eventually(lambda: Path(f"{gate}.began").exists(), "one process is busy")
        busy = int(Path(f"{gate}.began").read_text())
        quick = [await harness.start("calls", ["pid", None]) for _ in range(20)]
        assert {await harness.output(each) for each in quick} == {*harness.pids()} - {busy}
        gate.touch()
        assert await harness.output(slow) == "done"
        assert harness.processes.ends == {}


async def test_a_late_turn_of_a_former_instance_does_not_disturb_its_successor(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with start(1) as harness:
        client = harness.engine.client
        await harness.executor.execute(ScheduleOrchestration("blocks", "same", [str(gate), 1000]))
        await eventually(lambda: Path(f"{gate}.began").exists(), "its turn runs")
        await client.terminate_orchestration("same")
        await client.purge_orchestration("same")
        await harness.executor.execute(ScheduleOrchestration("blocks", "same", ["", 1]))
        await harness.executor.execute(RaiseEvent("same", "more", 1))
        await eventually(lambda: harness.views()[0].in_flight == 1, lambda: str(harness.views()))
        gate.touch()
        await eventually(lambda: harness.views()[0].in_flight == 0, lambda: str(harness.views()))
        for _ in range(2):
            await harness.executor.execute(RaiseEvent("same", "more", 1))
        assert await harness.output("same") == 4
        await eventually(lambda: harness.processes.session_count == 0, lambda: str(harness.views()))


async def test_spans_of_user_code_are_sent(start: Start) -> None:
    with OtlpReceiver() as receiver:
        async with start(1, trace_endpoint=f"{receiver.url}/v1/traces") as harness:
            assert await harness.output(await harness.start("calls", ["traced", "counting stock"])) == "counting stock"
        assert "counting stock" in {span.name for span in receiver.spans()}


async def test_what_runs_is_reported_in_figures(start: Start) -> None:
    async with start() as harness:
        for each in [await harness.start("chain", 1) for _ in range(5)]:
            await harness.output(each)
        key = ("echo", "completed")
        await eventually(
            lambda: key in (found := harness.processes.stats.activities) and sum(found[key].counts) == 20,
            lambda: str(harness.processes.stats.activities),
        )
        assert harness.processes.stuck() == []


async def test_a_child_of_a_later_turn_has_the_version_of_its_parent(start: Start) -> None:
    async with start(1, worker={"versions": ["1"]}) as harness:
        started = await harness.engine.client.schedule_new_orchestration("version_of_child", version="1")
        assert await harness.output(started) == "1"
