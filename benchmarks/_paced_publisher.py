"""Publisher at a fixed rate, in a process of its own: arguments BOOTSTRAP TOPIC RATE COUNT FILE.

A line of the file is the number of a message and the time at which the broker had acknowledged it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import uvloop
from aiokafka import AIOKafkaProducer

from benchmarks.pipeline import message


async def publish(bootstrap: str, topic: str, rate: float, count: int) -> dict[int, float]:
    """Publish messages; return the time of each acknowledgement by the number of its message."""
    acknowledged: dict[int, float] = {}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    began = time.perf_counter()
    sent = []
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        given = message(number)
        future = await producer.send(topic, given.body, key=given.key, headers=list(given.headers))
        future.add_done_callback(lambda _, number=number: acknowledged.__setitem__(number, time.time()))
        sent.append(future)
    await asyncio.gather(*sent)
    await producer.stop()
    return acknowledged


if __name__ == "__main__":
    _, bootstrap, topic, rate, count, file = sys.argv
    found = uvloop.run(publish(bootstrap, topic, float(rate), int(count)))
    Path(file).write_text("".join(f"{number} {moment}\n" for number, moment in found.items()))
