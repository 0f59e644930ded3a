"""Files of large payloads and kept ends that an older build left behind when it was killed."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking
from tests.kit.webhook import WebhookReceiver
from tests.upgrade.opened import Opened
from tests.upgrade.record_files import output, text

pytestmark = pytest.mark.timeout(300)

RECORDINGS = sorted(path.parent for path in Path(__file__).parent.glob("files_*/state.tar.xz"))


def _payloads(directory: Path) -> list[Path]:
    return [path for path in (directory / "engine/engine.db.payloads").rglob("*") if path.is_file()]


def _referenced(directory: Path) -> set[str]:
    """Names of the files to which the engine's file refers."""
    with closing(sqlite3.connect(directory / "engine/engine.db")) as connection:
        found = {str(row[0]) for row in connection.execute("SELECT name FROM payload_references")}
    assert len(found) > 10
    return found


def test_there_are_recordings_and_they_are_small() -> None:
    assert RECORDINGS
    assert all(file.stat().st_size < 200_000 for each in RECORDINGS for file in each.iterdir())


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_payload_files_are_read_finished_and_removed_and_kept_ends_are_published(
    recording: Path, tmp_path: Path
) -> None:
    it = Opened(recording, tmp_path)
    outputs, ends = it.expected["outputs"], it.expected["ends"]
    assert "ok" in bridge("engine", "check", cwd=tmp_path)
    recorded, referenced = _payloads(tmp_path), _referenced(tmp_path)

    def send(type_: str, id_: str, data: str) -> None:
        line = json.dumps({"type": type_, "id": id_, "data": data})
        bridge("publish", "work", "--key", id_, "--data", line, cwd=tmp_path)

    with WebhookReceiver() as receiver:
        config = tmp_path / "bridge.yaml"
        config.write_text(config.read_text().replace("${RECEIVER:-http://127.0.0.1:9/hooks}", receiver.url))
        with DaemonProcess(tmp_path) as daemon:
            # The ends that the older build kept, once each and in their order
            daemon.wait(lambda: len(receiver.events()) == len(ends), "the kept ends")
            assert {each["subject"]: each["type"] for each in receiver.events()} == {
                id_: f"io.durable-bridge.{kind}.v1" for id_, kind in ends.items()
            }
            daemon.wait(lambda: daemon.metrics("bridge_lifecycle_events_waiting")['{place="engine"}'] == 0, "none left")
            # A repeat of a recorded start, and what lets the others finish
            send("start", "waits", text("waits"))
            send("start", "early", text(outputs["early"][0]))
            send("item", "waits", text(outputs["waits"][1]))
            for id_, names in outputs.items():
                found = eventually_blocking(lambda id_=id_: it.output(id_), f"the end of {id_}")  # type: ignore[misc]  # mypy cannot infer it
                assert found == output(*names), id_
            counts = json.loads(bridge("instances", "list", "--count", "--json", cwd=tmp_path))
            assert len(receiver.events()) == len(ends)
            send("fail", "failed-3", text("failed-3"))
            daemon.wait(lambda: len(receiver.events()) == len(ends) + 1, "the end of today")
            assert len(_payloads(tmp_path)) > len(recorded)
            bridge("instances", "purge", *outputs, *ends, "failed-3", cwd=tmp_path)
            # Files without a reference, which the kill has left, stay for five minutes more
            daemon.wait(lambda: not {path.name for path in _payloads(tmp_path)} & referenced, "no file of an instance")
            daemon.stop()
    assert counts
    assert "ok" in bridge("engine", "check", cwd=tmp_path)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_check_names_a_recorded_payload_that_is_gone(recording: Path, tmp_path: Path) -> None:
    Opened(recording, tmp_path)
    shutil.rmtree(_payloads(tmp_path)[0].parent)
    assert "payload" in bridge("engine", "check", cwd=tmp_path, expect=1)
