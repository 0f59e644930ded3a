"""`bridge dlq replay` and `bridge dlq edit` with a running daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_dlq import CONFIG, FIXED, FLOWS, publish, read
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Project with seven dead letters of four causes. No daemon runs."""
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    with DaemonProcess(tmp_path) as daemon:
        for number in range(3):
            publish(tmp_path, "created", {"id": number})
        publish(tmp_path, "created", {"id": 7, "total": "S3CRET"})
        publish(tmp_path, "paid", {"id": 0})
        publish(tmp_path, "paid", {"id": 1})
        publish(tmp_path, "unknown", {"id": 9})
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) == 7, "dead letters")
        daemon.stop()
    return tmp_path


@pytest.fixture
def fixed(broken: Path) -> Iterator[Path]:
    """The same project with a daemon whose rules are fixed."""
    (broken / "bridge.yaml").write_text(FIXED)
    with DaemonProcess(broken):
        yield broken


def states(place: Path) -> dict[str, str]:
    return {each["id"]: each["state"] for each in read(place, "list", "--state", "all", "--limit", "0")}


def ids(place: Path) -> list[str]:
    return sorted(
        each["instance_id"]
        for each in json.loads(bridge("instances", "list", "--json", cwd=place))
        if not each["instance_id"].startswith("bridge:")
    )


def audit(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bridge("audit", "--json", cwd=place).splitlines()]


def test_a_cause_is_replayed_into_the_running_daemon(fixed: Path) -> None:
    [group, *_] = read(fixed, "groups")
    assert (group["reason"], group["count"]) == ("expression_error", 3)
    table = bridge("dlq", "replay", "--cause", group["group"], "--dry-run", cwd=fixed)
    assert "start order" in table
    assert ids(fixed) == []
    out = bridge("dlq", "replay", "--cause", group["group"], "--yes", "--reason", "rule fixed", cwd=fixed)
    assert "replays 3 dead letters. Next: bridge jobs watch " in out
    eventually_blocking(lambda: list(states(fixed).values()).count("replayed") == 3)
    assert ids(fixed) == ["order-0", "order-1", "order-2"]
    assert list(states(fixed).values()).count("open") == 4
    [job] = json.loads(bridge("jobs", "list", "-o", "json", cwd=fixed))
    assert f"; replayed by job {job['job']}\n" in bridge("trace", group["example"], cwd=fixed)
    again = run_bridge("dlq", "replay", "--cause", group["group"], "--yes", cwd=fixed)
    assert (again.returncode, again.stderr.splitlines()[0]) == (
        1,
        "error: no open dead letter is selected. Next: bridge dlq groups",
    )
    line, refused = [each for each in audit(fixed) if each["action"] == "dlq.replay"]
    assert (refused["result"], refused["error"]) == ("failed", "instance_not_found")
    selected = {"causes": [group["group"]], "jobs": [job["job"]]}
    assert (line["reason"], line["filter"], line["result"]) == ("rule fixed", selected, "done")


def test_ids_are_read_from_a_pipe_and_the_count_is_confirmed(fixed: Path) -> None:
    [group, *_] = read(fixed, "groups")
    listed = [each["id"] for each in read(fixed, "list", "--cause", group["group"])]
    text = "\n".join(listed[:2])
    refused = run_bridge("dlq", "replay", "--id", "-", cwd=fixed, text=text)
    assert refused.returncode == 130, "standard input has no answer"
    assert set(states(fixed).values()) == {"open"}
    job = json.loads(bridge("dlq", "replay", "--id", "-", "--yes", "--json", cwd=fixed, text=text))
    assert [(each["count"], each["engine"], each["broker"]) for each in job] == [(2, "default", "local")]
    eventually_blocking(lambda: {id_ for id_, state in states(fixed).items() if state == "replayed"} == set(listed[:2]))


@pytest.mark.parametrize("arguments", [(), ("--limit", "3"), ("--dry-run",), ("--reason", "x")])
def test_an_empty_filter_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    done = run_bridge("dlq", "replay", "--yes", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "no filter is given; name sources, --cause" in done.stderr


@pytest.mark.parametrize("ramp", ["0", "1,,2", "a", "-1"])
def test_a_wrong_ramp_is_refused(tmp_path: Path, ramp: str) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    assert run_bridge("dlq", "replay", "--all", "--ramp", ramp, cwd=tmp_path).returncode == 2


def test_all_with_a_limit(fixed: Path) -> None:
    [job] = json.loads(bridge("dlq", "replay", "--all", "--limit", "2", "--yes", "--json", cwd=fixed))
    assert job["count"] == 2
    eventually_blocking(lambda: sum(state in ("replayed", "returned") for state in states(fixed).values()) == 2)


def test_a_ramp_stops_at_the_first_failure(broken: Path) -> None:
    with DaemonProcess(broken):
        [job] = json.loads(bridge("dlq", "replay", "orders", "--ramp", "1,10", "--yes", "--json", cwd=broken))
        assert job["count"] == 7
        eventually_blocking(lambda: sorted(states(broken).values()) == ["open"] * 7 + ["returned"])


def test_nothing_is_submitted_without_a_daemon(broken: Path) -> None:
    done = run_bridge("dlq", "replay", "--all", "--yes", cwd=broken)
    assert done.returncode == 3
    assert set(states(broken).values()) == {"open"}


def test_a_member_is_set_and_the_message_is_replayed(broken: Path) -> None:
    with DaemonProcess(broken):
        [wrong] = [
            each
            for each in read(broken, "list", "--route", "start")
            if each["detail"] != read(broken, "groups")[0]["detail"]
        ]
        fails = run_bridge("dlq", "edit", wrong["id"], "--set", "payload.total=x", "--yes", cwd=broken)
        assert fails.returncode == 1
        assert "would: still fails: expression_error" in fails.stderr
        assert "S3CRET" not in fails.stderr + fails.stdout
        dry = run_bridge("dlq", "edit", wrong["id"], "--set", "payload.total=12.5", "--dry-run", cwd=broken)
        assert (dry.returncode, dry.stderr.strip()) == (0, "would: start order")
        assert set(states(broken).values()) == {"open"}
        out = bridge("dlq", "edit", wrong["id"], "--set", "payload.total=12.5", "--yes", cwd=broken)
        assert f"replays {wrong['id']}. Next: bridge jobs watch " in out
        eventually_blocking(lambda: states(broken)[wrong["id"]] == "replayed")
        assert ids(broken) == ["order-7"]
        gone = run_bridge("dlq", "edit", wrong["id"], "--set", "payload.total=1", cwd=broken)
        assert gone.returncode == 1
        assert "there is no open dead letter" in gone.stderr


def test_an_edited_message_that_fails_again_names_its_dead_letter(broken: Path) -> None:
    with DaemonProcess(broken):
        [unrouted] = read(broken, "list", "--cause", "no_route")
        out = bridge("dlq", "edit", unrouted["id"], "--set", "payload.id=10", "--force", "--yes", cwd=broken)
        assert "replays" in out
        eventually_blocking(
            lambda: (
                len(read(broken, "list", "--cause", "no_route")) == 1 and states(broken)[unrouted["id"]] == "returned"
            )
        )
        [again] = read(broken, "list", "--cause", "no_route")
        [shown] = read(broken, "show", again["id"], "--payload")
        assert shown["headers"]["bridge.edited-from"] == unrouted["id"]
        assert shown["headers"]["bridge.replays"] == "1"
        assert json.loads(shown["body"]) == {"id": 10}
        assert shown["message_id"] == unrouted["message_id"]


def test_an_editor_opens_the_payload(broken: Path) -> None:
    editor = broken / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i \'s/S3CRET/12/; s/"12"/12/\' "$1"\n')
    editor.chmod(0o755)
    with DaemonProcess(broken):
        [wrong] = [
            each
            for each in read(broken, "list", "--route", "start")
            if json.loads(read(broken, "show", each["id"], "--payload")[0]["body"]).get("total")
        ]
        done = run_bridge("dlq", "edit", wrong["id"], "--yes", cwd=broken, env=os.environ | {"VISUAL": str(editor)})
        assert done.returncode == 0, done.stderr
        eventually_blocking(lambda: states(broken)[wrong["id"]] == "replayed")
        [other] = read(broken, "list", "--cause", "no_route")
        idle = run_bridge("dlq", "edit", other["id"], cwd=broken, env=os.environ | {"VISUAL": "true"})
        assert (idle.returncode, idle.stderr.strip()) == (1, "nothing was changed; nothing is replayed")


def test_patches_of_both_kinds(fixed: Path) -> None:
    listed = read(fixed, "list", "--route", "start")
    (fixed / "merge.json").write_text('{"total": 3}')
    (fixed / "ops.json").write_text('[{"op": "add", "path": "/total", "value": 4}]')
    for each, patch in zip(listed, ("merge.json", "ops.json"), strict=False):
        bridge("dlq", "edit", each["id"], "--patch", patch, "--yes", cwd=fixed)
    eventually_blocking(lambda: list(states(fixed).values()).count("replayed") == 2)


def test_a_schema_is_checked_before_the_replay(broken: Path) -> None:
    (broken / "bridge.yaml").write_text(
        CONFIG.replace("codec: json, no_match", "codec: json, schema: schema.json, no_match")
    )
    with DaemonProcess(broken):
        [unrouted] = read(broken, "list", "--cause", "no_route")
        done = run_bridge("dlq", "edit", unrouted["id"], "--set", 'payload.total="no number"', "--yes", cwd=broken)
        assert done.returncode == 1
        assert "schema_error" in done.stderr
        assert states(broken)[unrouted["id"]] == "open"
