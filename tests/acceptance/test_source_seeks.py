"""`bridge sources lag` and `seek`: three daemons of which one is frozen, and a daemon that is killed at the steps of a
seek."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses

from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import three_daemons

PARTITIONS = 6
SENT = 60
EACH = SENT // PARTITIONS

CONFIG = """
engine: {engine}
brokers:
  {broker}: {settings}
sources:
  orders: {{broker: {broker}, topics: [{topic}], group: {topic}, codec: json, no_match: ignore}}
ops: {{http: {{port: 0}}}}
"""

SETTINGS = {
    "local": "{{type: local, partitions: {partitions}, commit_interval: 50ms}}",
    "kafka": "{{type: kafka, bootstrap_servers: '{kafka}', session_timeout: {session}, rebalance_timeout: 8s, "
    "commit_interval: 50ms, metadata_max_age: 2s, create_topics: true}}",
}

BROKERS = pytest.mark.parametrize("broker", ["local", "kafka"])


class Topic:
    """Topic of messages that no rule matches; each partition gets the same number of them."""

    def __init__(self, directory: Path, broker: str, bootstrap: str) -> None:
        self.name = unique("seeks")
        self._directory = directory
        self._broker = broker
        if broker == "kafka":
            admin = AdminClient({"bootstrap.servers": bootstrap})
            admin.create_topics([NewTopic(self.name, PARTITIONS, 1)])[self.name].result(30)
            self._producer = Producer({"bootstrap.servers": bootstrap})

    def publish(self, count: int) -> None:
        if self._broker == "local":
            # Keyless records go to the partitions in turn
            bridge("publish", "orders", "--jsonl", "-", cwd=self._directory, text='{"body": {}}\n' * count)
            return
        for number in range(count):
            self._producer.produce(self.name, b"{}", partition=number % PARTITIONS)
        assert self._producer.flush(30) == 0


@pytest.fixture
def topic(tmp_path: Path, broker: str, request: pytest.FixtureRequest) -> Topic:
    return Topic(tmp_path, broker, request.getfixturevalue("bootstrap") if broker == "kafka" else "")


def configure(directory: Path, topic: Topic, broker: str, request: pytest.FixtureRequest, **options: Any) -> None:
    bootstrap = request.getfixturevalue("bootstrap") if broker == "kafka" else ""
    given = {"engine": "{type: embedded}", "session": "60s"} | options
    settings = SETTINGS[broker].format(kafka=bootstrap, partitions=PARTITIONS, session=given["session"])
    config = CONFIG.format(broker=broker, topic=topic.name, settings=settings, engine=given["engine"])
    (directory / "bridge.yaml").write_text(config)


def lags(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bridge("sources", "lag", "-o", "json", *arguments, cwd=directory))
    return found


@pytest.fixture
def daemons(
    tmp_path: Path, topic: Topic, broker: str, request: pytest.FixtureRequest
) -> Iterator[tuple[DaemonProcess, ...]]:
    """Three daemons with two partitions each that have settled all messages, and the engine behind a port."""

    def write(engine: str) -> None:
        where = f'{{type: scheduler, endpoint: "{engine}"}}'
        configure(tmp_path, topic, broker, request, engine=where, session=getattr(request, "param", "60s"))

    with three_daemons(tmp_path, write, PARTITIONS) as found:
        topic.publish(SENT)
        found[0].wait(lambda: sum(each.settled() for each in found) == SENT, "all messages")
        found[0].wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "their commits")
        yield found
        for each in found:
            if each.runs:
                each.signal(signal.SIGCONT)
                each.stop()


@BROKERS
@pytest.mark.timeout(300)
def test_a_frozen_daemon_moves_its_partitions_when_it_continues(
    tmp_path: Path, topic: Topic, broker: str, daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, *others = daemons
    assert len({each["member"] for each in lags(tmp_path)}) == 3
    frozen.signal(signal.SIGSTOP)
    shown = run_bridge("sources", "seek", "orders", "--to", "beginning", "--yes", "--wait", "6s", cwd=tmp_path)
    assert shown.returncode == 1, shown.stderr
    assert f"{SENT} messages would be read again" in shown.stdout
    assert "orders: 4 partitions moved" in shown.stdout
    assert "no daemon has moved" in shown.stderr
    assert "--cancel" in shown.stderr
    others[0].wait(lambda: sum(each.settled() for each in others) == 8 * EACH, "partitions of the others again")
    frozen.signal(signal.SIGCONT)
    frozen.wait(lambda: sum(each.settled() for each in daemons) == 2 * SENT, "partitions of the frozen one again")
    topic.publish(PARTITIONS)
    frozen.wait(lambda: sum(each.settled() for each in daemons) == 2 * SENT + PARTITIONS, "later messages")
    frozen.wait(lambda: {each["lag"] for each in lags(tmp_path, "orders")} == {0}, "no lag")
    assert "no move waits" in bridge("sources", "seek", "orders", "--cancel", cwd=tmp_path)
    assert sum(each.settled() for each in daemons) == 2 * SENT + PARTITIONS
    # In a healthy group the command itself waits for all
    assert "orders: 1 partition moved" in bridge(
        "sources", "seek", "orders", "--to", "0", "--partition", "3", "--yes", cwd=tmp_path
    )
    frozen.wait(lambda: sum(each.settled() for each in daemons) == 2 * SENT + PARTITIONS + EACH + 1, "one partition")
    assert sum(sum(each.metrics("bridge_seeks_total").values()) for each in daemons) == PARTITIONS + 1


@pytest.mark.parametrize(("broker", "daemons"), [("kafka", "6s")], indirect=["daemons"])
@pytest.mark.timeout(300)
def test_a_daemon_that_lost_its_partitions_while_frozen_undoes_no_move(
    tmp_path: Path, topic: Topic, broker: str, daemons: tuple[DaemonProcess, ...]
) -> None:
    """The group gives the partitions of the frozen daemon to others, which move them."""
    frozen, *others = daemons
    frozen.signal(signal.SIGSTOP)
    assert "orders: 6 partitions moved" in bridge(
        "sources", "seek", "orders", "--to", "beginning", "--yes", "--wait", "45s", cwd=tmp_path
    )
    others[0].wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "all messages again")
    before = sum(each.settled() for each in others)
    frozen.signal(signal.SIGCONT)
    frozen.wait(lambda: len({each["member"] for each in lags(tmp_path)}) == 3, "the frozen one is a member again")
    topic.publish(PARTITIONS)
    frozen.wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "later messages")
    assert sum(each.settled() for each in daemons) - before == EACH * 2 + PARTITIONS


@pytest.mark.parametrize("broker", ["local"])
@pytest.mark.timeout(300)
def test_others_move_the_partitions_of_a_frozen_daemon_that_is_killed(
    tmp_path: Path, topic: Topic, broker: str, daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, *others = daemons
    frozen.signal(signal.SIGSTOP)
    assert run_bridge("sources", "seek", "orders", "--to", "end", "--yes", "--wait", "4s", cwd=tmp_path).returncode == 1
    again = run_bridge("sources", "seek", "orders", "--to", "beginning", "--yes", "--wait", "4s", cwd=tmp_path)
    assert again.returncode == 1
    frozen.kill()
    others[0].wait(lambda: sum(each.settled() for each in others) == SENT + 4 * EACH, "all messages again")
    others[0].wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "their commits")


@pytest.mark.parametrize("broker", ["local"])
@pytest.mark.timeout(120)
def test_a_paused_source_moves_and_reads_after_the_pause(
    tmp_path: Path, topic: Topic, broker: str, request: pytest.FixtureRequest
) -> None:
    configure(tmp_path, topic, broker, request)
    topic.publish(SENT)
    # Without a daemon the command moves the positions itself
    assert "the command moves the positions itself" in bridge(
        "sources", "seek", "orders", "--to", "5", "--yes", cwd=tmp_path
    )
    with DaemonProcess(tmp_path) as daemon:
        daemon.wait(lambda: daemon.settled() == SENT - 5 * PARTITIONS, "what is behind the position")
        bridge("sources", "pause", "orders", cwd=tmp_path)
        daemon.wait(lambda: '"state":"paused"' in daemon.get("/readyz")[1].replace(" ", ""), "the pause")
        shown = json.loads(
            bridge("sources", "seek", "orders", "--to", "8", "--yes", "--reason", "again", "-o", "json", cwd=tmp_path)
        )
        assert (shown["again"], shown["skipped"], shown["active"], shown["waiting"]) == (2 * PARTITIONS, 0, True, [])
        assert {each["from"] for each in shown["moved"].values()} == {EACH}
        assert {(each["committed"], each["lag"]) for each in lags(tmp_path)} == {(8, 2)}
        assert daemon.settled() == SENT - 5 * PARTITIONS
        bridge("sources", "resume", "orders", cwd=tmp_path)
        daemon.wait(lambda: daemon.settled() == SENT - 3 * PARTITIONS, "messages again")
        daemon.wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "their commits")
    trail = [
        json.loads(each) for each in bridge("audit", "--action", "sources.seek", "--json", cwd=tmp_path).splitlines()
    ]
    assert [(each["target"], each["result"], each["via"], each["reason"]) for each in trail] == [
        ("orders", "done", "cli", None), ("orders", "done", "socket", "again"),
    ]  # fmt: skip
    assert trail[1]["filter"]["positions"] == {f"{topic.name}/{number}": 8 for number in range(PARTITIONS)}
    # A script never waits for an answer, and a plan changes nothing
    refused = run_bridge("sources", "seek", "orders", "--to", "0", cwd=tmp_path, text="")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    bridge("sources", "seek", "orders", "--to", "0", "--dry-run", cwd=tmp_path)
    assert {each["committed"] for each in lags(tmp_path)} == {EACH}


KILL = """
import os, signal

STEP, MARK = os.environ["KILL_AT"], os.environ["KILL_MARK"]


def die():
    try:
        os.close(os.open(MARK, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def arm(owner, name, place):
    plain = getattr(owner, name)
    async def patched(*given, **named):
        if place == "before" and STEP == f"{name}:before":
            die()
        result = await plain(*given, **named)
        if STEP == f"{name}:after":
            die()
        return result
    setattr(owner, name, patched)


from bridge.brokers.kafka.commits import Commits
from bridge.brokers.kafka.rebalance_listener import RebalanceListener
from bridge.brokers.local.log import Log
from bridge.brokers.local.ownership import Ownership
from bridge.engines.entities.source_seeks import SourceSeeks

arm(RebalanceListener, "_notify", "before")
arm(Commits, "move", "before")
arm(RebalanceListener, "_move", "before")
arm(Ownership, "_stop", "before")
arm(Ownership, "_move", "before")
arm(SourceSeeks, "moved", "before")
plain = Log.move


def move(*given):
    result = plain(*given)
    if STEP == "log:inside":
        die()
    return result


Log.move = move
"""
"""Module that kills its process once, at one step of a seek."""

STEPS = [
    ("kafka", "_notify:after"), ("kafka", "move:before"), ("kafka", "move:after"), ("kafka", "_move:after"),
    ("kafka", "moved:before"), ("kafka", "moved:after"),
    ("local", "_stop:after"), ("local", "log:inside"), ("local", "_move:after"), ("local", "moved:before"),
    ("local", "moved:after"),
]  # fmt: skip


@pytest.mark.parametrize(("broker", "step"), STEPS)
@pytest.mark.timeout(180)
def test_a_kill_at_any_step_loses_no_seek_and_repeats_none(
    tmp_path: Path, topic: Topic, broker: str, step: str, request: pytest.FixtureRequest
) -> None:
    configure(tmp_path, topic, broker, request, session="6s")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").write_text(KILL)
    mark = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "code"), "KILL_AT": step, "KILL_MARK": str(mark)}
    with DaemonProcess(tmp_path, env=env) as daemon:
        topic.publish(SENT)
        daemon.wait(lambda: daemon.settled() == SENT and {each["lag"] for each in lags(tmp_path)} == {0}, "all")
        done = run_bridge("sources", "seek", "orders", "--to", "beginning", "--yes", "--wait", "30s", cwd=tmp_path)
        # The command may have got its answer before the kill
        assert done.returncode in ((0, 3) if step == "moved:after" else (3,)), (done.stdout, done.stderr)
        assert daemon.ended() == -signal.SIGKILL
    assert mark.exists()
    with DaemonProcess(tmp_path, env=env, log="second.log") as daemon:
        daemon.wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0} and _all_moved(tmp_path), "the seek")
        daemon.wait(lambda: {each["lag"] for each in lags(tmp_path)} == {0}, "all messages again")
        # The first daemon may have settled some of them between its move and its end
        again = daemon.settled()
        assert again == SENT if step in ("_notify:after", "move:before", "_stop:after", "log:inside") else again <= SENT
        topic.publish(PARTITIONS)
        daemon.wait(lambda: daemon.settled() == again + PARTITIONS, "later messages, and nothing twice")


def _all_moved(directory: Path) -> bool:
    done = run_bridge("sources", "list", "--json", cwd=directory)
    return done.returncode == 0 and not any(each["seek"] for each in json.loads(done.stdout))
