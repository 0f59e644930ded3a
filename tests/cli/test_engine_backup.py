"""`bridge engine backup` and `restore` as processes, beside a working engine."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import threading
from pathlib import Path

import pytest

from tests.app.project import write_project
from tests.cli.test_engine import bridge, client, serving, work, worker
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.long


class Load:
    """Load that starts orchestrations and raises their events until it is stopped."""

    def __init__(self, served_client: object) -> None:
        self._client = served_client
        self.acknowledged: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            instance_id = f"w-{number}"
            self._client.schedule_new_orchestration(work, input=number, instance_id=instance_id)  # type: ignore[attr-defined]
            self.acknowledged.append(instance_id)

    def reach(self, count: int) -> None:
        while len(self.acknowledged) < count:
            assert self._thread.is_alive()
            self._ended.wait(0.01)


def test_backups_under_load_hold_all_that_was_acknowledged_and_go_on(tmp_path: Path) -> None:
    taken: list[tuple[str, int, int]] = []
    with serving(tmp_path) as served, client(served, "blue") as blue, worker(served, "blue"), Load(blue) as load:
        for number in range(3):
            load.reach(len(load.acknowledged) + 40)
            before = len(load.acknowledged)
            name = f"blue-{number}"
            ran = bridge(tmp_path, "engine", "backup", "--path", "hubs/blue.db", "--json", name)
            assert (ran.returncode, ran.stderr) == (0, "")
            received = json.loads(ran.stdout)
            assert received == {"file": "hubs/blue.db", "backup": name, "bytes": (tmp_path / name).stat().st_size}
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
            taken.append((name, before, len(load.acknowledged)))
            assert len(load.acknowledged) > before
        refused = bridge(tmp_path, "engine", "restore", "--path", "hubs/blue.db", "blue-0")
        assert refused.returncode == 3
        assert f"process {served.process.pid} has this engine file open; stop it" in refused.stderr
    for name, before, after in taken:
        ran = bridge(tmp_path, "engine", "restore", "--path", "hubs/blue.db", name)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith(f"hubs/blue.db: restored from {name}; the previous file is hubs/blue.db.replaced-")
        with serving(tmp_path) as served, client(served, "blue") as blue, worker(served, "blue"):
            held = {each.instance_id for each in blue.get_all_orchestration_states()}
            assert {f"w-{number}" for number in range(1, before + 1)} <= held
            assert len(held) <= after + 1
            for instance_id in held:
                blue.raise_orchestration_event(instance_id, "add", data=5)
            for instance_id in held:
                done = blue.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
                assert done is not None
                assert done.serialized_output == str(int(instance_id.removeprefix("w-")) * 2 + 5)
            assert served.end(signal.SIGTERM) == 0


def test_every_hub_of_a_killed_engine_is_backed_up_with_its_log(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        for hub in ("default", "blue"):
            with client(served, hub) as each:
                each.schedule_new_orchestration(work, input=1, instance_id=f"in-{hub}")
        assert served.end(signal.SIGKILL) == -signal.SIGKILL
    (tmp_path / "backups").mkdir()
    for hub in ("default", "blue"):
        assert bridge(tmp_path, "engine", "backup", "--path", f"hubs/{hub}.db", f"backups/{hub}.db").returncode == 0
    shutil.rmtree(tmp_path / "hubs")
    for hub in ("default", "blue"):
        ran = bridge(tmp_path, "engine", "restore", "--path", f"hubs/{hub}.db", f"backups/{hub}.db", "--json")
        assert json.loads(ran.stdout) == {
            "file": f"hubs/{hub}.db",
            "backup": f"backups/{hub}.db",
            "kept": None,
            "problems": [],
        }
    with serving(tmp_path) as served:
        for hub in ("default", "blue"):
            with client(served, hub) as each:
                assert [found.instance_id for found in each.get_all_orchestration_states()] == [f"in-{hub}"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("backup",), 2, "Missing argument 'FILE'"),
        (("backup", "target"), 3, "there is no such file"),
        (("backup", "--path", "hub", "taken"), 1, "taken: is there already; --force replaces it"),
        (("backup", "--path", "hub", "hub"), 1, "the engine's own file"),
        (("backup", "--path", "hub", "more.db"), 1, "would be taken for another task hub"),
        (("backup", "--path", "hub", "nowhere/target"), 1, "nowhere/target: cannot be written"),
        (("backup", "--path", "taken", "target"), 3, "not a database"),
        (("backup", "--path", "hub", "--engine", "default", "target"), 2, "use either --path"),
        (("restore", "nowhere"), 3, "nowhere: there is no such file"),
        (("restore", "--path", "hub", "hub"), 3, "the engine's own file"),
        (("restore", "--engine", "eu", "hub"), 2, "there is no engine 'eu'"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    write_project(tmp_path)
    with serving(tmp_path) as served:
        served.end(signal.SIGTERM)
    (tmp_path / "hubs" / "default.db").rename(tmp_path / "hub")
    (tmp_path / "taken").write_text("a text of mine" * 100)
    result = bridge(tmp_path, "engine", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "taken").read_text() == "a text of mine" * 100


def test_a_damaged_backup_is_named_and_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.end(signal.SIGTERM)
    (tmp_path / "damaged").write_bytes(b"no database" * 1000)
    for as_json in (False, True):
        more = ("--json",) if as_json else ()
        ran = bridge(tmp_path, "engine", "restore", "--path", "hubs/default.db", "damaged", *more)
        assert (ran.returncode, ran.stderr) == (1, "")
        problems = json.loads(ran.stdout)["problems"] if as_json else ran.stdout.splitlines()
        assert len(problems) == 1
        assert "is no database, or is damaged" in problems[0]
    assert bridge(tmp_path, "engine", "check", "--path", "hubs/default.db").returncode == 0
