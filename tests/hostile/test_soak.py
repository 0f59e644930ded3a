"""A mixed attack of five senders beside an honest one: bounded memory, a daemon that answers, nothing honest lost.

BRIDGE_SOAK_SECONDS sets the length of each attack (60); BRIDGE_SOAK_RESULT names a file for the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Serve
from tests.hostile.stand import Watcher, done, prepare
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.server import ThreadedServer
from tests.kafka.shared import shared_broker

SECONDS = float(os.environ.get("BRIDGE_SOAK_SECONDS", "60"))
ABOVE_IDLE = 400.0
"""MiB of memory that an attack may cost."""

pytestmark = pytest.mark.prove


@pytest.fixture(params=["local", "kafka"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield f"{{type: local, path: {tmp_path / 'broker'}, partitions: 4}}"
        return
    kafka = "{{type: kafka, bootstrap_servers: '{}', create_topics: true, partitions: 4, replication: 1}}"
    try:
        java()
        classpath()
    except KafkaMissing:
        server = ThreadedServer()
        yield kafka.format(server.bootstrap)
        server.stop()
        return
    with shared_broker() as bootstrap:
        yield kafka.format(bootstrap)


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


def p99(directory: Path, prefix: str) -> float:
    found = sorted(seconds for number, (seconds, *_) in done(directory).items() if number.startswith(prefix))
    return found[int(len(found) * 0.99)]


def keep(name: str, figures: dict[str, Any]) -> None:
    print(name, json.dumps(figures))
    if (file := os.environ.get("BRIDGE_SOAK_RESULT")) is not None:
        path = Path(file)
        told = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(told | {name: figures}, indent=2) + "\n")


@pytest.mark.timeout(600)
def test_an_attack_costs_bounded_memory_and_nothing_honest(tmp_path: Path, broker: str, request: Any) -> None:
    """First with a topic and source of its own for the honest sender, then on a topic that it shares."""
    prepare(tmp_path, broker)
    name = request.node.callspec.id
    with Serve(tmp_path) as daemon:
        send(tmp_path, 5, "honest", "warm", hostile=False)
        daemon.wait(lambda: len(done(tmp_path)) > 50, "the honest ones are executed")
        with Watcher(daemon) as watcher:
            idle = watcher.resident()
            figures: dict[str, Any] = {"seconds": SECONDS}
            for prefix, topic in (("own", "honest"), ("shared", "orders")):
                sent = send(tmp_path, SECONDS, topic, prefix, hostile=True)
                daemon.wait(
                    lambda prefix=prefix, sent=sent: (
                        sum(number.startswith(prefix) for number in done(tmp_path)) == sent["honest"]
                    ),
                    f"every honest message on {topic}",
                )
                figures |= {f"{prefix} sent": sent["honest"], f"{prefix} p99": round(p99(tmp_path, prefix), 3)}
        doubled = [number for number, times in done(tmp_path).items() if len(times) > 1]
        figures |= {
            "above idle MiB": round(watcher.peak - idle),
            "worst /healthz": round(watcher.worst, 2),
            "lost": 0,
            "doubled": len(doubled),
        }
        keep(name, figures)
        assert not watcher.silent
        assert not doubled
        assert watcher.peak - idle <= ABOVE_IDLE
        assert figures["own p99"] < 1.0
