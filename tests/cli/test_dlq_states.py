"""States of dead letters: drop, restore, and every view of them, beside daemons and without."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources:
  orders:
    {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"},
     dead_letter: failed}
  bills:
    {broker: local, topics: [bills], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"},
     dead_letter: failed}
routes:
  - name: start
    from: [orders, bills]
    match: {type: created}
    when: payload.total > 0.0
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
ops: {http: {port: 0}, dead_letters: {interval: 1s}}
"""

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    return None
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


@pytest.fixture
def place(project: Path) -> Iterator[Path]:
    """Project with a running daemon and six dead letters of two sources and three causes, in one topic."""
    with DaemonProcess(project) as daemon:
        fill(project)
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) == 6, "dead letters")
        yield project


def fill(project: Path) -> None:
    for number in range(3):
        publish(project, "orders", "created", {"id": number})
    publish(project, "orders", "unknown", {"id": 9})
    for number in range(2):
        publish(project, "bills", "unknown", {"id": number})


def publish(place: Path, topic: str, kind: str, payload: dict[str, Any]) -> None:
    bridge("publish", topic, "--header", f"type={kind}", "--data", json.dumps(payload), cwd=place)


def read(place: Path, *arguments: str, expect: int = 0) -> Any:
    return json.loads(bridge("dlq", *arguments, "--json", cwd=place, expect=expect))


def states(place: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in read(place, "list", "--state", "all"):
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found


def drop(place: Path, *arguments: str, action: str = "drop") -> list[dict[str, Any]]:
    given = ("--reason", "a test") if action == "drop" else ()
    jobs: list[dict[str, Any]] = json.loads(bridge("dlq", action, *arguments, *given, "--yes", "--json", cwd=place))
    return jobs


def test_a_dropped_cause_is_not_open_until_it_is_restored(place: Path) -> None:
    groups = read(place, "groups")
    assert [(each["count"], each["reason"]) for each in groups] == [
        (3, "expression_error"), (2, "no_route"), (1, "no_route"),
    ]  # fmt: skip
    counted = bridge("dlq", "drop", "--cause", groups[0]["group"], "--reason", "x", "--dry-run", cwd=place)
    assert counted == "would drop 3 dead letters\n"
    assert states(place) == {"open": 6}
    [job] = drop(place, "--cause", groups[0]["group"])
    assert job["count"] == 3
    eventually_blocking(lambda: states(place) == {"dropped": 3, "open": 3})
    assert {each["reason"] for each in read(place, "groups")} == {"no_route"}
    [dropped] = read(place, "groups", "--state", "dropped")
    assert (dropped["group"], dropped["count"]) == (groups[0]["group"], 3)
    assert len(read(place, "list", "--state", "dropped", "--state", "open")) == 6
    [shown] = read(place, "show", dropped["example"])
    assert (shown["state"], shown["state_job"], shown["state_reason"]) == ("dropped", job["job"], "a test")
    assert shown["state_by"]
    assert len(bridge("dlq", "export", "--state", "dropped", cwd=place).splitlines()) == 3
    assert read(place, "check", "--offline", expect=1)["total"] == 6
    assert read(place, "check", expect=1)["total"] == 3
    [again] = drop(place, "--cause", groups[0]["group"], action="restore")
    assert again["count"] == 3
    eventually_blocking(lambda: states(place) == {"open": 6})
    assert read(place, "groups") == groups


def test_a_shared_topic_is_told_apart_by_the_source(place: Path) -> None:
    drop(place, "bills")
    eventually_blocking(lambda: states(place) == {"dropped": 2, "open": 4})
    assert {each["source"] for each in read(place, "list")} == {"orders"}
    assert read(place, "list", "bills") == []
    assert "there are no open dead letters" in run_bridge("dlq", "groups", "bills", cwd=place).stderr
    ids = [each["id"] for each in read(place, "list", "orders", "--cause", "no_route")]
    drop(place, "--id", ids[0])
    eventually_blocking(lambda: states(place) == {"dropped": 3, "open": 3})


def test_ids_come_from_a_pipe(place: Path) -> None:
    ids = [each["id"] for each in read(place, "list", "bills")]
    given = ("--reason", "r", "--yes", "--id", "-")
    bridge("dlq", "drop", *given, cwd=place, text="\n".join(ids))
    eventually_blocking(lambda: states(place) == {"dropped": 2, "open": 4})


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("drop", "--reason", "r", "--yes"), 2, "no filter is given"),
        (("drop", "--all", "--yes"), 2, "Missing option '--reason'"),
        (("drop", "--all", "--yes", "--reason", " "), 2, "is empty"),
        (("drop", "--cause", "none", "--yes", "--reason", "r"), 1, "no dead letter that is open is selected"),
        (("drop", "--cause", "none", "--dry-run", "--reason", "r"), 1, "no dead letter that is open is selected"),
        (("restore", "--yes"), 2, "no filter is given"),
        (("restore", "--all", "--yes"), 1, "no dead letter that is dropped is selected"),
        (("drop", "order", "--yes", "--reason", "r"), 2, "did you mean 'orders'"),
        (("restore", "--all", "--state", "open", "--yes"), 2, "'open' is not one of"),
    ],
)
def test_a_selection_must_be_meant(place: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = run_bridge("dlq", *arguments, cwd=place)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert states(place) == {"open": 6}


def test_nothing_changes_without_a_yes(place: Path) -> None:
    assert run_bridge("dlq", "drop", "--all", "--reason", "r", cwd=place, text="n\n").returncode == 1
    assert states(place) == {"open": 6}


def test_states_are_seen_without_a_daemon_and_after_a_kill(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        fill(project)
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) == 6, "dead letters")
        drop(project, "--cause", "no_route")
        eventually_blocking(lambda: states(project) == {"dropped": 3, "open": 3})
        daemon.kill()
    assert states(project) == {"dropped": 3, "open": 3}
    assert [each["count"] for each in read(project, "groups")] == [3]
    assert sum(each["count"] for each in read(project, "groups", "--offline")) == 6
    assert {each["state"] for each in read(project, "list", "--offline")} == {None}
    refused = run_bridge("dlq", "drop", "--all", "--reason", "r", "--yes", cwd=project)
    assert (refused.returncode, "start `bridge serve`" in refused.stderr) == (3, True), refused.stderr


def test_a_job_goes_on_after_a_kill(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        for start in range(0, 500, 100):
            lines = [json.dumps({"body": {"id": start + n}, "headers": {"type": "unknown"}}) for n in range(100)]
            (project / "lines").write_text("\n".join(lines))
            bridge("publish", "local/bills", "--jsonl", "lines", cwd=project)
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) >= 100, "dead letters")
        bridge("sources", "resume", "bills", cwd=project, expect=None)
        eventually_blocking(lambda: sum(each["count"] for each in read(project, "groups")) >= 100)
        [job] = drop(project, "--all", "--rate", "50")
        eventually_blocking(lambda: states_of(project, 0).get("dropped", 0) > 5)
        daemon.kill()
    with DaemonProcess(project):
        eventually_blocking(lambda: states_of(project, 0).get("dropped", 0) == job["count"])


def states_of(project: Path, limit: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in read(project, "list", "--state", "all", "--limit", str(limit)):
        found[each["state"]] = found.get(each["state"], 0) + 1
    return found


def test_an_engine_that_is_away_needs_offline(project: Path) -> None:
    away = '{type: scheduler, endpoint: "http://127.0.0.1:9", timeout: 1s}'
    (project / "bridge.yaml").write_text(CONFIG.replace("{type: embedded}", away))
    bridge("publish", "local/failed", "--data", "1", cwd=project)
    for command in (("groups",), ("list",), ("export",), ("show", "failed/0@0")):
        refused = run_bridge("dlq", *command, cwd=project)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "`--offline` shows dead letters without their states" in refused.stderr
        assert bridge("dlq", *command, "--offline", cwd=project, expect=None) is not None
    assert sum(each["count"] for each in read(project, "groups", "--offline")) == 1


def test_what_is_gone_is_named(project: Path) -> None:
    (project / "bridge.yaml").write_text(CONFIG.replace("{type: local}", "{type: local, partitions: 1}"))
    with DaemonProcess(project) as daemon:
        fill(project)
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) == 6, "dead letters")
        drop(project, "--all")
        eventually_blocking(lambda: states(project) == {"dropped": 6})
        daemon.kill()
    expire(project, 4)
    gone = run_bridge("dlq", "groups", "--state", "all", cwd=project)
    assert "4 dead letters of failed with a state are gone: their retention has ended" in gone.stderr
    assert states(project) == {"dropped": 2}
    shown = run_bridge("dlq", "show", "failed/0@3", cwd=project)
    assert (shown.returncode, shown.stderr) == (
        1, "failed/0@3 is gone: its retention has ended; it was dropped\n",
    )  # fmt: skip
    assert (
        "is gone: its retention has ended" in run_bridge("dlq", "show", "failed/0@3", "--offline", cwd=project).stderr
    )
    assert "there is no dead letter" in run_bridge("dlq", "show", "failed/0@6", cwd=project).stderr
    with DaemonProcess(project) as daemon:
        # The daemon removes the states, and the file of the engine has them no more
        eventually_blocking(lambda: "are gone" not in run_bridge("dlq", "groups", cwd=project).stderr)
        assert states(project) == {"dropped": 2}


def expire(project: Path, count: int) -> None:
    """Delete the oldest dead letters, as the retention of the local broker does."""
    [file] = (project / ".bridge").rglob("log.db")
    connection = sqlite3.connect(file, isolation_level=None)
    [[partition]] = connection.execute(
        "SELECT partitions.id FROM partitions JOIN topics ON topic = topics.id WHERE name = 'failed'"
    )
    connection.execute("DELETE FROM records WHERE id >= ? AND id < ?", (partition << 40, (partition << 40) + count))
    connection.close()


def test_metrics_and_status_follow_the_states(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        fill(project)

        def open_() -> dict[str, float]:
            return daemon.metrics("bridge_dead_letters_open")

        daemon.wait(lambda: sum(open_().values()) == 6, "open dead letters")
        assert sum(value for labels, value in open_().items() if "bills" in labels) == 2
        status = json.loads(bridge("status", "-o", "json", cwd=project, expect=1))
        lines = {each["next"]: each["text"] for each in status["problems"]}
        assert lines["bridge dlq groups orders"].startswith("4 dead letters are open")
        assert lines["bridge dlq groups bills"].startswith("2 dead letters are open")
        drop(project, "--all")
        daemon.wait(lambda: sum(open_().values()) == 0, "no open dead letters")
        assert set(daemon.metrics("bridge_dead_letter_oldest_seconds").values()) == {0.0}
        eventually_blocking(lambda: run_bridge("status", cwd=project).returncode == 0)


def test_an_audit_line_names_the_filter(place: Path) -> None:
    drop(place, "bills", "--cause", "no_route", "--since", "2000-01-31T08:00:00Z")
    [line] = [
        json.loads(each)
        for each in bridge("audit", "--action", "dlq", "--json", cwd=place).splitlines()
    ]  # fmt: skip
    assert (line["action"], line["result"], line["reason"]) == ("dlq.drop", "done", "a test")
    assert line["filter"]["sources"] == ["bills"]
    assert line["filter"]["causes"] == ["no_route"]
    assert line["filter"]["since"] == "2000-01-31T08:00:00Z"
    [job] = json.loads(bridge("jobs", "list", "-o", "json", cwd=place))
    assert line["filter"]["jobs"] == [job["job"]]
    assert job["selection"] == "source bills, cause no_route, since 2000-01-31T08:00:00Z"
