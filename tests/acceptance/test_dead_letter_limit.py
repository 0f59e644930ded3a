"""Dead letters beyond the limit of a source: the source probes, also after a restart, until a person resumes it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess, bridge

CONFIG = """
engine: {type: embedded}
workflows: [echo]
brokers: {local: {type: local, partitions: 2}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
    limits: {dead_letter_limit: 3}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: echo, instance_id: "order-{{ payload.id }}"}
ops: {http: {port: 0}}
"""

ECHO = """
from durabletask import task


def echo(ctx: task.OrchestrationContext, value):
    return value
"""


def message(kind: str, number: int) -> Message:
    return Message(json.dumps({"id": number}).encode(), f"{kind}{number}".encode(), (("type", kind.encode()),))


def dead(daemon: DaemonProcess) -> int:
    return int(sum(daemon.metrics("bridge_dead_letters_total").values()))


def executed(daemon: DaemonProcess) -> int:
    found = daemon.metrics("bridge_outcomes_total")
    return int(sum(number for labels, number in found.items() if 'outcome="executed"' in labels))


def state(daemon: DaemonProcess) -> tuple[str, str]:
    (source,) = [each for each in json.loads(daemon.get("/readyz")[1])["components"] if each["kind"] == "source"]
    return source["state"], source.get("detail", "")


@pytest.mark.timeout(180)
def test_the_limit_outlives_kills_and_ends_by_a_person(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "echo.py").write_text(ECHO)
    with Log(tmp_path / ".bridge" / "broker") as broker:
        with DaemonProcess(tmp_path) as daemon:
            broker.publish("orders", *(message("bad", number) for number in range(24)))
            daemon.wait(lambda: state(daemon)[0] == "probing", "probing")
            assert "bridge sources resume orders" in state(daemon)[1]
            assert daemon.get("/readyz")[0] == 503
            broker.publish("orders", *(message("start", number) for number in range(2)))
            daemon.wait(lambda: executed(daemon) == 2, "good messages go on")
            daemon.wait(lambda: max(daemon.metrics("bridge_dead_letter_pause_seconds").values()) >= 2, "it probes")
            written = dead(daemon)
            assert written <= 15
            daemon.kill()
        with DaemonProcess(tmp_path, ready=False) as daemon:
            daemon.wait(lambda: state(daemon)[0] == "probing", "probing after a restart")
            until = time.monotonic() + 3
            daemon.wait(lambda: time.monotonic() > until, "three seconds")
            assert dead(daemon) <= 3, "no new allowance of three and more"
            listed = json.loads(bridge("sources", "list", "--json", cwd=tmp_path))
            assert [(each["source"], each["route"], each["state"]) for each in listed] == [("orders", None, "probing")]
            before = dead(daemon)
            assert "no longer limited" in bridge("sources", "resume", "orders", cwd=tmp_path)
            daemon.wait(lambda: dead(daemon) >= before + 3, "as many as before at once")
            bridge("sources", "resume", "nobody", cwd=tmp_path, expect=2)
            bridge("sources", "resume", "orders", "--route", "start", cwd=tmp_path, expect=1)
            while state(daemon)[0] == "probing" or broker.count("orders.dlq") < 24:
                bridge("sources", "resume", "orders", cwd=tmp_path, expect=None)
            daemon.wait(lambda: state(daemon)[0] in ("idle", "consuming"), "ready")
