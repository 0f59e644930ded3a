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
    assert (result.exit_code, result.stdout) == (0, "ok: 1 orchestrator, no findings\n")


def test_the_number_of_orchestrators_is_told(project: Path) -> None:
    more = "def other(ctx: 'task.OrchestrationContext', _):\n    yield ctx.create_timer(1)\n"
    (project / "flows" / "flow.py").write_text(CLEAN + more + more.replace("other", "_part"))
    assert lint(project).stdout == "ok: 2 orchestrators, 1 helper with a context, no findings\n"
    received = json.loads(lint(project, "--json").stdout)
    assert (received["ok"], received["orchestrators"], received["others"]) == (True, 2, 1)
    assert json.loads(lint(project, "--sarif").stdout)["runs"][0]["properties"] == {"orchestrators": 2}
    (project / "flows" / "flow.py").write_text("")
    assert lint(project).stdout == "ok: 0 orchestrators, no findings\n"


NAMED = """\
from durabletask import entities, task
from bridge.workflow import publish
def a(ctx: task.ActivityContext, _):
    return 1
def flow(ctx: task.OrchestrationContext, _):
    yield publish(ctx, "decisionz", type="x")
    yield ctx.call_activity("aa")
    yield ctx.call_activity("java_activity")
    yield ctx.call_sub_orchestrator("flaw")
    ctx.signal_entity(entities.EntityInstanceId("kounter", "1"), "add", 1)
"""


def test_unknown_names_are_found_by_lint_and_check(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "flows" / "flow.py").write_text(NAMED)
    modules = "workflows: {modules: [flows], external: [java_activity, counter]}"
    targets = "\ntargets: {decisions: {broker: local, topic: decisions}}\n"
    (project / "bridge.yaml").write_text(CONFIG.replace("workflows: [flows]", modules) + targets)
    expected = [
        (6, "there is no target `decisionz`; did you mean `decisions`?; declare targets under `targets`"),
        (7, "there is no activity `aa`; did you mean `a`?; "),
        (9, "there is no orchestration `flaw`; did you mean `flow`?; "),
        (10, "there is no entity `kounter`; did you mean `counter`?; "),
    ]
    file = project / "flows" / "flow.py"
    monkeypatch.chdir(project)
    for arguments in (["lint", "-c", "bridge.yaml"], ["lint", "flows"], ["check"], ["check", "--no-import"]):
        result = CliRunner().invoke(root, arguments)
        assert result.exit_code == 1
        lines = result.stdout.splitlines()[:-1]
        assert len(lines) == len(expected)
        for line, (number, text) in zip(lines, expected, strict=True):
            assert Path(line.partition(":")[0]).absolute() == file
            assert line.partition(":")[2].startswith(f"{number}:")
            assert text in line
    file.write_text(NAMED.replace("decisionz", "decisions").replace('"aa"', '"a"').replace("flaw", "flow"))
    file.write_text(file.read_text().replace('"1"), "add", 1)', '"1"), "add", 1)  # bridge: ignore[unknown-name] Java'))
    for arguments in (["lint"], ["check"]):
        assert CliRunner().invoke(root, arguments).exit_code == 0


def test_names_of_files_beyond_the_configuration_are_left_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "flows" / "flow.py").write_text(CLEAN.replace("call_activity('a')", "create_timer(1)"))
    (project / "other.py").write_text(CLEAN)
    monkeypatch.chdir(project)
    assert lint("other.py", "flows").stdout == "ok: 2 orchestrators, no findings\n"


def test_findings_are_lines_and_a_summary(project: Path) -> None:
    result = lint(project / "flows")
    place = f"{project / 'flows' / 'flow.py'}:3:5"
    received = "missing-yield: there is no wait for the result of call_activity(); write `yield call_activity(...)`"
    assert (result.exit_code, result.stdout) == (1, f"{place} {received}\n1 finding\n")


def test_without_paths_it_reads_the_modules_of_the_configuration(project: Path) -> None:
    result = lint("-c", project / "bridge.yaml")
    assert result.exit_code == 1
    assert "flow.py:3:5 missing-yield" in result.stdout


def test_json(project: Path) -> None:
    received = json.loads(lint(project, "--json").stdout)
    assert received["ok"] is False
    assert [(one["rule"], one["line"], one["column"]) for one in received["findings"]] == [("missing-yield", 3, 5)]


def test_sarif(project: Path) -> None:
    log = json.loads(lint(project, "--sarif").stdout)
    assert [one["ruleId"] for one in log["runs"][0]["results"]] == ["missing-yield"]


def test_the_forms_of_code_hosts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert lint("flows", "--format", "sarif").stdout == lint("flows", "--sarif").stdout
    first, second, summary = lint("flows", "--format", "github").stdout.splitlines()
    file, place = "flows/flow.py", "line=3,col=5"
    assert first.startswith(f"::error file={file},{place},title=missing-yield%3A {RULES['missing-yield']}::")
    assert ",title=unknown-name%3A " in second
    assert summary == "2 findings"
    assert lint("--rules", "--format", "github").exit_code == 2


def test_the_rules_can_be_listed() -> None:
    result = lint("--rules")
    assert result.exit_code == 0
    assert all(rule in result.stdout for rule in RULES)
    assert json.loads(lint("--rules", "--json").stdout) == dict(RULES)


def test_what_cannot_be_understood(project: Path) -> None:
    assert lint(project / "nowhere").exit_code == 2
    assert lint(project, "--json", "--sarif").exit_code == 2
    assert lint("-c", project / "nowhere.yaml").exit_code == 3
