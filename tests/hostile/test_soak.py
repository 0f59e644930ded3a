"""Mixed attack of five senders beside an honest one: bounded memory, a responsive daemon, no loss of honest messages.

BRIDGE_SOAK_SECONDS sets the length of each attack (60).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.stand import Watcher, done, prepare
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.server import ThreadedServer
from tests.kafka.shared import shared_broker
from tests.kit.processes import DaemonProcess
from tests.prove.dates import FIGURES

SECONDS = float(os.environ.get("BRIDGE_SOAK_SECONDS", "60"))
ABOVE_IDLE = 400.0
"""Memory in MiB that an attack may cost."""

pytestmark = pytest.mark.prove


@dataclass(frozen=True)
class Kind:
    """Broker under attack: its name in the table, and its configuration."""

    name: str
    config: str


@pytest.fixture(params=["local", "kafka"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "local":
        yield Kind("local", f"{{type: local, path: {tmp_path / 'broker'}, partitions: 4}}")
        return
    kafka = "{{type: kafka, bootstrap_servers: '{}', create_topics: true, partitions: 4, replication: 1}}"
    try:
        java()
        classpath()
    except KafkaMissing:
        server = ThreadedServer()
        yield Kind("Kafka, test server", kafka.format(server.bootstrap))
        server.stop()
        return
    with shared_broker() as bootstrap:
        yield Kind("Apache Kafka, one node", kafka.format(bootstrap))


def send(directory: Path, seconds: float, topic: str, prefix: str, *, hostile: bool) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.hostile.attack", str(directory), str(seconds), topic, prefix]
    ended = subprocess.run(
        [*command, "hostile" if hostile else "honest"],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, int] = json.loads(ended.stdout)
    return found


def executed(directory: Path, prefix: str) -> int:
    """Return the number of honest messages that were executed at least once."""
    return sum(number.startswith(prefix) for number in done(directory))


def p99(directory: Path, prefix: str) -> float:
    found = sorted(seconds for number, (seconds, *_) in done(directory).items() if number.startswith(prefix))
    return found[int(len(found) * 0.99)]


def keep(name: str, figures: dict[str, Any]) -> None:
    print(name, json.dumps(figures))
    if (file := os.environ.get(FIGURES)) is not None:
        path = Path(file)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {name: figures}))


def caught_up(daemon: DaemonProcess, directory: Path, topic: str, prefix: str, count: int) -> float:
    """Return the seconds until `count` honest messages have been executed; fail when they never are."""
    began = time.monotonic()
    daemon.wait(lambda: executed(directory, prefix) == count, f"{count} honest messages on {topic}")
    return time.monotonic() - began


@pytest.mark.timeout(600)
def test_an_attack_costs_bounded_memory_and_nothing_honest(tmp_path: Path, broker: Kind) -> None:
    """The honest sender first has a topic and a source of its own, then shares a topic."""
    prepare(tmp_path, broker.config)
    with DaemonProcess(tmp_path, fresh=True) as daemon:
        send(tmp_path, 5, "honest", "warm", hostile=False)
        daemon.wait(lambda: len(done(tmp_path)) > 50, "the honest ones are executed")
        with Watcher(daemon) as watcher:
            idle = watcher.resident()
            sent, after = {}, {}
            for prefix, topic in (("own", "honest"), ("shared", "orders")):
                sent[prefix] = send(tmp_path, SECONDS, topic, prefix, hostile=True)["honest"]
                after[prefix] = caught_up(daemon, tmp_path, topic, prefix, sent[prefix])
    figures = {
        "seconds": SECONDS,
        "sent": sum(sent.values()),
        "lost": sum(sent[prefix] - executed(tmp_path, prefix) for prefix in sent),
        "doubled": sum(len(times) > 1 for times in done(tmp_path).values()),
        "own p99": round(p99(tmp_path, "own"), 3),
        "shared p99": round(p99(tmp_path, "shared"), 3),
        "catch up": round(max(after.values()), 1),
        "above idle MiB": round(watcher.peak - idle),
        "healthz": round(watcher.worst, 2),
    }
    keep(broker.name, figures)
    assert not watcher.silent
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    assert watcher.peak - idle <= ABOVE_IDLE
    assert figures["own p99"] < 1.0
