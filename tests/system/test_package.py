"""Commands that install extras, and the requirement of the bridge in new projects."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bridge.system import package

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_installed_by_its_libraries(extra: str) -> None:
    assert {*map(Requirement, package.requirements_of(extra))} == {*map(Requirement, EXTRAS[extra])}
    command = package.install_extra(extra)
    assert command.startswith("pip install '")
    assert all(f"'{each}'" in command for each in package.requirements_of(extra))


class _Distribution:
    def __init__(self, direct_url: str | None) -> None:
        self.version = "1.2.3"
        self.requires: list[str] = []
        self._direct_url = direct_url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._direct_url


def _installed(monkeypatch: pytest.MonkeyPatch, url: str | None) -> str:
    text = None if url is None else json.dumps({"url": url})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: _Distribution(text))
    return package.own_requirement()


def test_a_bridge_of_a_checkout_or_file_is_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "a b.whl"
    wheel.touch()
    assert _installed(monkeypatch, tmp_path.as_uri()) == f"durable-bridge @ {tmp_path.as_uri()}"
    assert _installed(monkeypatch, wheel.as_uri()) == f"durable-bridge @ {wheel.as_uri()}"


@pytest.mark.parametrize("url", [None, "file:///no/such/place", "https://example.org/durable_bridge.whl"])
def test_any_other_bridge_is_required_by_its_version(url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _installed(monkeypatch, url) == "durable-bridge==1.2.3"


def test_extras_are_those_whose_libraries_are_installed(tmp_path: Path) -> None:
    for name, version, lines in (
        (
            "durable_bridge",
            "9.0",
            ["lib-one>=1; extra == 'one'", "lib-one>=1; extra == 'both'", "lib-two; extra == 'both'"],
        ),
        ("lib_one", "1.0", []),
    ):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        needed = [f"Requires-Dist: {each}" for each in lines]
        (info / "METADATA").write_text("\n".join([f"Name: {name}", f"Version: {version}", *needed, ""]))
    script = "from bridge.system.package import own_requirement; print(own_requirement())"
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "durable-bridge[one]==9.0\n"


def test_a_bridge_that_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert package.own_requirement() == "durable-bridge"
    assert package.install_extra("kafka") == "pip install '.[kafka]' in a checkout of the bridge"
