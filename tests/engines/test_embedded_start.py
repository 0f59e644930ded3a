"""Connection to an embedded engine whose host has the file and does not listen yet."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import EngineUnavailable
from bridge.engines.embedded import engine as module
from bridge.engines.embedded.address import FILE, SOCKET, WORKERS
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock
from tests.kit.waiting import eventually

CONFIG = EmbeddedEngineConfig(type="embedded")


async def test_a_host_that_starts_is_waited_for(tmp_path: Path) -> None:
    # The first start of a process imports the server, which takes seconds from a cold disk
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await host.start()
    await host.stop()
    lock = DatabaseLock(tmp_path / FILE)
    guest = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await guest.start()
    with lock.locked():
        probe = asyncio.create_task(guest.probe())
        done, _ = await asyncio.wait([probe], timeout=3 * module.PROBE_SECONDS)
        assert not done
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await host.start()
    try:
        await probe
    finally:
        await guest.stop()
        await host.stop()


async def test_a_host_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    with DatabaseLock(tmp_path / FILE).locked():
        pass
    for path in tmp_path.iterdir():
        if path.read_text() == str(os.getpid()):
            path.write_text(str(gone))
    guest = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await guest.start()
    began = time.monotonic()
    try:
        with pytest.raises(EngineUnavailable, match="no daemon hosts engine 'default'"):
            await guest.probe()
        assert time.monotonic() - began < module.HOST_SECONDS
    finally:
        await guest.stop()


async def test_a_host_that_ends_leaves_the_sockets_of_the_next_one(tmp_path: Path) -> None:
    old, new = (EmbeddedEngine("default", CONFIG, tmp_path, host=True) for _ in range(2))
    await old.start()
    with grpc.insecure_channel(f"unix:{tmp_path / SOCKET}") as channel:
        # A stream of work keeps the server for half a second after the end of the engine
        make: Any = TaskHubSidecarServiceStub
        stream = make(channel).GetWorkItems(pb.GetWorkItemsRequest(), wait_for_ready=True)
        await eventually(lambda: old._database is not None and old._database.hub.dispatcher.streams, "the stream")
        stopping = asyncio.create_task(old.stop())

        async def starts() -> bool:
            try:
                await new.start()
            except EngineUnavailable:
                return False
            return True

        await eventually(starts, "the next host starts", poll=0.01)
        await stopping
        stream.cancel()
    assert (tmp_path / SOCKET).exists()
    assert (tmp_path / WORKERS).exists() == (sys.platform == "linux")
    await new.stop()
    assert not list(tmp_path.glob("*.sock"))


async def test_a_worker_never_takes_a_host_of_this_version_for_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that starts or stops has the socket of the workers as long as the other one."""
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    guest = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await host.start()
    await guest.start()
    seen: list[bool] = []
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        real(path, missing_ok=missing_ok)
        seen.append(guest._joins_by_channel)

    monkeypatch.setattr(Path, "unlink", unlink)
    await host.stop()
    monkeypatch.undo()
    assert seen
    assert all(seen) == (sys.platform == "linux")
    await guest.stop()
