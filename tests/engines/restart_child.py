"""Process that delivers one message that restarts a finished instance: arguments ENGINE VERB MESSAGE.

ENGINE: directory of the embedded engine, hosted by another process. When the process knows the state of the instance
and is about to replace it, it prints `held` and waits for a line. At the end it prints the result of the delivery.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import Command, OnExisting, OnFinished, RaiseEvent, ScheduleOrchestration, StartOrRaise
from bridge.core.origin import MessageOrigin
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.engines.correlation import deliver

INSTANCE = "again"


def command(verb: str, message: str) -> Command:
    match verb:
        case "schedule":
            return ScheduleOrchestration("ledger", INSTANCE, message, on_existing=OnExisting.RESTART)
        case "start_or_raise":
            return StartOrRaise("ledger", INSTANCE, "entry", message, message, on_finished=OnFinished.RESTART)
        case _:
            return RaiseEvent(INSTANCE, "entry", message, on_finished=OnFinished.RESTART)


class Held:
    """Client that waits before its first replacement."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._held = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def schedule_new_orchestration(self, *args: Any, **named: Any) -> Any:
        if named["reuse_id_policy"].replaceableStatus and not self._held:
            self._held = True
            print("held", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        return await self._client.schedule_new_orchestration(*args, **named)


async def main(directory: str, verb: str, message: str) -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=False)
    await engine.start()
    executor = CommandRunner(
        SimpleNamespace(client=Held(engine.client), confirms_event_delivery=engine.confirms_event_delivery)
    )
    harness, origin = SimpleNamespace(executor=executor), MessageOrigin(message, "r")
    # `schedule` must be repeated until the run of the other message has ended
    while (came_to := await deliver(harness, command(verb, message), origin)) == "exists":
        await asyncio.sleep(0.01)
    print(came_to, flush=True)
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
