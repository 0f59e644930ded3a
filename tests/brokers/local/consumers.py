"""Process that forks consumers for the crash tests: `DIRECTORY EFFECTS`, then a line on stdin for each consumer.

A consumer appends a line to the file EFFECTS for every record, and then completes it; it dead-letters every tenth
record. Forking saves the start of an interpreter for every kill.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import LocalBroker
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.core.message import Message
from tests.brokers.consumer import CAUSE, Assignments

OPTIONS = SubscribeOptions(("orders",), "bridge")


async def consume(directory: Path, effects: int) -> None:
    config = LocalBrokerConfig.model_validate({"type": "local", "commit_interval": "5ms"})
    broker = LocalBroker("local", directory, config, revoke_timeout=1.0)
    await broker.start()
    subscription = await broker.subscribe(OPTIONS, Assignments())
    while True:
        deliveries = list(await subscription.receive(20))
        random.shuffle(deliveries)
        for delivery in deliveries:
            if delivery.partition.revoked:
                continue
            number = int(delivery.message.body or b"")
            if number % 10 == 0:
                await delivery.dead_letter(CAUSE)
            else:
                position = delivery.position
                os.write(effects, b"%d %d %d\n" % (position.partition, position.offset, number))
                await delivery.complete()
            await asyncio.sleep(0.001)


async def publish(directory: Path, start: int, count: int) -> None:
    broker = LocalBroker("local", directory, LocalBrokerConfig.model_validate({"type": "local"}))
    await broker.start()
    for number in range(start, start + count):
        await broker.publish("orders", [Message(b"%d" % number, b"%d" % (number % 16))])
    await broker.stop()


def main() -> None:
    directory, path = Path(sys.argv[1]), sys.argv[2]
    effects = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        what, *numbers = line.split()
        child = os.fork()
        if child == 0:
            sys.stdin.close()
            work = consume(directory, effects) if what == "consume" else publish(directory, *map(int, numbers))
            asyncio.run(work)
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main()
