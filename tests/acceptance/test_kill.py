"""SIGKILL of the daemon at random moments: no accepted message is lost, each start is executed once, in order."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from benchmarks._sidecar import sidecar
from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {{type: scheduler, endpoint: "http://{address}"}}
workflows: {{external: [order]}}
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}}}
routes:
  - name: start
    from: orders
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.key }}}}-{{{{ payload.number }}}}"}}
ops: {{http: {{port: 0}}}}
"""

KEYS, PER_KEY = 25, 60


@pytest.mark.timeout(240)
def test_killed_in_the_middle_again_and_again(tmp_path: Path) -> None:
    rng = random.Random(5)
    with sidecar() as address:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(address=address))
        wanted = {f"order-k{key}-{number:03d}" for key in range(KEYS) for number in range(PER_KEY)}
        lines = [
            {"key": f"k{key}", "body": {"key": f"k{key}", "number": f"{number:03d}"}}
            for number in range(PER_KEY)
            for key in range(KEYS)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        bridge("publish", "local/orders", "--jsonl", "-", cwd=tmp_path, text=text)
        for _ in range(6):
            with DaemonProcess(tmp_path, "--no-worker") as daemon:
                time.sleep(rng.random() * 0.25)
                daemon.kill()
        with DaemonProcess(tmp_path, "--no-worker") as daemon:
            daemon.wait(lambda: daemon.lag() == 0, "all settled")
            assert daemon.metrics("bridge_dead_letters_total") == {}
        listed = json.loads(bridge("instances", "list", "--limit", "0", "--json", cwd=tmp_path))
        assert {instance["instance_id"] for instance in listed} == wanted
        created: dict[str, list[tuple[str, str]]] = {}
        for instance in listed:
            _, key, number = instance["instance_id"].split("-")
            created.setdefault(key, []).append((instance["created_at"], number))
        for times in created.values():
            in_time = [number for _, number in sorted(times)]
            assert in_time == sorted(in_time), "first effects of a key in the broker's order, across the kills"
