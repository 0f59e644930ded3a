"""Daemons of an older build and of today's build in one consumer group, with their workers on one task hub."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess
from tests.upgrade.opened import RECORDINGS, Opened, in_current_form

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PROJECT = ("bridge.yaml", "upgrade_flows.py")
KEYS, ITEMS, SAGAS = 12, 6, 4
FINISHED = {"COMPLETED", "FAILED", "TERMINATED"}


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda path: path.name)
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree of the recorded commit, from the history of this repository.

    The build in the tree runs on today's dependencies.
    """
    commit = json.loads((request.param / "expected.json").read_text())["commit"]
    packed = subprocess.run(["git", "archive", commit, "bridge"], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.fail(
            f"commit {commit}, which {request.param.name} was recorded with, is not in this clone: fetch the whole "
            f"history (`git fetch --unshallow`); git said: {packed.stderr.decode().strip()}"
        )
    directory = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(directory, filter="data")
    with tarfile.open(request.param / "state.tar.xz") as archive:
        # The project in the form of that build
        for name in PROJECT:
            archive.extract(name, directory / "project", filter="data")
    where = [sys.executable, "-c", "import bridge; print(bridge.__file__)"]
    assert Path(subprocess.check_output(where, env=environment(directory), cwd=directory, text=True)).is_relative_to(
        directory
    )
    return directory


def environment(tree: Path | None) -> dict[str, str]:
    """Return the environment for processes of the build in a tree; None: today's build."""
    return {**os.environ, "PYTHONPATH": str(tree or ROOT)}


@contextmanager
def task_hub(directory: Path, tree: Path | None) -> Iterator[str]:
    """Run an engine in a process of its own. Yields its address."""
    ready = directory / "engine.json"
    command = [sys.executable, "-m", "bridge", "engine", "--listen", "127.0.0.1:0", "--path", "hubs", "--ready-file"]
    process = subprocess.Popen([*command, str(ready)], cwd=directory, env=environment(tree))
    try:
        end = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield str(json.loads(ready.read_text())["address"])
    finally:
        process.terminate()
        process.wait()


class Pair(Opened):
    """Project of the recordings on a broker and an engine that two daemons share."""

    def __init__(self, project: Path, directory: Path, broker: str, address: str) -> None:
        shutil.copytree(project, directory, dirs_exist_ok=True)
        self.directory = directory
        self.configs = ("today.yaml",)
        config = directory / "bridge.yaml"
        text = config.read_text()
        for line in text.splitlines():
            if line.startswith("engine:"):
                text = text.replace(line, f'engine: {{type: scheduler, endpoint: "http://{address}"}}')
            elif line.startswith("brokers:"):
                text = text.replace(line, f"brokers: {{local: {broker}}}")
        config.write_text(text)
        (directory / "today.yaml").write_text(in_current_form(text))
        self.open_gate()

    def daemon(self, tree: Path | None) -> DaemonProcess:
        return DaemonProcess(self.directory, "-c", "bridge.yaml" if tree else "today.yaml", env=environment(tree))

    def lines(self, phase: int) -> list[dict[str, Any]]:
        """Return the messages of a phase, ordered within a key; half of the starts come after their items."""
        found = []
        rng = random.Random(phase)
        for key in range(KEYS):
            id_ = f"collects-{phase}-{key}"
            of_key = [("item", {"id": id_, "name": "item", "data": number}) for number in range(ITEMS)]
            of_key.insert(0 if key % 2 else ITEMS // 2, ("start", {"id": id_, "flow": "collects", "count": ITEMS}))
            found.append(of_key)
        for number in range(SAGAS):
            found.append([("start", {"id": f"trip-{phase}-{number}", "flow": "trip"})])
            found.append([("buy", {"id": f"buy-{phase}-{number}"})])
        lines: list[Any] = []
        while found := [each for each in found if each]:
            type_, data = rng.choice(found).pop(0)
            event = {
                "specversion": "1.0",
                "id": f"{phase}-{len(lines)}",
                "source": "/test",
                "type": type_,
                "data": data,
            }
            headers = {"content-type": "application/cloudevents+json"}
            lines.append({"body": event, "key": data["id"], "topic": "work", "headers": headers})
        return lines

    def lines_to_quarantine(self, phase: int) -> list[dict[str, Any]]:
        return [
            {**line, "topic": "keyed"} | {"body": {**line["body"], "id": f"q{line['body']['id']}"}}
            for line in self.lines(phase)
            if line["body"]["type"] == "item" and line["key"] == f"collects-{phase}-0"
        ]

    def finished(self, phases: int) -> bool:
        self.answer()
        known = self.instances()
        wanted = phases * (KEYS + 2 * SAGAS)
        own = [
            each for id_, each in known.items() if id_.split("-")[0] in ("collects", "trip", "buy") and ":" not in id_
        ]
        return len(own) == wanted and all(each["status"] in FINISHED for each in own)


def received(daemon: DaemonProcess) -> int:
    return int(sum(daemon.metrics("bridge_received_total").values()))


def owns(daemon: DaemonProcess) -> bool:
    """Return whether the daemon has partitions of the topic `work`."""
    return any('topic="work"' in labels for labels in daemon.metrics("bridge_lag"))


@pytest.mark.parametrize(
    ("broker", "hub_is", "leaves"),
    [("local", "older", "older"), ("kafka", "today's", "today's")],
    ids=["an upgrade, on the local broker", "a rollback, on Kafka"],
)
def test_two_builds_share_a_group_and_a_task_hub(
    tmp_path: Path, older: Path, broker: str, hub_is: str, leaves: str
) -> None:
    kafka = ThreadedServer() if broker == "kafka" else None
    settings = (
        "{type: local, path: broker, partitions: 4}"
        if kafka is None
        else f'{{type: kafka, bootstrap_servers: "{kafka.bootstrap}", create_topics: true, session_timeout: 6s}}'
    )
    with task_hub(tmp_path, older if hub_is == "older" else None) as address:
        it = Pair(older / "project", tmp_path, settings, address)
        with ExitStack() as daemons:
            old = daemons.enter_context(it.daemon(older))
            # The older build has used this task hub: answers are not signed at first
            first, *rest = it.lines(0)
            it.publish([first])
            it.until("the older build has taken it", lambda: received(old) == 1 and bool(it.instances()))
            today = daemons.enter_context(it.daemon(None))
            it.until("both have partitions", lambda: owns(old) and owns(today))
            it.publish(rest)
            it.until("the first phase finished", lambda: it.finished(1))
            assert received(old)
            assert received(today)
            # One daemon quarantines the key; the release may come after that daemon has ended
            it.publish(it.lines_to_quarantine(9))
            it.until("a key in quarantine", lambda: len(it.waiting()) == ITEMS)
            going, staying = (old, today) if leaves == "older" else (today, old)
            it.publish(it.lines(1))
            going.signal(signal.SIGTERM)
            assert going.ended() == 0
            it.until("the second phase finished", lambda: it.finished(2))
            it.publish(
                [line for line in it.lines(9) if line["key"] == "collects-9-0" and line["body"]["type"] == "start"]
            )
            it.until("the instance of the key", lambda: "collects-9-0" in it.instances())
            it.bridge("quarantine", "release", "--source", "keyed", "collects-9-0")
            it.until("nothing waits", lambda: not it.waiting())
            it.until("its end", lambda: it.instances()["collects-9-0"]["status"] in FINISHED)
            it.until("nothing in flight", lambda: not any(staying.metrics("bridge_in_flight").values()))
            known = it.instances()
            for id_, each in known.items():
                assert each["status"] == "COMPLETED", (id_, each)
                if id_.startswith("collects-"):
                    assert each["output"] == list(range(ITEMS)), id_
                elif id_.startswith("buy-"):
                    assert each["output"]["result"] == {"parcel": "booked"}
            results = Counter(each["headers"].get("ce_id") or each["body"]["id"] for each in it.topic("results"))
            assert len(results) == 2 * 2 * SAGAS
            assert set(results.values()) == {1}
            assert it.topic("work.dlq") == it.topic("keyed.dlq") == it.topic("answers.dlq") == []
    if kafka is not None:
        kafka.stop()
