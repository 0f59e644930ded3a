"""Reload of three daemons on one engine, of which one is frozen: the others answer, it reloads when it runs again."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import engine_process
from tests.kit.waiting import eventually_blocking

CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
workflows: {{external: [order]}}
brokers: {{local: {{type: local}}}}
sources:
  orders: {{broker: local, topics: [orders], codec: json, no_match: ignore}}
routes:
  - name: start
    from: orders
    when: payload.kind == 'a'
    schedule: {{orchestration: order, instance_id: "o-{{{{ payload.id }}}}"}}
ops: {{http: {{port: 0}}}}
"""


def reload_all(directory: Path, seconds: int) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of the first daemon's machine."""
    done = run_bridge("reload", "--all", "--timeout", f"{seconds}s", "-o", "json", cwd=directory)
    return done.returncode, json.loads(done.stdout)


def status(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bridge("status", "-o", "json", cwd=directory, expect=None))
    return found


@pytest.mark.timeout(300)
def test_all_but_the_frozen_one_reload(tmp_path: Path) -> None:
    """Each daemon has a directory of its own, as on a machine of its own."""
    machines = [tmp_path / f"machine-{number}" for number in range(3)]
    first, files = machines[0], [machine / "bridge.yaml" for machine in machines]
    for directory in (tmp_path / "engine", *machines):
        directory.mkdir()

    def write(old: str, new: str) -> None:
        for file in files:
            file.write_text(file.read_text().replace(old, new))

    with ExitStack() as stack:
        engine = engine_process(tmp_path)
        stack.enter_context(engine)
        for file in files:
            file.write_text(CONFIG.format(engine=engine.url))
        daemons = [stack.enter_context(DaemonProcess(machine)) for machine in machines]
        eventually_blocking(lambda: len(status(first)["daemons"][0]["peers"]) == 2, "three are registered")
        write("'a'", "'b'")
        code, answer = reload_all(first, 60)
        assert (code, len(answer["daemons"]), answer["silent"]) == (0, 3, [])
        assert {each["result"] for each in answer["daemons"]} == {"reloaded"}

        frozen = daemons[2]
        frozen.signal(signal.SIGSTOP)
        write("'b'", "'c'")
        code, answer = reload_all(first, 12)
        assert code == 3
        assert [each["result"] for each in answer["daemons"]] == ["reloaded", "reloaded"]
        assert [each["daemon"].rpartition("/")[2] for each in answer["silent"]] == [str(frozen.pid)]
        eventually_blocking(
            lambda: any("2 versions of the configuration" in each["text"] for each in status(first)["problems"]),
            "mixed versions",
        )
        frozen.signal(signal.SIGCONT)
        eventually_blocking(lambda: not status(first)["problems"], "all have the new version")

        write("payload.kind", "payload.kin d")
        code, answer = reload_all(first, 60)
        assert code == 1
        assert [each["result"] for each in answer["daemons"]] == ["refused"] * 3
        assert all("R001" in each["detail"] for each in answer["daemons"])
        for daemon in daemons:
            assert daemon.get("/readyz")[0] == 200
            daemon.stop()
