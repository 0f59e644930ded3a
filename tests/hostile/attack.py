"""Run one attack with hostile senders beside an honest sender, and measure the service for the honest sender.

`python -m tests.hostile.attack BROKER SECONDS TOPIC PID` is the process of the senders.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bridge.app.composition import build_broker, load_config
from bridge.core.message import Message
from tests.hostile.senders import SENDERS, Sender

HONEST_RATE = 20.0
"""Honest messages per second."""

Publish = Callable[[str, Message], Awaitable[None]]


async def _paced(rate: float, until: float, step: Callable[[], Awaitable[None]]) -> int:
    """Call `step` at a rate until a monotonic time. Returns the number of calls. A slow broker lowers the rate."""
    count, began = 0, time.monotonic()
    while (now := time.monotonic()) < until:
        if (early := began + count / rate - now) > 0:
            await asyncio.sleep(early)
        await step()
        count += 1
    return count


async def attack(directory: Path, seconds: float, honest_topic: str, prefix: str, hostile: bool) -> dict[str, int]:
    """Publish for `seconds`. Returns the number of messages by sender."""
    broker = build_broker(load_config([directory / "bridge.yaml"]), "main")
    await broker.start()
    until = time.monotonic() + seconds
    numbers = iter(range(10**9))

    async def honest() -> None:
        body = {"id": f"{prefix}{next(numbers)}", "sent": time.time()}
        key = f"h{random.randrange(200)}".encode()
        await broker.publish(honest_topic, [Message(json.dumps(body).encode(), key, (("type", b"honest"),))])

    def sending(sender: Sender, seed: int) -> Callable[[], Awaitable[None]]:
        messages = sender(random.Random(seed))

        async def send() -> None:
            topic, message = next(messages)
            await broker.publish(topic, [message])

        return send

    chosen = SENDERS if hostile else {}
    try:
        counts = await asyncio.gather(
            _paced(HONEST_RATE, until, honest),
            *(_paced(rate, until, sending(sender, seed)) for seed, (sender, rate) in enumerate(chosen.values())),
        )
    finally:
        await broker.stop()
    return dict(zip(("honest", *chosen), counts, strict=True))


if __name__ == "__main__":
    place, length, topic, begin, mode = sys.argv[1:]
    print(json.dumps(asyncio.run(attack(Path(place), float(length), topic, begin, mode == "hostile"))))
