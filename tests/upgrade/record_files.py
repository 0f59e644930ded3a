"""Record files of large payloads and kept ends of a build, as record.py records its other state.

    /tmp/build/.venv/bin/python -m tests.upgrade.record_files tests/upgrade/files_COMMIT

state.tar.xz   configuration, workflows, engine file, payload files and local log
expected.json  names of the values in the outputs: of the input and of the event; and the instances whose ends wait
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.upgrade.record import ROOT, Recorder

PROJECT = Path(__file__).parent / "files_project"
LARGE = 5_000
"""Characters of a value: more than `above` of the project."""


def text(name: str) -> str:
    """Large value with a name."""
    return (f"{name}|" * LARGE)[:LARGE]


def output(given: str, item: str) -> dict[str, str]:
    """Output of an instance. given, item: names of its input and of its event."""
    return {"given": text(given), "doubled": text(given) * 2, "again": text(item) * 2}


def record(it: Recorder) -> dict[str, Any]:
    """Bring every instance to its stopping point. Returns expected.json."""

    def send(type_: str, id_: str, data: str) -> None:
        line = json.dumps({"type": type_, "id": id_, "data": data})
        it.bridge("publish", "work", "--key", id_, "--data", line)

    for id_ in ("waits", "done"):
        send("start", id_, text(id_))
    send("item", "done", text("item"))
    send("item", "early", text("early"))
    for id_, type_ in (("failed-1", "fail"), ("failed-2", "fail"), ("compensated-1", "undo")):
        send(type_, id_, text(id_))

    def all_there() -> bool:
        known = {each: found["status"] for each, found in it.instances().items()}
        wanted = {
            "done": "COMPLETED", "failed-1": "FAILED", "failed-2": "FAILED", "compensated-1": "COMPLETED",
            "waits": "RUNNING",
        }  # fmt: skip
        with closing(sqlite3.connect(it.directory / "engine/engine.db")) as connection:
            ends = connection.execute("SELECT count(*) FROM ends").fetchone()[0]
        return wanted.items() <= known.items() and ends == 3 and len(it.waiting()) == 1

    it.until("everything is at its point", all_there)

    return {
        "outputs": {
            "waits": ["waits", "later"],
            "done": ["done", "item"],
            "early": ["start of early", "early"],
        },
        "ends": {"failed-1": "instance.failed", "failed-2": "instance.failed", "compensated-1": "instance.compensated"},
    }


def main(target: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="record-") as name:
        directory = Path(name)
        shutil.copytree(PROJECT, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        it = Recorder(directory)
        it.start()
        try:
            expected = record(it)
        finally:
            it.kill()
        shutil.rmtree(directory / "__pycache__", ignore_errors=True)
        with tarfile.open(target / "state.tar.xz", "w:xz") as archive:
            for path in sorted(directory.rglob("*")):
                if path.is_file() and path.name not in ("ready.json", "daemon.log"):
                    archive.add(path, str(path.relative_to(directory)))
    (target / "expected.json").write_text(json.dumps({"commit": commit.strip(), **expected}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
