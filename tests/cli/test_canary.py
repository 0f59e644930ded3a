"""Candidate for the rules in real daemons: choice by key, versions of instances, fallback, control by a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.core.canary import selected
from tests.kit.processes import DaemonProcess, bridge, run_bridge

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded, path: engine.db}
workflows: {external: [old_flow, new_flow]}
brokers: {local: {type: local, path: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
routes:
  - name: start
    from: orders
    when: has(payload.total)
    schedule: {orchestration: old_flow, instance_id: "order-{{ payload.id }}", input: payload}
  - name: event
    from: orders
    raise_event: {instance_id: "order-{{ payload.order }}", name: old_event, data: payload, on_missing: dead_letter}
ops: {http: {port: 0}}
"""
KEYS = [f"key-{number}" for number in range(60)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    (tmp_path / "bridge.yaml").write_text(CONFIG + "rules: {candidate: new/, share: 50%}\n")
    (tmp_path / "new" / "bridge.yaml").write_text(
        CONFIG.replace("old_flow,", "new_flow,").replace("old_event", "new_event")
    )
    return tmp_path


def publish(project: Path, *bodies: tuple[str, dict[str, Any]]) -> None:
    lines = [json.dumps({"topic": "orders", "key": key, "body": body}) for key, body in bodies]
    bridge("publish", "local/", "--jsonl", "-", cwd=project, text="\n".join(lines))


def status(project: Path) -> dict[str, Any]:
    [found] = json.loads(run_bridge("canary", "status", "-o", "json", cwd=project).stdout)
    return dict(found)


def flows(project: Path, member: str = "name") -> dict[str, str]:
    listed = json.loads(bridge("instances", "list", "--limit", "1000", "-o", "json", cwd=project))
    return {each["instance_id"]: each[member] for each in listed}


def with_code(project: Path, code: str) -> None:
    (project / "own_flows.py").write_text(code)
    for file in (project / "bridge.yaml", project / "new" / "bridge.yaml"):
        external = "workflows: {external: [old_flow, new_flow]}"
        file.write_text(file.read_text().replace(external, "workflows: [own_flows]"))


def is_active(daemon: DaemonProcess) -> bool:
    return "decides about 50%" in daemon.log.read_text()


def test_keys_versions_and_events(project: Path) -> None:
    with_code(
        project,
        "def old_flow(ctx, _):\n    return (yield ctx.wait_for_external_event('old_event'))\n\n\n"
        "def new_flow(ctx, _):\n    return (yield ctx.wait_for_external_event('new_event'))\n",
    )
    with DaemonProcess(project) as daemon:
        daemon.wait(lambda: is_active(daemon), "the record of the candidate")
        version = status(project)["candidate"]
        publish(project, *((key, {"id": key, "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == len(KEYS), "the starts")
        of_candidate = {key for key in KEYS if selected(key, version, 0.5)}
        assert 10 < len(of_candidate) < 50
        found = flows(project)
        assert {id_ for id_, name in found.items() if name == "new_flow"} == {f"order-{key}" for key in of_candidate}
        # Each event has a key of its own, and follows the version of its instance
        publish(project, *((f"event-of-{key}", {"id": "e", "order": key}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == 2 * len(KEYS), "the events")
        daemon.wait(lambda: "RUNNING" not in flows(project, "status").values(), "the ends")
        assert set(flows(project, "status").values()) == {"COMPLETED"}
        tag = f"bridge.rules={version}"
        tagged = json.loads(bridge("instances", "list", "--tag", tag, "--limit", "100", "-o", "json", cwd=project))
        assert {each["instance_id"] for each in tagged} == {f"order-{key}" for key in of_candidate}
        daemon.wait(lambda: status(project)["messages"] == 2 * len(of_candidate), "the counts")
        assert daemon.metrics("bridge_canary_messages_total") == {
            f'{{candidate="{version}",result="executed"}}': 2 * len(of_candidate)
        }


def test_a_person_ends_it_and_tries_it_again(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        daemon.wait(lambda: is_active(daemon), "the record of the candidate")
        assert daemon.get(f"/api/v1/canary/{status(project)['candidate']}")[0] == 200
        code, answer = daemon.get("/api/v1/canary/0123456789ab")
        assert (code, "there is no candidate 0123456789ab" in answer) == (404, True)
        assert "Next: bridge canary resume" in bridge("canary", "abort", "--reason", "wrong ids", cwd=project)
        daemon.wait(lambda: "was ended by" in daemon.log.read_text(), "the fallback")
        done = run_bridge("canary", "status", cwd=project)
        assert (done.returncode, "wrong ids" in done.stdout) == (1, True)
        elsewhere = run_bridge("canary", "status", "--url", daemon.url, cwd=project)
        assert (elsewhere.returncode, elsewhere.stdout) == (1, done.stdout)
        refused = run_bridge("canary", "resume", "--url", daemon.url, cwd=project)
        assert (refused.returncode, "needs the role operator" in refused.stderr) == (1, True)
        assert daemon.get("/readyz")[0] == 200
        assert "the present rules decide again instead of candidate" in run_bridge("status", cwd=project).stdout
        publish(project, *((key, {"id": key, "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == len(KEYS), "the starts")
        assert set(flows(project).values()) == {"old_flow"}
        daemon.stop()
    with DaemonProcess(project, log="second.log") as daemon:
        daemon.wait(lambda: "was ended by" in daemon.log.read_text(), "the same after a restart")
        bridge("canary", "resume", cwd=project)
        daemon.wait(lambda: is_active(daemon), "the candidate again")
        publish(project, *((key, {"id": f"again-{key}", "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == len(KEYS), "the starts")
        assert set(flows(project).values()) == {"old_flow", "new_flow"}


def test_dead_letters_end_it(project: Path) -> None:
    broken = (project / "new" / "bridge.yaml").read_text().replace("order-{{ payload.id }}", "order-{{ payload.no }}")
    (project / "new" / "bridge.yaml").write_text(broken)
    with DaemonProcess(project) as daemon:
        daemon.wait(lambda: is_active(daemon), "the record of the candidate")
        version = status(project)["candidate"]
        chosen = [f"k{number}" for number in range(200) if selected(f"k{number}", version, 0.5)]
        publish(project, *((key, {"id": key, "total": 1}) for key in chosen[:49]))
        daemon.wait(lambda: status(project)["messages"] == 49, "the counts")
        assert status(project)["fallback"] is None, "fewer than 50 messages"
        publish(project, *((key, {"id": key, "total": 1}) for key in chosen[49:60]))
        daemon.wait(lambda: status(project)["fallback"] is not None, "the fallback")
        fallback = status(project)["fallback"]
        assert (fallback["by"], datetime.fromisoformat(fallback["at"]).tzinfo) == ("bridge", UTC)
        daemon.wait(lambda: "was ended by bridge" in daemon.log.read_text(), "the daemon applies it")
        settled = daemon.settled()
        publish(project, *((key, {"id": f"later-{key}", "total": 1}) for key in chosen))
        daemon.wait(lambda: daemon.settled() == settled + len(chosen), "the present rules")
        assert sum(id_.startswith("order-later") for id_ in flows(project)) == len(chosen)


def test_failed_instances_end_it(project: Path) -> None:
    with_code(
        project,
        "def old_flow(ctx, _):\n    yield from ()\n\n\n"
        "def new_flow(ctx, _):\n    yield from ()\n    raise ValueError('broken')\n",
    )
    with DaemonProcess(project) as daemon:
        daemon.wait(lambda: is_active(daemon), "the record of the candidate")
        publish(project, *((f"k{number}", {"id": f"{number}", "total": 1}) for number in range(200)))
        daemon.wait(lambda: status(project)["fallback"] is not None, "the fallback")
        assert status(project)["failed_instances"] > 2
        assert "failed instances of" in status(project)["fallback"]["reason"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("no_match: dead_letter}", "no_match: dead_letter, ordering: partition}"), "new/bridge.yaml:6"),
        (("routes:", "routes:\n  - {name: x, from: orders, engine: other, ignore: {}}"), "engine"),
        (("when: has(payload.total)", "when: has(payload.total) &&"), "the expression ends too early"),
        (("when: has(payload.total)", "limits: {running: 5}"), "a candidate has the limits of the configuration"),
        (("orders", "invoices"), "a candidate uses the sources of the configuration (orders"),
    ],
)
def test_a_candidate_that_does_not_fit(project: Path, change: tuple[str, str], text: str) -> None:
    file = project / "new" / "bridge.yaml"
    file.write_text(file.read_text().replace(*change))
    done = run_bridge("check", cwd=project)
    assert (done.returncode, text in done.stdout + done.stderr) == (1, True), done.stdout + done.stderr
    assert run_bridge("serve", cwd=project).returncode == 3


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ("{share: 5%}", "there is no `candidate` that `share` would apply to"),
        ("{fallback: {after: 60}}", "there is no `candidate` that `fallback` would apply to"),
        ("{candidate: new/, share: 0%}", "the candidate decides about no message"),
        ("{candidate: bridge.yaml}", "the candidate decides as this configuration does"),
        ("{candidate: same.yaml}", "the candidate decides as this configuration does"),
        (
            "{candidate: more.yaml}",
            "the configuration has no source returns, so the candidate decides nothing about it",
        ),
    ],
)
def test_rules_without_effect(project: Path, rules: str, text: str) -> None:
    (project / "bridge.yaml").write_text(f"{CONFIG}rules: {rules}\n")
    (project / "same.yaml").write_text(CONFIG.replace("topics: [orders]", "topics: [others]"))
    returns = "  returns: {broker: local, topics: [returns], codec: json, no_match: ignore}\nroutes:"
    (project / "more.yaml").write_text(
        CONFIG.replace("routes:", returns).replace("has(payload.total)", "payload.total > 0")
        + "  - {name: back, from: returns, ignore: {}}\n"
    )
    text_of = (project / "more.yaml").read_text()
    head, _, back = text_of.partition("ops: {http: {port: 0}}\n")
    (project / "more.yaml").write_text(head + back + "ops: {http: {port: 0}}\n")
    done = run_bridge("check", cwd=project)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if "C020" in line and text in line], done.stdout
    assert done.stdout.count("C020") == 1, done.stdout


def test_a_reload_keeps_changes_removes_and_adds_the_candidate(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        daemon.wait(lambda: is_active(daemon), "the record of the candidate")
        file = project / "bridge.yaml"
        file.write_text(file.read_text().replace("orchestration: old_flow", "orchestration: new_flow, tags: {t: '1'}"))
        bridge("reload", cwd=project)
        publish(project, *((key, {"id": key, "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == len(KEYS), "the starts")
        version = status(project)["candidate"]
        for tag, of_candidate in ((f"bridge.rules={version}", True), ("t=1", False)):
            listed = json.loads(bridge("instances", "list", "--tag", tag, "--limit", "100", "-o", "json", cwd=project))
            assert {each["instance_id"].removeprefix("order-") for each in listed} == {
                key for key in KEYS if selected(key, version, 0.5) is of_candidate
            }
        other = project / "new" / "bridge.yaml"
        candidate = other.read_text()
        other.write_text(candidate.replace("has(payload.total)", "has(payload.total) &&"))
        done = run_bridge("reload", cwd=project)
        assert (done.returncode, "the expression ends too early" in done.stderr) == (1, True), done.stderr
        assert status(project)["candidate"] == version

        other.write_text(candidate.replace("order-{{", "second-{{"))
        assert "rules.candidate: changed" in bridge("reload", "--dry-run", cwd=project)
        [answer] = json.loads(bridge("reload", "-o", "json", cwd=project))["daemons"]
        assert (answer["settings"], answer["restart"]) == (["rules.candidate"], [])
        assert {each["change"] for each in answer["sources"]} == {"unchanged"}
        second = status(project)["candidate"]
        assert second != version
        daemon.wait(lambda: f"candidate {second} decides about 50%" in daemon.log.read_text(), "the new candidate")
        publish(project, *((key, {"id": f"more-{key}", "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == 2 * len(KEYS), "the starts")
        expected = {key for key in KEYS if selected(key, second, 0.5)}
        found = {id_.removeprefix("second-more-") for id_ in flows(project) if id_.startswith("second-")}
        assert found == expected
        daemon.wait(lambda: status(project)["messages"] == len(expected), "the counts begin again")
        assert {label.partition('"')[2][:12] for label in daemon.metrics("bridge_canary_messages_total")} == {second}

        # An event follows the candidate that has started its instance; those of the first have none any more
        (project / "bridge.yaml").write_text(file.read_text().replace("share: 50%", "share: 0.1%"))
        bridge("reload", cwd=project)
        assert status(project)["messages"] == len(expected), "another share is no other candidate"

        (project / "bridge.yaml").write_text(file.read_text().replace("rules: {candidate", "rules: {} #"))
        assert "rules.candidate: changed" in bridge("reload", cwd=project)
        assert run_bridge("canary", "status", cwd=project).returncode == 2
        assert daemon.metrics("bridge_canary_messages_total") == {}
        publish(project, *((key, {"id": f"last-{key}", "total": 1}) for key in KEYS))
        daemon.wait(lambda: daemon.settled() == 3 * len(KEYS), "the starts")
        assert sum(id_.startswith("order-last") for id_ in flows(project)) == len(KEYS)


def test_without_a_candidate(project: Path) -> None:
    (project / "bridge.yaml").write_text(CONFIG)
    done = run_bridge("canary", "status", cwd=project)
    assert (done.returncode, "there is no candidate" in done.stderr) == (2, True)
