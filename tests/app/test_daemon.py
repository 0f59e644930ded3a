"""Stop of a daemon: a part that fails to stop does not keep the others running."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.errors import BridgeError, BrokerUnavailable
from tests.app.project import CONFIG, write_project


async def test_a_source_and_a_broker_that_fail_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path)
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    before = set(threading.enumerate())
    daemon = Daemon(load_config([config]))
    await daemon.start()
    drain = daemon.sources[0].drain
    stop = daemon.brokers["local"].stop

    async def failing_drain(deadline: float) -> None:
        await drain(deadline)
        raise BrokerUnavailable("the disk is gone")

    async def failing_stop() -> None:
        await stop()
        raise BrokerUnavailable("the disk is gone")

    monkeypatch.setattr(daemon.sources[0], "drain", failing_drain)
    monkeypatch.setattr(daemon.brokers["local"], "stop", failing_stop)
    assert await daemon.stop(20.0)
    assert not list(tmp_path.rglob("*.sock")), "the engine is closed"
    with pytest.raises(RuntimeError):
        _ = daemon.engines["default"].client
    left = {thread for thread in set(threading.enumerate()) - before if not thread.daemon}
    assert not {thread.name for thread in left if "asyncio" not in thread.name}, "the worker has stopped"


async def test_a_task_that_ends_by_itself_ends_the_daemon_with_its_name(tmp_path: Path) -> None:
    config = write_project(tmp_path)
    config.write_text(CONFIG + "ops: {http: {port: 0}}\n")
    daemon = Daemon(load_config([config]), worker=False)
    await daemon.start()
    try:
        waiting = asyncio.create_task(daemon.wait(asyncio.Event()))
        next(iter(daemon.sources[0].tasks)).cancel()
        with pytest.raises(BridgeError, match="orders:worker:0 ended unexpectedly"):
            await waiting
    finally:
        await daemon.stop(5.0)
