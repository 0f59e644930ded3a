"""Endless and too large files are refused within a bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.codecs.schema import JsonSchema, SchemaProblem
from bridge.system.files import read_file
from tests.kit.processes import run_bridge


def test_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="larger than"):
        read_file(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/urandom")):
        with pytest.raises(OSError, match="not a plain file"):
            read_file(path, 100)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 100)


@pytest.mark.parametrize("end", ["/dev/zero", "pipe"])
def test_a_schema_that_refers_to_what_never_ends(tmp_path: Path, end: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "schema.json").write_text(f'{{"$ref": "{Path(tmp_path / end).as_uri()}"}}')
    with pytest.raises(SchemaProblem):
        JsonSchema(tmp_path / "schema.json")


@pytest.mark.parametrize("end", ["/dev/zero", "pipe"])
def test_check_ends_whatever_a_configuration_names(tmp_path: Path, end: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    config = tmp_path / "bridge.yaml"
    config.write_text(
        "engine: {type: embedded}\nbrokers: {local: {type: local}}\nregistries: {r: {url: 'http://127.0.0.1:1'}}\n"
        f"targets: {{t: {{broker: local, topic: t, codec: avro, registry: r, schema: {end}}}}}\n"
        f"sources: {{s: {{broker: local, topics: [s], codec: json, schema: {end}}}}}\n"
    )
    for path in (config, Path("/dev/zero")):
        received = run_bridge("check", "--no-import", "-c", path, cwd=tmp_path)
        assert (received.returncode, "Traceback" in received.stderr) == (1, False)
