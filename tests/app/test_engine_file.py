"""Choice of the engine file, and atomic writes beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.operations.engine_file import check, configured, export, named_file, replacing
from bridge.config.source import Loaded, load
from bridge.core.errors import EngineMisconfigured
from tests.app.project import CONFIG, EngineThread


def test_the_configured_engines_file(loaded: Loaded, host: EngineThread, project: Path) -> None:
    file = configured(loaded)
    assert file == project / ".bridge/engine/engine.db"
    assert check(file) == []
    with replacing(project / "out.jsonl") as out:
        count = export(file, out)
    assert len((project / "out.jsonl").read_text().splitlines()) == count
    with pytest.raises(LookupError, match="there is no engine 'eu'"):
        configured(loaded, "eu")


def test_an_engine_without_a_file(tmp_path: Path) -> None:
    config = tmp_path / "bridge.yaml"
    config.write_text(CONFIG.replace("{type: embedded, path: .bridge/engine}", "{type: scheduler}"))
    with pytest.raises(EngineMisconfigured, match="only embedded engines have a file"):
        configured(load([config], environ={}))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "blue.db").touch()
    with pytest.raises(EngineMisconfigured, match=r"use the engine's file in it, like .*blue\.db"):
        named_file(tmp_path)
    assert named_file(tmp_path / "blue.db") == tmp_path / "blue.db"


def test_what_is_not_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("before")

    def fail() -> None:
        with replacing(output) as out:
            out.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert output.read_text() == "before"
    assert list(tmp_path.iterdir()) == [output]
