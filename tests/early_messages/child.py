"""One of several processes on one engine: sends events for instances that may not exist, and starts some of them.

Arguments: directory of the engine, number of this process, number of processes, number of instances.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import UTC, datetime
from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import Command, RaiseEvent, ScheduleOrchestration, WaitFor
from bridge.core.errors import AlreadyTaken, EarlierMessagesWait, InstanceAlreadyExists, InstanceNotFound
from bridge.core.message import Message, Position
from bridge.core.origin import MessageOrigin
from bridge.core.stored_message import StoredMessage
from bridge.early_messages.executor import EarlyMessageExecutor
from bridge.early_messages.store import EarlyMessageStore
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine

EVENTS = 3
"""Number of events per instance and process."""
TTL = 600.0


async def main(directory: Path, number: int, processes: int, instances: int) -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), directory, host=False)
    await engine.start()
    store = EarlyMessageStore(engine, 256 * 1024, lambda: datetime.now(UTC))
    notifies = engine.notifies_instance_started
    executor = EarlyMessageExecutor(store, CommandRunner(engine), ("order-",), engine_notifies=notifies)
    rng = random.Random(number)

    async def send(command: Command, message: str) -> None:
        origin = MessageOrigin(message, "paid")
        try:
            await executor.execute(command, origin)
        except (InstanceNotFound, EarlierMessagesWait):
            stored = StoredMessage(
                Message(b"{}"), Position("c", "orders", 0, 0), "local", "orders.dlq", "orders", message
            )
            await asyncio.sleep(rng.random() * 0.01)
            await store.store(command, origin, stored, TTL)
        except (AlreadyTaken, InstanceAlreadyExists):
            pass

    async def lane(instance: int) -> None:
        await asyncio.sleep(rng.random() * 0.5)
        for event in range(EVENTS):
            data = [number, event]
            await send(RaiseEvent(f"order-{instance}", "paid", data, WaitFor(TTL)), f"{number}-{instance}-{event}")
            if instance % processes == number and event == rng.randrange(EVENTS):
                count = EVENTS * processes
                start = ScheduleOrchestration("collect", f"order-{instance}", count)
                await send(start, f"start-{instance}")
            await asyncio.sleep(rng.random() * 0.02)
        if instance % processes == number:
            await send(ScheduleOrchestration("collect", f"order-{instance}", EVENTS * processes), f"start-{instance}")

    await asyncio.gather(*(lane(instance) for instance in range(instances)))
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
