"""Daemon under attack: its configuration, its workflows, and a monitor of its memory and health."""

from __future__ import annotations

import threading
import time
import urllib.request
from pathlib import Path

from tests.kit.processes import DaemonProcess

CONFIG = """
engine: {type: embedded}
workflows: [attacked]
brokers: {main: BROKER}
defaults: {source: {broker: main, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}}
sources:
  honest: {topics: [honest]}
  orders: {topics: [orders]}
  answers: {topics: [answers]}
  early: {topics: [early]}
routes:
  - name: honest
    from: [honest, orders]
    match: {type: honest}
    schedule: {orchestration: honest, instance_id: "honest-{{ payload.id }}", input: payload}
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: waits, instance_id: "order-{{ payload.id }}"}
  - {name: member, from: orders, match: {type: member}, when: "payload.a.all(x, !(x in payload.b))", ignore: {}}
  - {name: text, from: orders, match: {type: text}, when: "payload.a.matches('(x+x+)+y')", ignore: {}}
  - {name: match, from: orders, match: {type: match}, when: "payload.a.matches('(a|aa)+$')", ignore: {}}
  - name: fan
    from: orders
    match: {type: fan}
    for_each: payload.items
    schedule: {orchestration: waits, instance_id: "fan-{{ item }}"}
  - {name: answer, from: answers, match: {type: answer}, reply: {}}
  - name: early
    from: early
    match: {type: early}
    raise_event: {instance_id: "early-{{ payload.id }}", name: noted, data: payload, on_missing: {wait: 1h}}
ops: {http: {port: 0}, log: {format: json}}
"""

WORKFLOWS = """
import os
import time

from bridge.workflow import wait_for_message
from durabletask import task


def record(ctx: task.ActivityContext, order):
    line = f"{order['id']} {time.time() - order['sent']:.6f}\\n".encode()
    file = os.open("honest.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def honest(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(record, input=order)


def waits(ctx: task.OrchestrationContext, order):
    yield from wait_for_message(ctx, "noted")
"""


def prepare(directory: Path, broker: str) -> None:
    (directory / "attacked.py").write_text(WORKFLOWS)
    (directory / "bridge.yaml").write_text(CONFIG.replace("BROKER", broker))


def done(directory: Path) -> dict[str, list[float]]:
    """Seconds from publication to execution of each honest order, once per execution, by id."""
    found: dict[str, list[float]] = {}
    path = directory / "honest.log"
    for line in path.read_text().splitlines() if path.exists() else ():
        number, seconds = line.split()
        found.setdefault(number, []).append(float(seconds))
    return found


class Watcher:
    """Monitor of a daemon's memory and health, in threads of its own; a context manager.

    peak: highest resident size in MiB. worst: longest answer of /healthz in seconds. silent: requests without answer.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._measure, self._ask)]
        self.peak = 0.0
        self.worst = 0.0
        self.answered = 0
        self.silent: list[str] = []

    def __enter__(self) -> Watcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def resident(self) -> float:
        """Return the resident size in MiB."""
        for line in Path(f"/proc/{self._daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the daemon ended")

    def _measure(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, self.resident())

    def _ask(self) -> None:
        while not self._ended.wait(0.2):
            began = time.monotonic()
            try:
                urllib.request.urlopen(self._daemon.url + "/healthz", timeout=10).read()
            except OSError as error:
                self.silent.append(f"{error} after {time.monotonic() - began:.1f} s")
            else:
                self.answered += 1
            self.worst = max(self.worst, time.monotonic() - began)
