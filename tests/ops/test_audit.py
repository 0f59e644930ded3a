"""Audit file: bounded, shared by processes, and readable after a crash."""

from __future__ import annotations

import asyncio
import fcntl
import io
import logging
import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from bridge.core.errors import InstanceNotFound
from bridge.ops.audit import Actor, AuditedChange, Denied, audited, audited_async, settle, user
from bridge.ops.logging import configure
from bridge.ops.trail import FILE, AuditTrail
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT

ADA = Actor("ada", 1000, "cli")
FIELDS = ["time", "actor", "uid", "via", "action", "target", "filter", "result", "error", "reason", "id"]


def change(**more: object) -> AuditedChange:
    return AuditedChange(ADA, "instances.terminate", "order-1", **more)  # type: ignore[arg-type]  # whatever a test wants


def lines(trail: AuditTrail) -> list[dict[str, object]]:
    return list(trail.read())


def test_a_line_says_who_did_what_to_what_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # a log level of ERROR still writes these lines
    try:
        trail = AuditTrail(tmp_path / "audit", own=True)
        with audited(trail, change(reason="fraud", filter={"recursive": True, "since": None})):
            assert lines(trail) == []
    finally:
        logging.getLogger().setLevel(level)
    [line] = lines(trail)
    assert list(line) == FIELDS
    assert [line[name] for name in FIELDS[1:-1]] == [
        "ada", 1000, "cli", "instances.terminate", "order-1", {"recursive": True}, "done", None, "fraud",
    ]  # fmt: skip
    [record] = [each for each in caplog.records if each.name == "bridge.audit"]
    assert {name: vars(record)[name] for name in FIELDS[:-1]} | {"id": line["id"]} == line


@pytest.mark.parametrize(
    ("error", "result", "word"),
    [
        (Denied("PAYLOAD"), "denied", "denied"),
        (InstanceNotFound("PAYLOAD"), "failed", "instance_not_found"),
        (KeyboardInterrupt("PAYLOAD"), "failed", "KeyboardInterrupt"),
        (asyncio.CancelledError(), "failed", "CancelledError"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_failure_leaves_its_word_and_no_more(
    tmp_path: Path, error: BaseException, result: str, word: str
) -> None:
    trail = AuditTrail(tmp_path)
    with pytest.raises(type(error)), audited(trail, change()):
        raise error
    with pytest.raises(type(error)):
        async with audited_async(trail, change()):
            raise error
    assert [(line["result"], line["error"]) for line in lines(trail)] == [(result, word)] * 2
    assert "PAYLOAD" not in (tmp_path / FILE).read_text()


def test_a_copy_that_cannot_be_written_stops_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with audited(AuditTrail(tmp_path), change()):
        pass
    assert [each.levelname for each in caplog.records if each.name.endswith("audit")] == ["INFO", "WARNING"]
    assert not (tmp_path / "elsewhere").exists()


def test_fields_have_a_bounded_length(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    huge = "x" * 1_000_000
    given = {huge: huge, "ids": [huge] * 1000, "nested": {"a": [huge]}, "surrogate": "\ud800"}
    with audited(trail, change(reason=huge, filter=given)):
        pass
    assert (tmp_path / FILE).stat().st_size < 200_000
    [line] = lines(trail)
    assert str(line["reason"]).endswith("(1000000 characters)")


def test_full_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        trail = AuditTrail(tmp_path / "audit", max_bytes=1000, max_files=3, own=True)
        for number in range(100):
            with audited(trail, AuditedChange(ADA, "publish", f"t-{number}")):
                pass
    finally:
        os.umask(before)
    assert [path.name for path in trail.files()] == [f"{FILE}.2", f"{FILE}.1", FILE]
    assert all(path.stat().st_size <= 1000 for path in trail.files())
    kept = [line["target"] for line in lines(trail)]
    assert kept == [f"t-{number}" for number in range(100 - len(kept), 100)]
    assert len(kept) >= 6
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "audit").iterdir() if path.is_file()}
    assert (modes, stat.S_IMODE((tmp_path / "audit").stat().st_mode)) == ({0o600}, 0o700)
    assert [*(tmp_path / "audit" / "audit.pending").iterdir()] == []


def test_one_file_alone(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path, max_bytes=500, max_files=1)
    for number in range(10):
        trail.append({"time": "2030-01-01T00:00:00Z", "target": number, "fill": "x" * 200})
    assert [line["target"] for line in lines(trail)] == [8, 9] or [line["target"] for line in lines(trail)] == [9]
    assert trail.files() == [tmp_path / FILE]


def test_a_line_that_a_crash_has_cut_costs_no_other(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    trail.append({"target": "before"})
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"target": "cut')
    trail.append({"target": "after"})
    assert [line["target"] for line in lines(trail)] == ["before", "after"]


def test_processes_share_it_without_loss(tmp_path: Path) -> None:
    with ExitStack() as processes:
        writers = [
            processes.enter_context(ModuleProcess("tests.ops.trail_writer", tmp_path, number, 200))
            for number in range(3)
        ]
        assert [each.process.wait(TIMEOUT) for each in writers] == [0, 0, 0]
    targets = [str(line["target"]) for line in lines(AuditTrail(tmp_path, max_files=1000))]
    assert sorted(targets) == sorted(f"{writer}-{number}" for writer in range(3) for number in range(200))
    for writer in range(3):
        assert [each for each in targets if each.startswith(f"{writer}-")] == [f"{writer}-{n}" for n in range(200)]


def test_the_actor_is_the_user_of_the_process() -> None:
    assert user().uid == os.getuid()
    assert user(4_000_000_001).name == "uid 4000000001"


def test_a_filter_of_many_ids_is_bounded(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    with audited(trail, change(filter={"ids": ["\U0001f600" * 900] * 1000})):
        pass
    [line] = lines(trail)
    assert (tmp_path / FILE).stat().st_size < 64 * 1024
    assert "bytes" in str(line["filter"])


KILLED = """
import os, signal, sys
from pathlib import Path
from bridge.ops.audit import Actor, AuditedChange, audited
from bridge.ops.trail import AuditTrail

change = AuditedChange(Actor("ada", 1000, "cli"), "publish", "orders", reason="why")
with audited(AuditTrail(Path(sys.argv[1])), change):
    print("begun", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_change_whose_process_was_killed_leaves_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trail = AuditTrail(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    with audited(trail, change()):
        pass
    assert [line["action"] for line in lines(trail)] == ["instances.terminate"], "what is under way has no line yet"
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wanted = ("publish", "unknown", "killed", "why")
    for _ in range(2):
        line = lines(trail)[-1]
        assert (line["action"], line["result"], line["error"], line["reason"]) == wanted
        assert len(lines(trail)) == 2
        settle(trail)
    assert [vars(each)["action"] for each in caplog.records if each.name == "bridge.audit"][1:] == ["publish"]
    assert (tmp_path / FILE).read_text().count("killed") == 1


def test_a_process_that_was_killed_after_its_line_leaves_no_second_one(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    note = trail.begin({"target": "one"})
    trail.append({"target": "one", "id": note.id})  # state of a kill before the removal of the note
    os.close(note.descriptor)
    settle(trail)
    assert [line["target"] for line in lines(trail)] == ["one"]
    assert not note.path.exists()


FULL = """
import resource, sys
from pathlib import Path
from bridge.ops.audit import Actor, AuditedChange, audited
from bridge.ops.logging import configure
from bridge.ops.trail import FILE, AuditTrail

directory = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, ((directory / FILE).stat().st_size + 50, resource.RLIM_INFINITY))
with audited(AuditTrail(directory), AuditedChange(Actor("ada", 1000, "cli"), "publish", "second")):
    print("changed")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
with audited(AuditTrail(directory), AuditedChange(Actor("ada", 1000, "cli"), "publish", "third")):
    pass
"""


def test_a_disk_that_becomes_full_leaves_no_part_of_a_line_and_the_command_tells_it(tmp_path: Path) -> None:
    AuditTrail(tmp_path).append({"target": "first", "result": "done", "fill": "x" * 10_000})
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "changed\n"
    assert '"target": "second"' in done.stderr
    found = [(line["target"], line["result"]) for line in lines(AuditTrail(tmp_path))]
    assert found == [("first", "done"), ("second", "done"), ("third", "done")], "it is kept once there is room"
    assert len((tmp_path / FILE).read_text().splitlines()) == 3
    assert [*(tmp_path / "audit.pending").iterdir()] == []


def test_a_process_that_is_frozen_with_the_lock_holds_up_nobody_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bridge.ops.trail.LOCK_SECONDS", 0.1)
    trail = AuditTrail(tmp_path)
    trail.append({"time": "", "target": "before"})
    with (tmp_path / "audit.lock").open("rb") as frozen:
        fcntl.flock(frozen, fcntl.LOCK_EX)
        with audited(trail, change()):
            pass
        with pytest.raises(TimeoutError, match="frozen"):
            lines(trail)
    assert "is it frozen?" in caplog.text
    assert [line["target"] for line in lines(trail)] == ["before"]


@pytest.mark.parametrize("form", ["human", "json"])
def test_nothing_that_a_person_writes_begins_a_line_of_its_own(tmp_path: Path, form: str) -> None:
    stream = io.StringIO()
    evil = "x\r\n2030-01-01 [info     ] instances.purge done\x1b[2J\x85\u2028\u202e"
    configure("info", form, stream)  # type: ignore[arg-type]  # one of the two
    given = AuditedChange(ADA, "instances.terminate", evil, {evil: [evil]}, evil)
    with audited(AuditTrail(tmp_path), given):
        pass
    for text in (stream.getvalue(), (tmp_path / FILE).read_text()):
        assert len(text.splitlines()) == 1
        assert text.rstrip("\n").isprintable()
    [line] = lines(AuditTrail(tmp_path))
    assert line["reason"] == evil
