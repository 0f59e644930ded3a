"""`bridge instances export`: a history file for replay tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest

from bridge.engines.recording import Recording
from bridge.testing import ReplayMismatch, replay
from tests.cli.conftest import Bridge
from tests.kit.waiting import TIMEOUT_OPTION

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def name(bridge: Bridge) -> str:
    """Finished instance."""
    name = f"x-{uuid4().hex[:8]}"
    assert bridge("instances", "start", "greet", "--id", name, "--input", '"ada"').exit_code == 0
    assert bridge("instances", "wait", name, "--timeout", TIMEOUT_OPTION).exit_code == 0
    return name


@pytest.fixture
def flows(project: Path) -> ModuleType:
    """Present workflows of the project."""
    spec = importlib.util.spec_from_file_location("exported_flows", project / "commanded_flows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_exported_can_be_replayed(bridge: Bridge, name: str, tmp_path: Path, flows: ModuleType) -> None:
    path = tmp_path / "greeted.json"
    result = bridge("instances", "export", name, "-o", str(path))
    assert result.exit_code == 0
    assert f"events written to {path}" in result.stdout
    replay(path, flows.greet)
    recording = Recording.from_json(path.read_bytes())
    assert (recording.instance_id, recording.orchestration) == (name, "greet")
    with pytest.raises(ReplayMismatch, match="activity say"):
        replay(path, {"greet": flows.breaks})


def test_without_a_file_it_goes_to_standard_output(bridge: Bridge, name: str) -> None:
    received = json.loads(bridge("instances", "export", name).stdout)
    assert (received["format"], received["version"], received["instance_id"]) == ("durable-bridge.history", 1, name)


def test_what_cannot_be_done(bridge: Bridge, name: str, tmp_path: Path) -> None:
    assert bridge("instances", "export", "nobody").exit_code == 1
    result = bridge("instances", "export", name, "-o", str(tmp_path / "no" / "where.json"))
    assert (result.exit_code, "cannot be written" in result.stderr) == (1, True)
