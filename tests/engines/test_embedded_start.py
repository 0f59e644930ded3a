"""Connection to an embedded engine whose host has the file and does not listen yet."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import EngineUnavailable
from bridge.engines.embedded import engine as module
from bridge.engines.embedded.address import FILE
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock

CONFIG = EmbeddedEngineConfig(type="embedded")


async def test_a_host_that_starts_is_waited_for(tmp_path: Path) -> None:
    # The first start of a process imports the server, which takes seconds from a cold disk
    host = EmbeddedEngine("default", CONFIG, tmp_path, host=True)
    await host.start()
    await host.stop()
    lock = DatabaseLock(tmp_path / FILE)
    guest = EmbeddedEngine("default", CONFIG, tmp_path, host=False)
    await guest.start()
    with lock.held():
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
    with DatabaseLock(tmp_path / FILE).held():
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
