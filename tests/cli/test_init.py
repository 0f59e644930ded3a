"""`bridge init` creates a project that passes its own tests and has an accurate README."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import root
from tests.kit.processes import run_bridge

pytestmark = pytest.mark.long


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["init", "shop"])
    assert result.exit_code == 0
    assert "  shop/bridge.yaml\n" in result.stdout
    assert "cd shop\n  pip install -r requirements.txt" in result.stdout
    return tmp_path / "shop"


def bridge(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_bridge(*arguments, cwd=project)


def test_its_own_tests_pass(shop: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"],
        cwd=shop,
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 passed" in result.stdout


def test_a_route_of_ones_own_as_the_readme_says(shop: Path) -> None:
    readme = (shop / "README.md").read_text()
    steps = readme.partition("## A route of your own")[2]
    ask = re.search(r"bridge (route .*)", steps)
    rule = re.search(r"```yaml\n(.*?)```", steps, re.DOTALL)
    assert ask is not None
    assert rule is not None
    arguments = ["route", "requests", "--type", "expense.withdrawn", "--data", '{"id": "e-1"}']
    assert ask[1] == 'route requests --type expense.withdrawn --data \'{"id": "e-1"}\''
    assert bridge(shop, *arguments).returncode == 1

    config = shop / "bridge.yaml"
    config.write_text(config.read_text() + re.sub(r"(?m)^   ", "", rule[1]))
    after = bridge(shop, *arguments, "--expect", "withdraw")
    assert after.returncode == 0, after.stdout + after.stderr
    assert "Terminate by withdraw" in after.stdout
    assert bridge(shop, "check", "--strict").returncode == 0


def test_every_command_of_the_readme_exists(shop: Path) -> None:
    for line in re.findall(r"(?m)^ *bridge ([^#\n]*)", (shop / "README.md").read_text()):
        words = line.split()
        path = words[: 2 if words[0] in ("instances", "entities") else 1]
        assert CliRunner().invoke(root, [*path, "--help"]).exit_code == 0


def test_nothing_is_overwritten(shop: Path) -> None:
    result = CliRunner().invoke(root, ["init", "shop"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: shop is not empty")


@pytest.mark.parametrize("name", ["../up", "1st", "a b"])
def test_impossible_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(root, ["init", name])
    assert result.exit_code == 2
    assert "begins with a letter" in result.stderr
    assert list(tmp_path.iterdir()) == []
