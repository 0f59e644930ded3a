"""Dead letters dropped and restored beside three daemons in one group, of which one is frozen and one is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_status import PARTITIONS, Topic, daemons, topic
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

__all__ = ["daemons", "topic"]

COUNT = 30 * PARTITIONS


def states(directory: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in json.loads(bridge("dlq", "list", "--state", "all", "--limit", "0", "--json", cwd=directory)):
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found


def change(directory: Path, action: str, *arguments: str) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = json.loads(
        bridge("dlq", action, *arguments, "--reason", "test", "--yes", "--json", cwd=directory)
    )
    return jobs


def is_open(daemon: DaemonProcess, count: int) -> bool:
    return sum(daemon.metrics("bridge_dead_letters_open").values()) == count


@pytest.mark.timeout(300)
def test_states_are_the_same_for_all_daemons(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, killed, lives = daemons
    topic[1].publish(COUNT)
    for each in daemons:
        each.wait(lambda each=each: is_open(each, COUNT), "open dead letters")  # type: ignore[misc]  # mypy cannot infer it
    [job] = change(tmp_path, "drop", "--all", "--limit", str(COUNT // 2), "--rate", "20")
    assert job["count"] == COUNT // 2
    eventually_blocking(lambda: states(tmp_path).get("dropped", 0) > 5)
    frozen.signal(signal.SIGSTOP)
    killed.kill()
    topic[1].publish(PARTITIONS)  # newcomers are not touched
    eventually_blocking(lambda: states(tmp_path).get("dropped", 0) == COUNT // 2, within=180)
    frozen.signal(signal.SIGCONT)
    lives.wait(lambda: states(tmp_path).get("open", 0) >= COUNT // 2 + PARTITIONS, "newcomers")
    assert states(tmp_path)["dropped"] == COUNT // 2
    for each in (frozen, lives):
        # A daemon that wakes up may dead-letter once more what it had in flight
        each.wait(lambda each=each: is_open(each, states(tmp_path)["open"]), "the same count")  # type: ignore[misc]  # mypy cannot infer it
    change(tmp_path, "restore", "--all")
    lives.wait(lambda: states(tmp_path).keys() == {"open"}, "all open again")
    assert run_bridge("dlq", "restore", "--all", "--yes", cwd=tmp_path).returncode == 1
