"""Every code of `bridge check` has a section, with an example that has the problem and one that has none."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.app.check.configuration import check
from bridge.app.check.schemas import SchemaVersions
from bridge.app.composition import load_config
from bridge.app.configurations import store
from bridge.core.errors import Problem
from bridge.core.problems.codes import CODES
from tests.docs.document import ROOT, anchors, blocks, read

PAGE = "docs/check.md"
CLIENT = ("aiokafka", "cramjam")
"""Modules of an extra that is hidden where an example needs a missing one."""


def _example(mark: str, code: str) -> str:
    (text,) = (block.text for block in blocks(PAGE, "yaml") if (block.mark, block.name) == (mark, code))
    return text


def _completion(given: dict[str, Any]) -> dict[str, Any]:
    """Sections that a snippet lacks to be a configuration."""
    rest: dict[str, Any] = {}
    if "engine" not in given and "engines" not in given:
        rest["engine"] = {"type": "embedded"}
    if "local" not in given.get("brokers", {}):
        rest["brokers"] = {"local": {"type": "local"}}
    if "workflows" not in given:
        rest["workflows"] = {"external": ["order_saga", "follow_up"]}
    read_from = {name for route in given.get("routes", []) for name in [route["from"]]}
    names = (read_from or {"orders"}) - given.get("sources", {}).keys()
    if names and (read_from or "sources" not in given):
        rest["sources"] = {name: {"broker": "local", "topics": [name], "no_match": "ignore"} for name in sorted(names)}
    sources = {**given.get("sources", {}), **rest.get("sources", {})}
    if not given.get("routes"):
        rest["routes"] = [
            {"name": f"rest-{name}", "from": name, "match": {"type": "rest"}, "ignore": {}} for name in sources
        ]
    return rest


def _write(text: str, code: str, directory: Path) -> list[Path]:
    """Write an example, the rest of a configuration, and the files of its section. Returns the configuration."""
    section = read(PAGE).split(f"### {code}:")[1].split("\n### ")[0]
    for block in blocks(PAGE):
        if block.mark == "file" and block.name != "bridge.yaml" and block.text in section:
            (directory / block.name).write_text(block.text)
        elif block.mark == "samples" and block.name == code:
            (directory / "samples.jsonl").write_text(block.text)
    example = directory / "bridge.yaml"
    example.write_text(text)
    try:
        given = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        return [example]
    rest = directory / "rest.yaml"
    rest.write_text(yaml.safe_dump(_completion(given)))
    return [example, rest]


@pytest.fixture
def _no_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the modules that an example imported."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name == "notify":
            del sys.modules[name]


def _problems(mark: str, code: str, directory: Path) -> list[Problem]:
    if any((block.mark, block.name) == ("former", code) for block in blocks(PAGE)):
        # The example is a change of this configuration, with which a daemon has started
        store(load_config(_write(_example("former", code), code, directory)))
    config = _write(_example(mark, code), code, directory)
    samples = [directory / "samples.jsonl"] if (directory / "samples.jsonl").exists() else []
    old, new = directory / "old.json", directory / "new.json"
    schemas = SchemaVersions(str(old), str(new)) if old.exists() else None
    return list(check(config, samples=samples, schemas=schemas).problems)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.usefixtures("_no_modules")
def test_the_wrong_example_has_the_problem(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if code == "C014":
        for module in CLIENT:
            monkeypatch.setitem(sys.modules, module, None)
    found = _problems("wrong", code, tmp_path)
    assert code in {problem.code for problem in found}, found
    assert {problem.severity for problem in found if problem.code == code} == {CODES[code].severity}
    if CODES[code].severity == "warning":
        assert not [problem for problem in found if problem.severity == "error"]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.usefixtures("_no_modules")
def test_the_right_example_has_none(code: str, tmp_path: Path) -> None:
    assert _problems("right", code, tmp_path) == []


def test_every_code_has_one_section_in_order() -> None:
    titles = re.findall(r"^### ([A-Z]\d{3}: .*)$", read(PAGE), re.MULTILINE)
    assert titles == [code.title for code in CODES.values()]
    assert {code.anchor.partition("#")[2] for code in CODES.values()} <= anchors(PAGE)
    assert all((ROOT / code.anchor.partition("#")[0]).is_file() for code in CODES.values())
