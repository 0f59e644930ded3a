"""Large messages for instances that never start do not increase the daemon's memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.processes import DaemonProcess, bridge

pytestmark = pytest.mark.prove

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: ignore}}
routes:
  - name: early
    from: orders
    raise_event: {instance_id: "never-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
ops: {http: {port: 0}}
"""
MESSAGES, SIZE = 1200, 100_000
ABOVE_IDLE = 300 * 1024


def resident(pid: int, field: str) -> int:
    """Return a memory field of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def test_what_waits_is_not_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    lines = [json.dumps({"body": {"id": number, "fill": "z" * SIZE}, "key": str(number)}) for number in range(MESSAGES)]
    with DaemonProcess(tmp_path, fresh=True) as daemon:
        idle = resident(daemon.pid, "VmRSS")
        bridge("publish", "orders", "--jsonl", "-", cwd=tmp_path, text="\n".join(lines))
        stored = '{engine="default",event="stored"}'
        daemon.wait(lambda: daemon.metrics("bridge_early_message_events_total").get(stored) == MESSAGES, "all wait")
        assert resident(daemon.pid, "VmHWM") <= idle + ABOVE_IDLE
