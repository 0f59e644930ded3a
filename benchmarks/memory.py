"""Resident memory of `bridge serve` while one million small messages pass through an `ignore` rule.

`growth`: memory at the end over memory after the first ten thousand. It shows limits that do not hold.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import uvloop

from bridge.app.composition import build_broker, load_config
from bridge.config.source import Loaded
from bridge.core.message import Message

MESSAGES = 1_000_000
FIRST = 10_000
CHUNK = 10_000

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {small: {broker: local, topics: [small], codec: json, no_match: dead_letter}}
routes: [{name: nothing, from: small, ignore: {reason: measured}}]
ops: {http: {port: 0}, log: {level: warning}}
"""


def settled(url: str) -> int:
    """Number of messages that the daemon has ignored so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("bridge_outcomes_total") and 'outcome="ignored"' in line:
                return int(float(line.rsplit(" ", 1)[1]))
    return 0


def wait_for(url: str, count: int) -> None:
    while settled(url) < count:
        time.sleep(0.05)


async def feed(loaded: Loaded, url: str, process: psutil.Process) -> tuple[int, int]:
    """Publish all messages, never far ahead of the daemon.

    Returns memory after the first ten thousand and at the end.
    """
    broker = build_broker(loaded, "local")
    await broker.start()
    first = 0
    for start in range(0, MESSAGES, CHUNK):
        chunk = [Message(b'{"n":%d}' % number, b"k%d" % (number % 1000)) for number in range(start, start + CHUNK)]
        await broker.publish("small", chunk)
        if start + CHUNK == FIRST:
            wait_for(url, FIRST)
            first = process.memory_info().rss
        elif start % (CHUNK * 10) == 0:
            wait_for(url, start - CHUNK)
    wait_for(url, MESSAGES)
    await broker.stop()
    return first, process.memory_info().rss


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bridge.yaml"
        path.write_text(CONFIG)
        ready = Path(directory) / "ready.json"
        command = [sys.executable, "-m", "bridge", "serve", "-c", str(path), "--ready-file", str(ready)]
        started = time.perf_counter()
        with subprocess.Popen(command) as daemon:
            try:
                while not ready.exists() or not ready.read_bytes():
                    assert daemon.poll() is None, "bridge serve ended"
                    time.sleep(0.05)
                url = json.loads(ready.read_bytes())["http"]
                first, last = uvloop.run(feed(load_config([path]), url, psutil.Process(daemon.pid)))
            finally:
                daemon.terminate()
    took = time.perf_counter() - started
    return {
        "growth": last / first,
        "first_mib": first / 2**20,
        "last_mib": last / 2**20,
        "messages_per_second": MESSAGES / took,
    }
