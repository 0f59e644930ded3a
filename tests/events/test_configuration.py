"""Configuration of lifecycle events and webhooks, and what other parts make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app.check.configuration import check
from bridge.app.composition import load_config
from bridge.app.graph.asyncapi import document
from bridge.app.lifecycle.data import schema
from bridge.app.reload.changes import changes
from bridge.core.errors import Problem
from bridge.core.lifecycle import EventKind
from bridge.testing import LocalBridge
from tests.kit.daemon import running
from tests.kit.processes import run_bridge
from tests.kit.waiting import eventually
from tests.kit.webhook import WebhookReceiver

BASE: dict[str, Any] = {
    "engine": {"type": "embedded"},
    "brokers": {
        "local": {"type": "local"},
        "kafka": {"type": "kafka", "bootstrap_servers": "localhost:9092"},
        "bus": {"type": "servicebus", "namespace": "shop"},
        "hooks": {"type": "webhook", "url": "https://ops.example/secret-path?key=secret"},
    },
    "sources": {
        "orders": {"broker": "local", "topics": ["orders"], "no_match": "ignore"},
        "many": {"broker": "kafka", "topics": [], "kafka": {"pattern": "ops-.*"}, "no_match": "ignore"},
        "queue": {"broker": "bus", "topic": "ops", "subscription": "s", "no_match": "ignore"},
    },
    "routes": [{"name": "r", "from": ["orders", "many", "queue"], "ignore": {}}],
    "targets": {"ops": {"broker": "hooks"}},
    "events": {"target": "ops"},
}


def problems(tmp_path: Path, **sections: Any) -> list[Problem]:
    file = tmp_path / "bridge.yaml"
    file.write_text(json.dumps(BASE | sections))
    return [each for each in check([file]).problems if each.code != "C014"]


def test_a_webhook_and_events_are_valid(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("sections", "place", "what"),
    [
        ({"events": {"target": "opz"}}, "events.target", "there is no target `opz`; did you mean `ops`?"),
        ({"events": {"target": "ops", "kinds": []}}, "events.kinds", "must have at least one entry"),
        (
            {"events": {"target": "ops", "kinds": ["source.stuk"]}}, "events.kinds[0]",
            "did you mean `source.stuck`?",
        ),
        ({"events": {"targets": "ops"}}, "events.targets", "did you mean"),
        ({"targets": {"ops": {"broker": "hooks", "topic": "x"}}}, "targets.ops.topic", "which has no `topic`"),
        (
            {"sources": BASE["sources"] | {"x": {"broker": "hooks", "no_match": "ignore"}}}, "sources.x.broker",
            "nothing can be read from it",
        ),
    ],
)  # fmt: skip
def test_wrong_settings(tmp_path: Path, sections: dict[str, Any], place: str, what: str) -> None:
    found = [each for each in problems(tmp_path, **sections) if each.path == place and what in each.what]
    assert [each.severity for each in found] == ["error"]


@pytest.mark.parametrize(
    ("target", "reads"),
    [
        ({"broker": "local", "topic": "orders"}, "orders"),
        ({"broker": "local", "topic": "ops"}, None),
        ({"broker": "kafka", "topic": "orders"}, None),
        ({"broker": "kafka", "topic": "ops-events"}, "many"),
        ({"broker": "kafka", "topic": "other-ops-"}, None),
        ({"broker": "bus", "topic": "ops"}, "queue"),
        ({"broker": "bus", "queue": "opsqueue"}, None),
    ],
)
def test_a_source_that_reads_the_events(tmp_path: Path, target: dict[str, str], reads: str | None) -> None:
    found = [each for each in problems(tmp_path, targets={"ops": target}) if each.code == "C026"]
    assert [each.what.startswith(f"the source `{reads}` reads the events") for each in found] == [True] * bool(reads)


def test_a_change_of_events_needs_a_restart(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    before = load_config([tmp_path / "bridge.yaml"])
    assert problems(tmp_path, events={"target": "ops", "buffer": 5}) == []
    assert changes(before, load_config([tmp_path / "bridge.yaml"])).restart == ("events.buffer",)


def test_asyncapi_has_the_kinds(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    found = document(load_config([tmp_path / "bridge.yaml"]), "shop", "1")
    types = {message["title"]: message for message in found["components"]["messages"].values()}
    assert set(types) >= {kind.type for kind in EventKind}
    schemas = found["components"]["schemas"]
    assert schemas["events.job.finished"]["schema"]["required"] == schema(EventKind.JOB_FINISHED)["required"]
    assert found["servers"]["hooks"] == {"host": "ops.example", "protocol": "https"}
    assert "secret" not in json.dumps(found)


def test_commands_of_operators(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(
        json.dumps(BASE | {"brokers": BASE["brokers"] | {"hooks": {"type": "webhook", "url": "http://127.0.0.1:1/x"}}})
    )
    published = run_bridge("publish", "hooks/any", "--data", "{}", cwd=tmp_path)
    assert (published.returncode, "a webhook has no topics" in published.stderr) == (2, True)
    listed = run_bridge("topic", "list", "hooks", cwd=tmp_path)
    assert listed.returncode != 0
    assert "Traceback" not in listed.stderr
    with WebhookReceiver() as receiver:
        for url, verdict in ((receiver.url, "ok"), ("http://127.0.0.1:1/x", "problem")):
            hooks = {"type": "webhook", "url": url}
            (tmp_path / "bridge.yaml").write_text(json.dumps(BASE | {"brokers": BASE["brokers"] | {"hooks": hooks}}))
            done = run_bridge("doctor", "--only", "webhook", "-o", "json", cwd=tmp_path)
            results = {each["check"]: each for each in json.loads(done.stdout)["checks"]}
            assert results["reachable"]["verdict"] == verdict
            assert results["verification"]["verdict"] == "warning"
        assert receiver.requests == []


FLOWS = """
from durabletask import task

from bridge.workflow import publish


def notice(ctx: task.OrchestrationContext, order):
    return (yield publish(ctx, "ops", order, type="order.late"))
"""
CONFIG = """
targets: {ops: {broker: hooks, source: shop}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: r, from: orders, schedule: {orchestration: notice, instance_id: "o-{{ payload.id }}", input: payload}}]
"""


async def test_a_workflow_publishes_to_a_webhook(tmp_path: Path) -> None:
    with WebhookReceiver() as receiver:
        broker = f'{{type: local}}, hooks: {{type: webhook, url: "{receiver.url}", retry: {{first: 1ms}}}}'
        async with running(tmp_path, CONFIG, FLOWS, broker=broker) as it:
            # The broker gives up after five requests; the activity tries again
            receiver.answer([503] * 6)
            await it.publish("orders", {"id": 1})
            await eventually(lambda: receiver.accepted, "the event")
            assert len(receiver.requests) == 7
            assert len({each.headers["webhook-id"] for each in receiver.requests}) == 1
            assert receiver.accepted[0].event["data"] == {"id": 1}
            receiver.answer([400])
            await it.publish("orders", {"id": 2})
            finishes = it.daemon.finishes["default"]
            await eventually(lambda: finishes.finished[("notice", "failed")] == 1, "the failure")
            assert len(receiver.requests) == 8, "a refusal is final"
            state = await it.client.find_instance("o-2")
            assert "refuses the event with status 400" in state.failure_details.message


def test_a_test_of_workflows_needs_no_receiver(tmp_path: Path) -> None:
    (tmp_path / "hook_flows.py").write_text(FLOWS)
    config = {
        "engine": {"type": "embedded"}, "workflows": ["hook_flows"],
        "brokers": {name: BASE["brokers"][name] for name in ("local", "hooks")},
        "targets": {"ops": {"broker": "hooks"}}, "events": {"target": "ops"},
        "sources": {"orders": {"broker": "local", "topics": ["orders"], "codec": "json", "no_match": "dead_letter"}},
        "routes": [{"name": "r", "from": "orders", "schedule": {
            "orchestration": "notice", "instance_id": "o-{{ payload.id }}", "input": "payload",
        }}],
    }  # fmt: skip
    (tmp_path / "bridge.yaml").write_text(json.dumps(config))
    with LocalBridge(tmp_path / "bridge.yaml") as bridge:
        bridge.publish("orders", {"id": 1}, type="late")
        assert [event.type for event in bridge.published("ops")] == ["order.late"]
