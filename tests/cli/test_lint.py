"""`bridge lint`: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.lint import RULES

CLEAN = "from durabletask import task\ndef flow(ctx: task.OrchestrationContext, _):\n    yield ctx.call_activity('a')\n"
CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
"""
WRONG = CLEAN.replace("yield ctx", "ctx")


def lint(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["lint", *map(str, arguments)])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("")
    (tmp_path / "flows" / "flow.py").write_text(WRONG)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    return tmp_path


def test_nothing_found(project: Path) -> None:
    (project / "flows" / "flow.py").write_text(CLEAN)
    result = lint(project)
    assert (result.exit_code, result.stdout) == (0, "ok: nothing found\n")


def test_findings_are_lines_and_a_summary(project: Path) -> None:
    result = lint(project / "flows")
    place = f"{project / 'flows' / 'flow.py'}:3:5"
    told = "missing-yield: nobody waits for call_activity(); write `yield call_activity(...)`"
    assert (result.exit_code, result.stdout) == (1, f"{place} {told}\n1 finding\n")


def test_without_paths_it_reads_the_modules_of_the_configuration(project: Path) -> None:
    result = lint("-c", project / "bridge.yaml")
    assert result.exit_code == 1
    assert "flow.py:3:5 missing-yield" in result.stdout


def test_json(project: Path) -> None:
    told = json.loads(lint(project, "--json").stdout)
    assert told["ok"] is False
    assert [(one["rule"], one["line"], one["column"]) for one in told["findings"]] == [("missing-yield", 3, 5)]


def test_sarif(project: Path) -> None:
    log = json.loads(lint(project, "--sarif").stdout)
    assert [one["ruleId"] for one in log["runs"][0]["results"]] == ["missing-yield"]


def test_the_rules_can_be_listed() -> None:
    result = lint("--rules")
    assert result.exit_code == 0
    assert all(rule in result.stdout for rule in RULES)
    assert json.loads(lint("--rules", "--json").stdout) == dict(RULES)


def test_what_cannot_be_understood(project: Path) -> None:
    assert lint(project / "nowhere").exit_code == 2
    assert lint(project, "--json", "--sarif").exit_code == 2
    assert lint("-c", project / "nowhere.yaml").exit_code == 3
