"""Every command in the documents runs and produces the documented output."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bridge.app.scaffold import create
from tests.docs.document import DOCUMENTS, ROOT, blocks
from tests.docs.shell import Shell, matches
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import emulator

pytestmark = pytest.mark.long

ON_KAFKA = "docs/tutorials/kafka-json.md"
ON_SERVICE_BUS = "docs/tutorials/servicebus-sessions.md"
ON_SERVERS = (ON_KAFKA, ON_SERVICE_BUS)
"""Documents whose commands need the server of a broker."""


def _directory(document: str, directory: Path) -> Path:
    """Return the directory in which a reader runs the commands: an empty one, the repository, or a new project."""
    if document in ("README.md", "docs/routing.md") or document.startswith("docs/tutorials/"):
        return directory
    if document == "docs/sagas.md":
        for name in ("config", "workflows"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".bridge"))
        return directory
    create("shop", directory)
    return directory / "shop"


def _run(document: str, directory: Path, environment: Mapping[str, str] | None = None) -> None:
    with Shell(_directory(document, directory), environment) as shell:
        for block in blocks(document):
            shell.run(block)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "console") and name not in ON_SERVERS])
def test_commands(document: str, tmp_path: Path) -> None:
    _run(document, tmp_path)


def test_commands_on_kafka(tmp_path: Path) -> None:
    """The broker is the documented one without Docker, on a free port."""
    (command,) = (block.text for block in blocks(ON_KAFKA, "sh") if "tests.kafka.server" in block.text)
    words = command.replace("--port 9092", "--port 0").split()
    assert words[0] == "python"
    with subprocess.Popen([sys.executable, *words[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"listens on (127\.0\.0\.1:[1-9]\d*);", server.stdout.readline())
            assert found is not None
            _run(ON_KAFKA, tmp_path, {"KAFKA_BOOTSTRAP": found[1]})
        finally:
            server.terminate()
    assert server.returncode == 0


def test_commands_on_service_bus(tmp_path: Path) -> None:
    (entities,) = (json.loads(block.text) for block in blocks(ON_SERVICE_BUS) if block.name == "entities.json")
    with ServerProcess(*emulator.read(entities)) as server:
        _run(ON_SERVICE_BUS, tmp_path, {"SERVICEBUS_CONNECTION": server.connection_string})


def test_what_counts_as_the_documented_output() -> None:
    assert matches("ok: ... routes\n...\nlast", "ok: 3 routes\none\ntwo\nlast\n")
    assert matches("...\nlast", "last\n")
    assert not matches("ok: ... routes", "ok: 3\nroutes")
    assert not matches("first", "first\nsecond")
    assert not matches("first\nsecond", "first")
