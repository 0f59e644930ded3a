"""`bridge limits`: one daemon over restarts and to the end of the limit; three daemons of which one is frozen."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_status import PARTITIONS, Topic, topic
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import three_daemons

__all__ = ["topic"]

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
routes:
  - name: start
    from: orders
    match: {payload.kind: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: event
    from: orders
    match: {payload.kind: event}
    raise_event: {instance_id: "order-{{ payload.id }}", name: go, on_missing: ignore}
ops: {http: {port: 0}}
"""

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("go")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def publish(directory: Path, kind: str, *ids: int) -> None:
    lines = "\n".join(json.dumps({"body": {"id": each, "kind": kind}}) for each in ids)
    bridge("publish", "orders", "--jsonl", "-", cwd=directory, text=lines)


def limits(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bridge("limits", "list", "-o", "json", cwd=directory))
    return found


def executed(daemon: DaemonProcess, route: str) -> float:
    return sum(
        count for labels, count in daemon.metrics("bridge_commands_total").items() if f'route="{route}"' in labels
    )


def end_of_limit(daemon: DaemonProcess) -> dict[str, float]:
    return daemon.metrics("bridge_route_temporary_limit_end_timestamp_seconds")


def test_running_orchestrations_are_limited_over_a_restart_and_until_the_limit_is_cleared(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, "start", 1, 2)
        daemon.wait(lambda: executed(daemon, "start") == 2, "no limit")
        said = bridge("limits", "set", "start", "--running", "3", "--for", "1h", "--reason", "slow", cwd=project)
        assert said.startswith("start is limited to 3 running until 2")
        assert said.endswith("Next: bridge limits clear start\n")
        daemon.wait(lambda: end_of_limit(daemon), "the limit in the metrics")
        publish(project, "start", *range(3, 9))
        daemon.wait(lambda: executed(daemon, "start") == 3, "one more")
        daemon.wait(lambda: sum(daemon.metrics("bridge_route_waiting").values()) == 5, "the others wait")
        assert daemon.metrics("bridge_route_running_limit") == {'{route="start"}': 3.0}
        [line] = limits(project)
        assert (line["route"], line["running"], line["rate"], line["reason"]) == ("start", 3, None, "slow")
        status = json.loads(run_bridge("status", "-o", "json", cwd=project).stdout)
        assert [(each["route"], each["running"], each["daemons"]) for each in status["limits"]] == [("start", 3, 1)]
        assert "bridge limits clear start" in run_bridge("status", cwd=project).stdout
        assert status["sources"][0]["state"] == "throttled"
        daemon.kill()
    with DaemonProcess(project, log="second.log") as daemon:
        daemon.wait(lambda: sum(daemon.metrics("bridge_route_waiting").values()) == 5, "they wait after a kill")
        assert executed(daemon, "start") == 0
        publish(project, "event", 1)
        daemon.wait(lambda: executed(daemon, "start") == 1, "an end makes room")
        assert bridge("limits", "clear", "start", cwd=project) == "the temporary limit of start has ended\n"
        daemon.wait(lambda: executed(daemon, "start") == 5, "all run")
        daemon.wait(lambda: not end_of_limit(daemon), "no limit in the metrics")
        assert limits(project) == []
        done = run_bridge("limits", "clear", "start", cwd=project)
        assert (done.returncode, done.stderr) == (
            1, "error: route start has no temporary limit. Next: bridge limits list\n",
        )  # fmt: skip
        trail = [json.loads(each) for each in bridge("audit", "--json", cwd=project).splitlines()]
        trail = [each for each in trail if each["action"].startswith("limits.")]
        assert [(each["action"], each["target"], each["result"]) for each in trail] == [
            ("limits.set", "start", "done"), ("limits.clear", "start", "done"), ("limits.clear", "start", "failed"),
        ]  # fmt: skip
        assert trail[0]["filter"] == {"running": 3, "seconds": 3600.0}


def test_a_rate_ends_by_itself_and_frees_the_commands_that_wait(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        bridge("limits", "set", "event", "--rate", "6/h", "--for", "20s", cwd=project)
        daemon.wait(lambda: end_of_limit(daemon), "the limit")
        publish(project, "event", *range(30))
        publish(project, "start", 1)
        daemon.wait(lambda: executed(daemon, "start") == 1, "other routes go on")
        daemon.wait(lambda: daemon.settled() == 2, "one event")
        # Each of the others has a token of its own, the last one for five hours later
        daemon.wait(lambda: daemon.settled() == 31, "all others, when the limit has ended")
        daemon.wait(lambda: not end_of_limit(daemon), "no limit")
        daemon.wait(lambda: limits(project) == [], "it is removed from the engine")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("strt", "--rate", "1/s", "--for", "1m"), 2, "there is no route 'strt'; did you mean 'start'?"),
        (("start", "--for", "1m"), 2, "set --running, --rate or both"),
        (("start", "--rate", "1/s"), 2, "Missing option '--for'"),
        (("start", "--running", "0", "--for", "1m"), 2, "0 is not in the range x>=1"),
        (("event", "--running", "5", "--for", "1m"), 1, "route event starts no orchestrations"),
        (("event", "--rate", "5/s", "--for", "40d"), 1, "less than or equal to 2592000"),
    ],
)
def test_mistakes(project: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    with DaemonProcess(project):
        done = run_bridge("limits", "set", *arguments, cwd=project)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
        assert limits(project) == []


THREE = """
engine: {{type: scheduler, endpoint: "{engine}"}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 60s, rebalance_timeout: 8s, create_topics: true}}
sources:
  orders: {{broker: kafka, topics: [{topic}], group: {topic}, codec: json, no_match: dead_letter}}
routes:
  - {{name: start, from: orders, schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}}}
workflows: {{external: [order]}}
ops: {{http: {{port: 0}}}}
"""
RATE = 12


@pytest.fixture
def daemons(tmp_path: Path, topic: tuple[str, Topic]) -> Iterator[tuple[DaemonProcess, ...]]:
    """Three daemons with two partitions each, and the engine behind a port."""

    def configure(engine: str) -> None:
        (tmp_path / "bridge.yaml").write_text(THREE.format(engine=engine, kafka=topic[0], topic=topic[1].name))

    with three_daemons(tmp_path, configure, PARTITIONS) as found:
        yield found


def rate(daemon: DaemonProcess) -> float:
    """Commands per second that a daemon may execute; 0 without a limit."""
    return sum(daemon.metrics("bridge_route_rate_limit").values())


@pytest.mark.timeout(300)
def test_three_daemons_share_a_rate_also_when_one_is_frozen(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, *others = daemons
    bridge("limits", "set", "start", "--rate", f"{RATE}/s", "--for", "10m", cwd=tmp_path)
    for each in daemons:
        each.wait(lambda each=each: rate(each) == RATE / 3, "a third of the rate")  # type: ignore[misc]  # mypy cannot infer it
    assert len(limits(tmp_path)[0]["daemons"]) == 3
    topic[1].publish(100 * PARTITIONS)
    began = time.monotonic()
    frozen.wait(lambda: sum(executed(each, "start") for each in daemons) > 5 * RATE, "some are executed")
    before = sum(executed(each, "start") for each in daemons)
    assert before <= RATE * (time.monotonic() - began + 1) + len(daemons)
    frozen.signal(signal.SIGSTOP)
    for each in others:
        each.wait(lambda each=each: rate(each) == RATE / 2, "half of the rate")  # type: ignore[misc]  # mypy cannot infer it
    began, before = time.monotonic(), sum(executed(each, "start") for each in others)
    others[0].wait(lambda: sum(executed(each, "start") for each in others) > before + 3 * RATE, "the others go on")
    done = sum(executed(each, "start") for each in others) - before
    assert done <= RATE * (time.monotonic() - began + 1) + len(others)
    frozen.signal(signal.SIGCONT)
    for each in daemons:
        each.wait(lambda each=each: rate(each) == RATE / 3, "a third again")  # type: ignore[misc]  # mypy cannot infer it
    others[0].stop()
    for each in (frozen, others[1]):
        each.wait(lambda each=each: rate(each) == RATE / 2, "a daemon that stops leaves its share at once")  # type: ignore[misc]  # mypy cannot infer it
    bridge("limits", "clear", "start", cwd=tmp_path)
    frozen.wait(
        lambda: sum(executed(each, "start") for each in (frozen, others[1])) > 200, "without the limit the rest is fast"
    )
    assert limits(tmp_path) == []
