"""`bridge check --no-import` ends for an untrusted configuration whose paths lead to devices, pipes and huge files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.system.files import FileProblem, check_file, read_file
from tests.kit.processes import bridge

pytestmark = pytest.mark.long

ENDLESS = ("/dev/zero", "pipe", "huge", "link", "loop")


def make(directory: Path, kind: str, name: str) -> str:
    """Create a file that must not be read to its end."""
    file = directory / name
    if kind == "/dev/zero":
        file.symlink_to("/dev/zero")
        return "/dev/zero"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "huge":
        with file.open("wb") as stream:
            stream.truncate(200 * 1024**3)
    elif kind == "loop":
        file.symlink_to(file)
    else:
        file.symlink_to("/dev/zero")
    return str(file)


def config(**more: Any) -> dict[str, Any]:
    return {
        "engine": {"type": "embedded"},
        "brokers": {"b": {"type": "local"}},
        "sources": {"s": {"broker": "b", "topics": ["t"], "no_match": "ignore"}},
        "routes": [{"name": "r", "from": "s", "ignore": {}}],
    } | more


REGISTRY = {"r": {"url": "https://localhost:1"}}


def places(file: str) -> dict[str, dict[str, Any]]:
    """Return configurations that name the file, by the use of the file."""
    target = {"broker": "b", "topic": "x"}
    proto = target | {"codec": "protobuf"}
    return {
        "schema": config(
            sources={"s": {"broker": "b", "topics": ["t"], "no_match": "ignore", "schema": file}},
        ),
        "route schema": config(routes=[{"name": "r", "from": "s", "ignore": {}, "schema": file}]),
        "avro": config(registries=REGISTRY, targets={"x": target | {"codec": "avro", "schemas": {"file": file}}}),
        "protobuf": config(registries=REGISTRY, targets={"x": proto | {"schemas": {"file": file}}}),
        "registry ca": config(registries={"r": {"url": "https://localhost:1", "tls": {"ca": file}}}),
        "kafka ca": config(brokers={"b": {"type": "kafka", "bootstrap_servers": "localhost:1", "tls": {"ca": file}}}),
        "ops": config(ops={"http": {"tls": {"certificate": file}}}),
        "secret": config(ops={"secrets_dir": ".", "http": {"host": "${file:x}"}}),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_check_ends(tmp_path: Path, kind: str) -> None:
    """The check imports no module and ends for any kind of file."""
    for number, (what, written) in enumerate(places(make(tmp_path, kind, "x")).items()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(json.dumps(written))
        said = bridge("check", "--no-import", file, cwd=tmp_path, expect=None)
        if what in ("schema", "route schema", "avro", "protobuf", "secret"):
            assert "problem" in said, (what, said)


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("how", ["by default", "named", "overlay"])
def test_a_configuration_that_never_ends(tmp_path: Path, kind: str, how: str) -> None:
    make(tmp_path, kind, "bridge.yaml")
    (tmp_path / "good.yaml").write_text(json.dumps(config()))
    given = {"by default": [], "named": ["bridge.yaml"], "overlay": ["good.yaml", "--overlay", "bridge.yaml"]}[how]
    bridge("check", "--no-import", *given, cwd=tmp_path, expect=1)


def test_a_configuration_from_a_pipe_of_the_shell(tmp_path: Path) -> None:
    script = f"{sys.executable} -m bridge check --no-import <(echo '{json.dumps(config())}')"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok: 1 source, 1 route\n"), done.stderr


@pytest.mark.parametrize("kind", ENDLESS)
def test_workflow_modules_that_never_end(tmp_path: Path, kind: str) -> None:
    make(tmp_path, kind, "flows.py")
    (tmp_path / "bridge.yaml").write_text(json.dumps(config(workflows=["flows"])))
    bridge("check", "--no-import", cwd=tmp_path, expect=None)
    bridge("lint", cwd=tmp_path, expect=None)


def test_references_of_a_schema(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"$ref": "file:///dev/zero"}')
    source = {"broker": "b", "topics": ["t"], "no_match": "ignore", "schema": "s.json"}
    (tmp_path / "bridge.yaml").write_text(json.dumps(config(sources={"s": source})))
    assert "not a plain file" in bridge("check", "--no-import", cwd=tmp_path, expect=1)


def test_files_are_read_up_to_their_bound(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    assert check_file(file, 5) == file
    for read in (read_file, check_file):
        with pytest.raises(FileProblem, match="larger than"):
            read(file, 4)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing", 4)
        with pytest.raises(OSError, match=r"plain file|directory"):
            read(tmp_path, 4)
