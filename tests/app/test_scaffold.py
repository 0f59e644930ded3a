"""New projects: written files, refusals, and validity of the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement

from bridge.app.scaffold import create
from bridge.codecs import registry as codecs
from bridge.config.source import load
from bridge.core.message import Message, Position


def test_the_project_is_complete_and_has_no_problems(tmp_path: Path) -> None:
    files = create("shop", tmp_path)
    project = tmp_path / "shop"
    assert {str(file.relative_to(project)) for file in files} == {
        ".gitignore", "README.md", "bridge.schema.json", "bridge.yaml", "pytest.ini", "requirements.txt",
        "samples/decided.json", "samples/requested.json", "samples/small.json",
        "tests/rules.yaml", "tests/test_routes.py", "tests/test_workflow.py",
        "workflows/__init__.py", "workflows/approval.py",
    }  # fmt: skip
    assert all(file.is_file() for file in files)
    assert not [file for file in files if "@@" in file.read_text()]
    loaded = load([project / "bridge.yaml"], environ={})
    assert loaded.warnings == ()


def test_the_configuration_fits_the_schema_that_lies_beside_it(tmp_path: Path) -> None:
    import jsonschema_rs

    create("shop", tmp_path)
    text = (tmp_path / "shop" / "bridge.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=bridge.schema.json\n")
    schema = json.loads((tmp_path / "shop" / "bridge.schema.json").read_text())
    jsonschema_rs.validator_for(schema).validate(yaml.safe_load(text))


def test_samples_are_cloud_events_of_the_project(tmp_path: Path) -> None:
    create("shop", tmp_path)
    for sample in (tmp_path / "shop" / "samples").iterdir():
        envelope = codecs.get("cloudevents").decode(Message(sample.read_bytes()), Position("c", "requests", 0, 0))
        assert envelope.source == "/shop/samples"


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    create("shop", tmp_path)
    assert (tmp_path / "shop" / "bridge.yaml").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="is not empty"):
        create("shop", tmp_path)
    assert [file.name for file in (tmp_path / "shop").iterdir()] == ["mine.txt"]


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    with pytest.raises(FileExistsError):
        create("shop", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "1st", "-c", "a b", "a" * 65, "é", "a\n"])
def test_impossible_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begins with a letter"):
        create(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_its_requirements_name_this_bridge_and_pytest(tmp_path: Path) -> None:
    create("shop", tmp_path)
    lines = (tmp_path / "shop" / "requirements.txt").read_text().splitlines()
    bridge, pytest_ = (Requirement(line) for line in lines if not line.startswith("#"))
    assert bridge.name == "durable-bridge"
    assert bridge.url is None or Path(urlsplit(bridge.url).path).exists()
    assert pytest_.name == "pytest"
