"""Project and engine shared by the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.config.source import Loaded, load
from bridge.engines import entity_reads
from bridge.engines.commands import answers
from tests.app.project import EngineThread, write_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the project."""
    return write_project(tmp_path_factory.mktemp("project")).parent


@pytest.fixture(scope="session")
def loaded(project: Path) -> Loaded:
    return load([project / "bridge.yaml"], environ={})


@pytest.fixture(scope="session")
def host(project: Path) -> Iterator[EngineThread]:
    """Running engine and worker of the project."""
    host = EngineThread(project)
    host.start()
    yield host
    host.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let operations on the bridge's own entities fail soon: the project's worker does not know them."""
    monkeypatch.setattr(entity_reads, "WITHIN", 0.1)
    monkeypatch.setattr(answers, "_TIMEOUT", 0.1)
