"""One of several processes that deliver the same messages to the same instances: arguments ENGINE SEED.

ENGINE: directory of the embedded engine. The process waits for a random time between any two calls. Each completed
message is reported on standard output.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import OnExisting, ScheduleOrchestration, StartOrRaise
from bridge.core.errors import AlreadyTaken, EngineOutage, InstanceAlreadyExists
from bridge.core.origin import MessageOrigin
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine

INSTANCES = 4
MESSAGES = 15
"""Number of messages per instance."""


def instance(number: int) -> str:
    return f"race-{number}"


def restarted(number: int) -> str:
    return f"again-{number}"


def commands() -> list[tuple[Any, MessageOrigin]]:
    """Messages for instances that take MESSAGES each, and for instances that end at once and restart."""
    found: list[tuple[Any, MessageOrigin]] = []
    for number in range(INSTANCES):
        for message in range(MESSAGES):
            given = [MESSAGES - 1, message]
            command = StartOrRaise("collect", instance(number), "item", given, message)
            found.append((command, MessageOrigin(f"{number}/{message}", "start-or-raise")))
        for message in range(3):
            start = ScheduleOrchestration(
                "noted", restarted(number), f"{number}/{message}", on_existing=OnExisting.RESTART
            )
            found.append((start, MessageOrigin(f"again/{number}/{message}", "restart")))
    return found


class Slow:
    """Client that waits for a random time before and after every call."""

    def __init__(self, client: Any, chance: random.Random) -> None:
        self._client = client
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method

        async def call(*args: Any, **named: Any) -> Any:
            await asyncio.sleep(self._chance.random() * 0.01)
            result = await method(*args, **named)
            await asyncio.sleep(self._chance.random() * 0.01)
            return result

        return call


async def main(directory: str, seed: int) -> None:
    chance = random.Random(seed)
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), Path(directory), host=False)
    await engine.start()
    executor = CommandRunner(
        SimpleNamespace(client=Slow(engine.client, chance), confirms_event_delivery=engine.confirms_event_delivery)
    )
    todo = list(enumerate(commands()))
    chance.shuffle(todo)

    async def deliver(number: int, command: Any, origin: MessageOrigin) -> None:
        while True:
            try:
                await executor.execute(command, origin)
            except AlreadyTaken:
                pass
            except InstanceAlreadyExists:
                # The run of another message has not ended; this message needs a run of its own.
                await asyncio.sleep(chance.random() * 0.02)
                continue
            except EngineOutage:
                continue
            print(number, flush=True)
            return

    waiting = iter(todo)

    async def lane() -> None:
        for number, (command, origin) in waiting:
            await deliver(number, command, origin)

    await asyncio.gather(*(lane() for _ in range(6)))
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
