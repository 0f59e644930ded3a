"""Lifecycle events of daemons in processes: killed, frozen, reloaded."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.app.test_failures import FLOWS
from tests.events.test_daemon import valid
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking
from tests.kit.webhook import WebhookReceiver

pytestmark = pytest.mark.long

CONFIG = """
engine: ENGINE
brokers:
  local: {type: local}
  hooks: {type: webhook, url: "URL", retry: {attempts: 1}}
targets: {ops: {broker: hooks, source: shop}}
events: {target: ops}
workflows: [flows]
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: nothing, from: orders, match: {type: nothing}, ignore: {reason: a test}}]
ops: {http: {port: 0}, dead_letters: {interval: 1s}}
"""
CARD = "4111-1111-1111"


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


def project(directory: Path, receiver: WebhookReceiver, engine: str = "{type: embedded}") -> Path:
    (directory / "flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG.replace("URL", receiver.url).replace("ENGINE", engine))
    return directory


def publish(directory: Path, keys: int = 1) -> None:
    lines = [json.dumps({"key": f"k-{n}", "body": {"number": n, "card": CARD}}) for n in range(keys)]
    bridge("publish", "orders", "--jsonl", "-", cwd=directory, text="\n".join(lines))


def test_a_kill_between_the_fact_and_its_event(tmp_path: Path, receiver: WebhookReceiver) -> None:
    project(tmp_path, receiver)
    receiver.status = 503
    with DaemonProcess(tmp_path) as daemon:
        bridge("instances", "start", "order", "--id", "o-1", "--input", json.dumps({"card": CARD}), cwd=tmp_path)
        eventually_blocking(lambda: receiver.requests, "an attempt")
        daemon.signal(signal.SIGKILL)
        daemon.wait(lambda: not daemon.runs, "dead")
    assert receiver.events() == []
    receiver.status = 204
    with DaemonProcess(tmp_path):
        eventually_blocking(lambda: receiver.events("failed"), "the event")
    [event] = receiver.events()
    assert valid(event)["instance"] == "o-1"
    assert {each.event["id"] for each in receiver.requests} == {event["id"]}


def test_a_kill_between_the_event_and_its_confirmation(tmp_path: Path, receiver: WebhookReceiver) -> None:
    project(tmp_path, receiver)
    receiver.gate.clear()
    with DaemonProcess(tmp_path) as daemon:
        bridge("instances", "start", "order", "--id", "o-1", "--input", json.dumps({"card": CARD}), cwd=tmp_path)
        eventually_blocking(lambda: receiver.events(), "the event")
        daemon.signal(signal.SIGKILL)
        daemon.wait(lambda: not daemon.runs, "dead")
    receiver.gate.set()
    with DaemonProcess(tmp_path) as daemon:
        eventually_blocking(lambda: len(receiver.events()) == 2, "the event again")
        bridge("instances", "start", "order", "--id", "o-2", "--input", json.dumps({"card": CARD}), cwd=tmp_path)
        eventually_blocking(lambda: len(receiver.events()) == 3, "the next event")
    first, again, other = receiver.accepted
    assert first.body == again.body
    assert first.headers["webhook-id"] == again.headers["webhook-id"] != other.headers["webhook-id"]


def test_sources_jobs_and_reloads(tmp_path: Path, receiver: WebhookReceiver) -> None:
    project(tmp_path, receiver)
    with DaemonProcess(tmp_path) as daemon:
        bridge("sources", "pause", "orders", "--reason", "a test", cwd=tmp_path)
        eventually_blocking(lambda: receiver.events("paused"), "paused")
        bridge("sources", "resume", "orders", cwd=tmp_path)
        eventually_blocking(lambda: receiver.events("recovered"), "recovered")
        publish(tmp_path)
        eventually_blocking(lambda: receiver.events("new_cause"), "a cause")
        bridge("dlq", "replay", "orders", "--all", "--yes", cwd=tmp_path)
        eventually_blocking(lambda: receiver.events("job.finished"), "an ended job")
        file = tmp_path / "bridge.yaml"
        before = file.read_text()
        file.write_text(before.replace("match: {type: nothing}", "match: {type: other}"))
        bridge("reload", cwd=tmp_path)
        eventually_blocking(lambda: receiver.events("reloaded"), "reloaded")
        file.write_text(before.replace("match: {type: nothing}", "match: {typ: other}"))
        bridge("reload", cwd=tmp_path, expect=1)
        eventually_blocking(lambda: receiver.events("refused"), "refused")
        pid = daemon.pid
    [paused] = receiver.events("paused")
    data = valid(paused)
    assert (data["source"], data["state"], data["before"]) == ("orders", "paused", None)
    assert data["next"] == "bridge sources resume orders"
    assert data["daemon"].endswith(f"/{pid}")
    [recovered] = receiver.events("recovered")
    assert valid(recovered)["before"] == "paused"
    [job] = receiver.events("job.finished")
    assert (valid(job)["kind"], job["data"]["state"], job["data"]["selected"]) == ("replay", "done", 1)
    [reloaded] = receiver.events("reloaded")
    assert valid(reloaded)["routes"] == {"nothing": "changed"}
    [refused] = receiver.events("refused")
    assert valid(refused)["problem_count"] == 1
    assert "typ" in refused["data"]["problems"][0]
    assert CARD not in json.dumps(receiver.events())


def test_three_daemons_one_frozen(tmp_path: Path, receiver: WebhookReceiver) -> None:
    """All daemons see the same dead letters: their events have one id. States of sources name their daemon."""
    hub = tmp_path / "hub"
    with ExitStack() as stack:
        engine = stack.enter_context(
            DaemonProcess(tmp_path, "--listen", "127.0.0.1:0", "--path", str(hub), command="engine", log="engine.log")
        )
        endpoint = f'{{type: scheduler, endpoint: "{engine.url}"}}'
        project(tmp_path, receiver, endpoint)
        daemons = [stack.enter_context(DaemonProcess(tmp_path, log=f"{n}.log")) for n in range(3)]
        frozen = daemons[2]
        frozen.signal(signal.SIGSTOP)
        try:
            publish(tmp_path, keys=40)
            eventually_blocking(lambda: len(receiver.events("new_cause")) >= 2, "the cause, from two daemons")
            bridge("sources", "pause", "orders", cwd=tmp_path)
            eventually_blocking(lambda: len(receiver.events("paused")) >= 2, "the pause, from two daemons")
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        eventually_blocking(lambda: len(receiver.events("new_cause")) >= 3, "the cause, from the third")
        eventually_blocking(lambda: len(receiver.events("paused")) >= 3, "the pause, from the third")
        pids = {daemon.pid for daemon in daemons}
    assert len({event["id"] for event in receiver.events("new_cause")}) == 1
    paused = receiver.events("paused")
    assert len({event["id"] for event in paused}) == 3
    assert {int(event["data"]["daemon"].rpartition("/")[2]) for event in paused} == pids
