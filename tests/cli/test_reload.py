"""`bridge reload` through the real executable: answers, refusals, exit codes, daemons that do not answer."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the library has no types for it

from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess, bridge, run_bridge

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded}
workflows: {external: [order]}
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: ignore}
routes:
  - name: start
    from: orders
    when: payload.n > 0
    schedule: {orchestration: order, instance_id: "o-{{ payload.n }}"}
ops: {http: {port: 0}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    return tmp_path


def change(project: Path, *pairs: tuple[str, str]) -> None:
    file = project / "bridge.yaml"
    text = file.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def test_the_answers_of_a_daemon_and_a_worker(project: Path) -> None:
    with (
        DaemonProcess(project, "--no-worker") as daemon,
        DaemonProcess(project, command="worker", log="w.log") as worker,
    ):
        change(project, ("payload.n > 0", "payload.n > 1"))
        said = bridge("reload", "--dry-run", cwd=project)
        assert "would change from" in said
        assert said.count("route start: changed (when)") == 2
        answers = json.loads(bridge("reload", "-o", "json", cwd=project))["daemons"]
        assert {int(each["daemon"].rpartition("/")[2]) for each in answers} == {daemon.pid, worker.pid}
        assert {each["result"] for each in answers} == {"reloaded"}
        assert {len(each["sources"]) for each in answers} == {0, 1}, "the worker consumes nothing"
        assert "nothing to reload" in bridge("reload", cwd=project)
        versions = {
            each["config"]["version"] for each in json.loads(bridge("status", "-o", "json", cwd=project))["daemons"]
        }
        assert versions == {answers[0]["to"]}


def test_the_answer_names_routes_whose_ids_change(project: Path) -> None:
    with DaemonProcess(project):
        change(project, ('"o-{{', '"p-{{'))
        done = run_bridge("reload", cwd=project)
        assert (done.returncode, "ids or targets of start have changed" in done.stderr) == (0, True)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("payload.n > 0", "payload.n = 0", "R001"),
        ("{type: embedded}", "{type: embedded, sessions: 7}", "engines.default.sessions has changed"),
        ("sources:", "sources: [", "bridge.yaml:"),
        ("topics: [orders]", "topics: []", "bridge.yaml:"),
    ],
)
def test_a_refusal_is_exit_code_1_and_changes_nothing(project: Path, old: str, new: str, problem: str) -> None:
    with DaemonProcess(project) as daemon:
        before = daemon.metrics("bridge_info")
        change(project, (old, new))
        for options in ((), ("--dry-run",)):
            done = run_bridge("reload", *options, cwd=project)
            assert done.returncode == 1, (done.stdout, done.stderr)
            assert problem in done.stderr
        assert daemon.metrics("bridge_info") == before
        assert daemon.get("/readyz")[0] == 200
        change(project, (new, old))
        bridge("reload", cwd=project)
        daemon.stop()


@pytest.mark.parametrize("options", [(), ("-c", "bridge.yaml")])
def test_without_configuration_files_no_daemon_is_asked(project: Path, options: tuple[str, ...]) -> None:
    with DaemonProcess(project) as daemon:
        (project / "bridge.yaml").rename(project / "gone.yaml")
        for more in ((), ("--dry-run",), ("--all",)):
            done = run_bridge("reload", *options, *more, cwd=project)
            assert done.returncode == 1, (done.stdout, done.stderr)
            assert "C001" in done.stderr
            assert "no daemon was asked: the files cannot be read" in done.stderr
        # The daemon itself has the same answer
        daemon.signal(signal.SIGHUP)
        daemon.wait(lambda: "the reload is refused" in daemon.log.read_text(), "the refusal")
        assert daemon.get("/readyz")[0] == 200


def test_dead_letters_of_a_removed_source_are_named(project: Path) -> None:
    change(
        project,
        ("routes:", "  other: {broker: local, topics: [other], codec: json, no_match: dead_letter}\nroutes:"),
        ("ops: {", "ops: {dead_letters: {interval: 1s}, "),
    )
    with DaemonProcess(project) as daemon:
        bridge("publish", "other", "--data", '{"n": 1}', cwd=project)
        daemon.wait(lambda: daemon.settled() == 1, "the dead letter")
        open_ = '{reason="no_route",route="",source="other"}'
        daemon.wait(lambda: daemon.metrics("bridge_dead_letters_open").get(open_) == 1, "the count")
        change(project, ("  other: {broker: local, topics: [other], codec: json, no_match: dead_letter}\n", ""))
        done = run_bridge("reload", cwd=project)
        assert done.returncode == 0
        assert "source other: removed" in done.stdout
        assert "no source has the 1 open dead letter of local/other.dlq any more" in done.stderr
        assert "`bridge topic read local/other.dlq` does" in done.stderr
        assert daemon.metrics("bridge_dead_letters_open").get(open_) is None
        assert '"n": 1' in bridge("topic", "read", "local/other.dlq", cwd=project)
        assert "other" not in bridge("dlq", "list", cwd=project)


def test_without_a_daemon_and_with_a_frozen_one(project: Path) -> None:
    done = run_bridge("reload", cwd=project)
    assert (done.returncode, "start one with `bridge serve`" in done.stderr) == (3, True)
    with DaemonProcess(project) as daemon, DaemonProcess(project, command="worker", log="w.log") as worker:
        daemon.signal(signal.SIGSTOP)
        change(project, ("payload.n > 0", "payload.n > 2"))
        done = run_bridge("reload", "-o", "json", cwd=project)
        daemon.signal(signal.SIGCONT)
        found = json.loads(done.stdout)
        assert done.returncode == 3
        assert [each["daemon"].rpartition("/")[2] for each in found["silent"]] == [str(daemon.pid)]
        assert [each["daemon"].rpartition("/")[2] for each in found["daemons"]] == [str(worker.pid)]
        bridge("reload", cwd=project)


def test_untouched_kafka_sources_do_not_rebalance(project: Path) -> None:
    server = ThreadedServer()
    try:
        topics = [NewTopic(name, 4, 1) for name in ("orders", "orders.dlq", "other", "other.dlq", "more", "more.dlq")]
        admin = AdminClient({"bootstrap.servers": server.bootstrap})  # lives until its answers are there
        for made in admin.create_topics(topics).values():
            made.result()
        change(
            project,
            ("{type: local}", f'{{type: kafka, bootstrap_servers: "{server.bootstrap}"}}'),
            ("codec: json,", "group: a, codec: json,"),
            ("routes:", "  other: {broker: local, topics: [other], group: b, codec: json, no_match: ignore}\nroutes:"),
        )
        with DaemonProcess(project) as daemon:
            daemon.wait(lambda: len(daemon.metrics("bridge_lag")) == 8, "all partitions are assigned")
            before = daemon.metrics("bridge_rebalances_total")
            change(project, ("payload.n > 0", "payload.n > 3"))
            bridge("reload", cwd=project)
            assert daemon.metrics("bridge_rebalances_total") == before
            change(project, ("topics: [other]", "topics: [other, more]"))
            [answer] = json.loads(bridge("reload", "-o", "json", cwd=project))["daemons"]
            assert {each["source"]: each["change"] for each in answer["sources"]} == {
                "orders": "unchanged",
                "other": "restarted",
            }
            daemon.wait(lambda: len(daemon.metrics("bridge_lag")) == 12, "the new topic is assigned")
            after = daemon.metrics("bridge_rebalances_total")
            assert after['{source="orders"}'] == before['{source="orders"}']
            # A source that shares the group of a changed one is named
            change(project, ("group: b", "group: a"))
            [answer] = json.loads(bridge("reload", "-o", "json", cwd=project))["daemons"]
            assert [each["rebalanced_with"] for each in answer["sources"] if each["source"] == "orders"] == [["other"]]
            daemon.stop()
    finally:
        server.stop()
