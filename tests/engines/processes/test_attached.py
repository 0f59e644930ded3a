"""Workers of other processes over the channel: killed, frozen, refused, and with an engine that is started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.address import WORKERS
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes import greeting, listener
from bridge.engines.embedded.processes.attached import AttachedWorker
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.messages import ItemKind
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.workflow import DataConverter
from tests.engines.contract import EngineFixture
from tests.engines.processes.conftest import MODULES, ROOT
from tests.kit.waiting import TIMEOUT, eventually

CONFIG = EmbeddedEngineConfig(type="embedded")


class HostFixture(EngineFixture):
    """Engine without workers of its own."""

    engine: EmbeddedEngine

    @property
    def joined(self) -> list[int]:
        """Processes of the workers that have joined."""
        found = self.engine._worker_socket
        assert found is not None
        return found.process_ids

    @property
    def losses(self) -> int:
        assert self.engine._database is not None
        losses = self.engine._database.hub.losses
        assert losses is not None
        return len(losses._counts)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HostFixture]:
    engine = EmbeddedEngine("default", CONFIG, tmp_path / "engine", host=True)
    await engine.start()
    yield HostFixture(engine, CommandRunner(engine))
    await engine.stop()


@contextmanager
def child(directory: Path) -> Iterator[int]:
    """Worker in another process. Yields its id."""
    command = [sys.executable, "-m", "tests.engines.processes.attached_child", str(directory)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def joined_worker(directory: Path, **config: object) -> tuple[EmbeddedEngine, AttachedWorker]:
    """Worker of this process that comes over the channel."""
    settings = EmbeddedEngineConfig.model_validate({"type": "embedded", **config})
    engine = EmbeddedEngine("attached", settings, directory, host=False)
    await engine.start()
    worker = engine.worker(user_workflows(load(MODULES, ROOT)), DataConverter())
    assert isinstance(worker, AttachedWorker)
    return engine, worker


async def test_a_killed_worker_loses_what_ran_and_nothing_else(host: HostFixture, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    began = Path(f"{gate}.began")
    with ExitStack() as children:
        first = children.enter_context(child(tmp_path / "engine"))
        await eventually(lambda: host.joined == [first], lambda: str(host.joined))
        running = await host.start("calls", ["waits", str(gate)])
        await eventually(began.exists, "the activity runs")
        second = children.enter_context(child(tmp_path / "engine"))
        await eventually(lambda: host.joined == sorted((first, second)), lambda: str(host.joined))
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: began.read_text().split() == [str(first), str(second)], "it runs again at once")
        assert host.losses == 1
        gate.touch()
        assert await host.output(running) == "done"
        assert await host.output(await host.start("chain", 1)) == 5


async def test_a_killed_worker_is_missed_although_a_process_that_it_forked_lives(
    host: HostFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CHECK_SECONDS", 0.05)
    gate = tmp_path / "gate"
    began = Path(f"{gate}.began")
    with ExitStack() as children:
        first = children.enter_context(child(tmp_path / "engine"))
        forked = await host.output(await host.start("calls", ["forks", None]))
        children.callback(os.kill, forked, signal.SIGKILL)
        running = await host.start("calls", ["waits", str(gate)])
        await eventually(began.exists, "the activity runs")
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: host.joined == [], lambda: str(host.joined))
        assert host.losses == 1
        gate.touch()
        children.enter_context(child(tmp_path / "engine"))
        assert await host.output(running) == "done"


async def test_the_work_of_a_frozen_worker_goes_on_elsewhere_and_is_no_loss(
    host: HostFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FROZEN_SECONDS", 0.0)
    gate = tmp_path / "gate"
    began = Path(f"{gate}.began")
    with child(tmp_path / "engine") as frozen:
        running = await host.start("calls", ["waits", str(gate)])
        await eventually(began.exists, "the activity runs")
        os.kill(frozen, signal.SIGSTOP)
        await eventually(lambda: host.joined == [], lambda: str(host.joined))
        assert not host.losses
        os.kill(frozen, signal.SIGCONT)
        await eventually(lambda: host.joined == [frozen], "it joins again")
        await eventually(lambda: began.read_text().split() == [str(frozen)] * 2, "it runs the activity again")
        gate.touch()
        assert await host.output(running) == "done"


async def test_a_worker_joins_the_next_engine(tmp_path: Path) -> None:
    directory = tmp_path / "engine"
    client, worker = await joined_worker(directory)
    worker.start()  # there is no engine yet
    for number in range(3):
        engine = EmbeddedEngine("default", CONFIG, directory, host=True)
        await engine.start()
        harness = EngineFixture(engine, CommandRunner(engine))
        assert await harness.output(await harness.start("chain", number)) == number + 4
        await engine.stop()
    assert await stop_worker(worker, TIMEOUT)
    await client.stop()


async def test_a_joined_worker_keeps_orchestrations_in_memory(host: HostFixture, tmp_path: Path) -> None:
    client, worker = await joined_worker(tmp_path / "engine")
    worker.start()
    for number in range(20):
        assert await host.output(await host.start("chain", number)) == number + 4
    assert worker.stats.replays == 0
    await eventually(lambda: worker.session_count == 0, "ended orchestrations leave the memory")
    assert await stop_worker(worker, TIMEOUT)
    await client.stop()


async def test_a_child_of_a_later_turn_has_the_version_of_its_parent(host: HostFixture, tmp_path: Path) -> None:
    client, worker = await joined_worker(tmp_path / "engine", worker={"versions": ["1"]})
    worker.start()
    started = await host.engine.client.schedule_new_orchestration("version_of_child", version="1")
    assert await host.output(started) == "1"
    assert await stop_worker(worker, TIMEOUT)
    await client.stop()


async def test_a_worker_with_another_channel_is_refused_with_the_reason(
    host: HostFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greeting, "CHANNEL", 2)
    client, worker = await joined_worker(tmp_path / "engine")
    worker.start()
    await eventually(worker.stuck, "the worker says why it does not work")
    (reason,) = worker.stuck()
    assert "restart the older one" in reason
    monkeypatch.undo()
    assert await host.output(await host.start("chain", 1)) == 5
    assert worker.stuck() == []
    assert await stop_worker(worker, TIMEOUT)
    await client.stop()


GREETING = {"channel": greeting.CHANNEL, "version": "1", "sessions": [1, 1], "most_bytes": 1, "names": None}


@pytest.mark.parametrize(
    "items",
    [
        [],
        [(ItemKind.STOP, b"")] * 2,
        [(ItemKind.ATTACH, b"[]"), (ItemKind.REQUEST, b"")],
        [(ItemKind.ATTACH, b'{"channel": 1}'), (ItemKind.REQUEST, b"")],
        [(ItemKind.ATTACH, json.dumps(GREETING).encode()), (ItemKind.REQUEST, b"\xff")],
        [(ItemKind.ATTACH, json.dumps(GREETING).encode()), (ItemKind.REQUEST, b""), (ItemKind.TURN_DONE, b"")],
        None,
    ],
)
async def test_other_bytes_end_their_connection_alone(
    host: HostFixture, tmp_path: Path, items: list[tuple[int, bytes]] | None
) -> None:
    """A frame follows a correct first byte. None: a connection without slots."""
    client, worker = await joined_worker(tmp_path / "engine")
    worker.start()
    await eventually(lambda: host.joined == [os.getpid()], lambda: str(host.joined))
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(str(tmp_path / "engine" / WORKERS))
    if items is None:
        end.sendall(b"GET / HTTP/1.1\r\n\r\n")
    else:
        memory = os.memfd_create("slots")
        socket.send_fds(end, [greeting.FIRST_BYTE], [memory])
        os.close(memory)
        channel = Channel(end)
        channel.send_all(items)
        channel.end_sending()
    end.settimeout(TIMEOUT)
    assert await asyncio.to_thread(_read_all, end)
    end.close()
    assert await host.output(await host.start("chain", 1)) == 5
    assert host.joined == [os.getpid()]
    assert await stop_worker(worker, TIMEOUT)
    await client.stop()


def _read_all(end: socket.socket) -> bool:
    """Read until the peer ends the connection."""
    try:
        while end.recv(4096):
            pass
    except ConnectionError:
        pass
    return True
