"""Bridge process for the group tests: `CONFIG EFFECTS`.

The process has one source on Kafka; another process hosts its engine. It appends a line `KEY NUMBER PID` to EFFECTS for
every start that the engine took as new, in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from bridge.app.composition import build_broker, build_engine, build_source, load_config
from bridge.core.commands import Command, ScheduleOrchestration
from bridge.core.origin import MessageOrigin
from bridge.engines.commands.command_runner import CommandRunner
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.settings import EnginePort
from tests.kit.pipeline import is_balanced


async def run(config: Path, effects: int, name: str = "kafka") -> None:
    loaded = load_config([config])
    engine = build_engine(loaded, "default", host=False)
    await engine.start()
    broker = build_broker(loaded, name)
    await broker.start()
    execute = CommandRunner(engine).execute

    async def recorded(command: Command, origin: MessageOrigin) -> None:
        await execute(command, origin)
        assert isinstance(command, ScheduleOrchestration)
        _, key, number = command.instance_id.split("-")
        os.write(effects, f"{key} {number} {os.getpid()}\n".encode())

    breaker = Breaker("default", engine.probe)
    source = build_source(loaded, "orders", {name: broker}, {"default": EnginePort(recorded, breaker)})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await source.start()
    print("started", flush=True)
    await stop.wait()
    await source.drain(10)
    await breaker.stop()
    await broker.stop()
    await engine.stop()
    assert is_balanced(source.ledger)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)))
