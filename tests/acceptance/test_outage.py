"""Outage of an engine behind loopback gRPC under load: the source holds, reports the outage, and resumes by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.acceptance.sidecar import running
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

CONFIG = """
engine: {{type: scheduler, endpoint: "http://127.0.0.1:{port}", timeout: {timeout}}}
workflows: {{external: [order]}}
brokers: {{local: {{type: local}}}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    retry: {{in_memory: 100ms}}
    limits: {{concurrency: 8, max_in_flight: 200}}
routes:
  - name: start
    from: orders
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.key }}}}-{{{{ payload.number }}}}"}}
ops: {{http: {{port: 0}}}}
"""

KEYS = 20
BATCH = 400
UNREADY, RESUMED = 5.0, 10.0
"""Limits in seconds for a slow machine; 1 s and 2 s are typical."""


class Load:
    """Numbered messages over all keys."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.sent = 0

    def send(self, count: int = BATCH) -> None:
        numbers = range(self.sent, self.sent + count)
        self._log.publish("orders", *(_message(f"k{number % KEYS}", number) for number in numbers))
        self.sent += count


def _message(key: str, number: int) -> Message:
    return Message(json.dumps({"key": key, "number": f"{number:06d}"}).encode(), key.encode())


def until(condition: Callable[[], Any], within: float) -> float:
    """Wait until the condition holds. Returns the seconds."""
    began = time.monotonic()
    eventually_blocking(condition, within=within, poll=0.02)
    return time.monotonic() - began


@pytest.mark.timeout(240)
@pytest.mark.parametrize("away", [1.0, 8.0, pytest.param(60.0, marks=pytest.mark.prove)])
@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_it_is_held_and_goes_on(tmp_path: Path, how: str, away: float) -> None:
    with running() as sidecar:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(port=sidecar.port, timeout="500ms"))
        with DaemonProcess(tmp_path, "--no-worker") as daemon, Log(tmp_path / ".bridge" / "broker") as log:
            load = Load(log)
            load.send()
            daemon.wait(lambda: daemon.settled() > BATCH // 4, "under load")
            sidecar.freeze() if how == "frozen" else sidecar.kill()
            began = time.monotonic()
            load.send()
            received = until(lambda: daemon.get("/readyz")[0] == 503, UNREADY)
            _, body = daemon.get("/readyz")
            engine = next(part for part in json.loads(body)["components"] if part["kind"] == "engine")
            assert engine["state"] == "away"
            assert any(words in engine["detail"] for words in (str(sidecar.port), "order-", "no answer within"))
            assert daemon.get("/healthz")[0] == 200, "an outage is no reason to restart the daemon"
            time.sleep(max(0.0, began + away - time.monotonic()))
            held = daemon.settled()
            load.send()
            time.sleep(0.2)
            assert daemon.settled() == held
            sidecar.thaw() if how == "frozen" else sidecar.start()
            resumed = until(lambda: daemon.settled() > held, RESUMED)
            until(lambda: daemon.get("/readyz")[0] == 200, RESUMED)
            print(f"{how} for {away:g} s: noticed after {received:.2f} s, resumed {resumed:.2f} s after the return")
            daemon.wait(lambda: daemon.settled() == load.sent and daemon.lag() == 0, "all settled")
            assert daemon.metrics("bridge_dead_letters_total") == {}
            assert sum(daemon.metrics("bridge_abandoned_total").values()) == 0
            in_time = created(tmp_path)
            found = sorted(number for numbers in in_time.values() for number in numbers)
            assert len(found) == len(set(found)), "each once"
            # A killed engine loses the accepted commands; a frozen one keeps them
            assert len(found) == load.sent if how == "frozen" else len(found) >= load.sent - held
            assert all(numbers == sorted(numbers) for numbers in in_time.values()), "in order per key"


def test_a_frozen_engine_is_noticed_long_before_the_deadline_of_a_call(tmp_path: Path) -> None:
    with running() as sidecar:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(port=sidecar.port, timeout="10s"))
        with DaemonProcess(tmp_path, "--no-worker") as daemon, Log(tmp_path / ".bridge" / "broker") as log:
            load = Load(log)
            load.send()
            daemon.wait(lambda: daemon.settled() > BATCH // 4, "under load")
            sidecar.freeze()
            load.send()
            received = until(lambda: daemon.get("/readyz")[0] == 503, UNREADY)
            time.sleep(2.0)
            held = daemon.settled()
            sidecar.thaw()
            resumed = until(lambda: daemon.settled() > held, RESUMED)
            print(f"frozen, calls with 10 s: noticed after {received:.2f} s, resumed {resumed:.2f} s after the return")
            daemon.wait(lambda: daemon.settled() == load.sent and daemon.lag() == 0, "all settled")
            assert daemon.metrics("bridge_dead_letters_total") == {}
            assert sum(daemon.metrics("bridge_abandoned_total").values()) == 0
            found = [number for numbers in created(tmp_path).values() for number in numbers]
            assert len(found) == len(set(found)) == load.sent


def created(directory: Path) -> dict[str, list[str]]:
    """Return the numbers by key in the order in which the engine created the instances."""
    listed = json.loads(bridge("instances", "list", "--limit", "0", "--json", cwd=directory))
    found: dict[str, list[tuple[str, str]]] = {}
    for instance in listed:
        _, key, number = instance["instance_id"].split("-")
        found.setdefault(key, []).append((instance["created_at"], number))
    return {key: [number for _, number in sorted(times)] for key, times in found.items()}
