"""`bridge shadow` over three daemons in one group: one report, also while one is frozen."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_status import PARTITIONS, Topic, daemons, topic
from tests.kit.forkserver import fork_server
from tests.kit.processes import DaemonProcess, bridge, run_bridge

__all__ = ["daemons", "topic"]


def report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_bridge("shadow", "--report", "-o", "json", cwd=directory).stdout)
    return found


@pytest.mark.timeout(240)
def test_one_report_of_three_daemons_of_which_one_is_frozen(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    present = (tmp_path / "bridge.yaml").read_text()
    (tmp_path / "new.yaml").write_text(present.replace("no_match: dead_letter", "no_match: ignore"))
    frozen, other, _ = daemons
    bridge("shadow", "--config", "new.yaml", "--for", "1s", cwd=tmp_path, expect=1)
    command = ("shadow", "--config", "new.yaml", "--for", "10m", "-o", "json")
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = fork_server().start(list(command), tmp_path, stdout=out, stderr=err)
    other.wait(lambda: report(tmp_path)["running"], "the shadows")
    topic[1].publish(4 * PARTITIONS)
    other.wait(lambda: report(tmp_path)["messages"] == 4 * PARTITIONS, "the messages of all")
    found = report(tmp_path)
    assert (len(found["daemons"]), found["silent"], found["different"]) == (3, [], 4 * PARTITIONS)
    assert [(group["count"], group["condition"]["member"]) for group in found["groups"]] == [
        (4 * PARTITIONS, "no_match")
    ]
    frozen.signal(signal.SIGSTOP)
    done = run_bridge("shadow", "--stop", cwd=tmp_path)
    assert "partial: 1 daemon did not answer" in done.stdout
    assert done.returncode == 1
    frozen.signal(signal.SIGCONT)
    other.wait(lambda: report(tmp_path)["silent"] == [], "the frozen one is back")
    bridge("shadow", "--stop", cwd=tmp_path, expect=1)
    assert process.wait(60) == 1
