"""Wheel and sdist contain the package with its data files, and nothing else of the checkout is installed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.matrix import PROJECT, find, supported

ROOT = Path(__file__).parents[2]


def _tracked(directory: str) -> set[str]:
    """Files below a directory that a commit would contain."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", directory]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(directory)], cwd=ROOT, check=True, timeout=110
    )
    return directory


def test_the_wheel_has_every_file_of_the_package_and_no_other(built: Path) -> None:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = Parser().parsestr(wheel.read(f"durable_bridge-{PROJECT['version']}.dist-info/METADATA").decode())
    samples = {f"bridge/_shop/{name}" for directory in ("config", "demo", "workflows") for name in _tracked(directory)}
    assert names == _tracked("bridge") | samples
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    assert metadata["Requires-Python"] == PROJECT["requires-python"]


def test_the_sdist_has_what_a_build_and_the_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for directory in ("bridge", "tests", "docs", "config", "workflows", "demo"):
        assert _tracked(directory) <= names, directory
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "requirements.lock"} <= names


def test_versions_of_python() -> None:
    assert supported() == ["3.11", "3.12", "3.13", "3.14"]
    version = ".".join(map(str, sys.version_info[:2]))
    assert find(version) is not None
    assert find("3.99") is None
