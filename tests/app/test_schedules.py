"""Starts at a time or after a delay: soon, in the past, never, and with an invalid time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from durabletask.client import OrchestrationStatus

from tests.kit.daemon import ENGINES, DaemonFixture, headers, running
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

FLOWS = """
from durabletask import task


def stamped(ctx: task.OrchestrationContext, _):
    return ctx.current_utc_datetime.isoformat() + "+00:00"
"""

CONFIG = """
sources: {orders: {broker: local, topics: [TOPIC], group: TOPIC, codec: json, no_match: dead_letter}}
routes:
  - name: at
    from: orders
    when: has(payload.at)
    schedule: {orchestration: stamped, instance_id: "PREFIX-{{ payload.id }}", start_at: "{{ payload.at }}"}
  - name: after
    from: orders
    schedule: {orchestration: stamped, instance_id: "PREFIX-{{ payload.id }}", delay: "{{ payload.after }}"}
"""

NO_TIMES = {
    "at-1": {"at": "tomorrow"},
    "at-2": {"at": "2030-01-31T08:00:00"},
    "at-3": {"at": "2030-02-31T08:00:00Z"},
    "at-4": {"at": ""},
    "at-5": {"at": 1893456000},
    "at-6": {"at": None},
    "at-7": {"at": "99999-01-01T00:00:00Z"},
    "after-1": {"after": "soon"},
    "after-2": {"after": "-5s"},
    "after-3": {"after": 5},
    "after-4": {"after": "36500d"},
    "after-5": {},
}


def config(topic: str = "orders", prefix: str = "order") -> str:
    return CONFIG.replace("TOPIC", topic).replace("PREFIX", prefix)


async def check_times(it: DaemonFixture, topic: str = "orders", prefix: str = "order") -> None:
    """Start with valid times and delays, and assert the results."""
    soon = datetime.now(UTC) + timedelta(seconds=1.0)
    in_utc, elsewhere = soon.isoformat(), soon.astimezone(tz=None).isoformat()
    await it.publish(topic, {"id": "soon", "at": in_utc}, key="a")
    await it.publish(topic, {"id": "elsewhere", "at": elsewhere}, key="b")
    await it.publish(topic, {"id": "past", "at": "2001-01-31T08:00:00+02:00"}, key="c")
    await it.publish(topic, {"id": "first", "at": "0001-01-01T00:00:00Z"}, key="d")
    await it.publish(topic, {"id": "far", "at": "9999-12-31T23:59:59Z"}, key="e")
    await it.publish(topic, {"id": "now", "after": "0s"}, key="f")
    await it.publish(topic, {"id": "later", "after": "1s"}, key="g")
    await it.publish(topic, {"id": "years", "after": "3650d"}, key="h")
    await it.settled(8)
    assert it.outcomes() == {"executed": 8}
    for name, due in (
        ("soon", soon),
        ("elsewhere", soon),
        ("later", soon),
        ("past", None),
        ("first", None),
        ("now", None),
    ):
        state = await it.client.wait_for_orchestration_completion(f"{prefix}-{name}", timeout=TIMEOUT)
        assert state.runtime_status is OrchestrationStatus.COMPLETED, name
        if due is not None:
            assert datetime.now(UTC) >= due, f"{name}: not before its time"
            assert datetime.fromisoformat(state.get_output()) >= due - timedelta(milliseconds=50), name
    for name in ("far", "years"):
        state = await it.client.get_orchestration_state(f"{prefix}-{name}")
        assert state.runtime_status is OrchestrationStatus.PENDING, name
        await it.client.terminate_orchestration(f"{prefix}-{name}")
        state = await it.client.wait_for_orchestration_completion(f"{prefix}-{name}", timeout=TIMEOUT)
        assert state.runtime_status is OrchestrationStatus.TERMINATED


async def check_no_times(it: DaemonFixture, topic: str = "orders") -> None:
    """Invalid times are dead-lettered at once, with a detail that does not contain the payload."""
    for number, fields in enumerate(NO_TIMES.values()):
        await it.publish(topic, {"id": f"bad-{number}", **fields}, key=f"k{number}")  # type: ignore[dict-item]  # wider than its annotation, on purpose
    await it.settled(len(NO_TIMES))
    assert it.outcomes() == {"dead_lettered": len(NO_TIMES)}
    for dead_letter in await it.read(f"{topic}.dlq", len(NO_TIMES)):
        found = headers(dead_letter)
        assert found["bridge.reason"] in ("invalid_command", "expression_error"), found
        assert "tomorrow" not in found["bridge.detail"]
        assert "schedule." in found["bridge.detail"], "it says where"


@pytest.mark.parametrize("engine", ENGINES)
async def test_times_and_delays(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, config(), FLOWS, engine) as it:
        await check_times(it)


async def test_what_is_no_time(tmp_path: Path) -> None:
    async with running(tmp_path, config(), FLOWS) as it:
        await check_no_times(it)


@pytest.mark.timeout(120)
def test_a_start_that_is_due_later_survives_a_crash_and_one_that_came_due_meanwhile_runs_at_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(
        "engine: {type: embedded}\nbrokers: {local: {type: local}}\nops: {http: {port: 0}}\nworkflows: [flows]\n"
        + config()
    )
    due = datetime.now(UTC) + timedelta(seconds=6)
    for name, fields in (("meanwhile", {"after": "1s"}), ("later", {"at": due.isoformat()})):
        bridge("publish", "orders", "--data", json.dumps({"id": name, **fields}), "--key", name, cwd=tmp_path)
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait(lambda: daemon.settled() == 2, "taken")
        daemon.kill()
    with DaemonProcess(tmp_path):
        for name in ("meanwhile", "later"):
            bridge("instances", "wait", f"order-{name}", cwd=tmp_path)
        assert datetime.now(UTC) >= due
