"""Helpers, suppressions, files, and duration of the analysis."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bridge.lint import examine, sarif
from bridge.lint.finding import Finding

FLOW = """\
from durabletask import task
from pack.helpers import deadline
from . import more
def flow(ctx: task.OrchestrationContext, value):
    yield ctx.create_timer(deadline(ctx))
    more.note()
"""
ROOT = Path(__file__).resolve().parents[2]


def package(directory: Path) -> Path:
    pack = directory / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("from pack.deep import buried\n")
    (pack / "flow.py").write_text(FLOW)
    (pack / "helpers.py").write_text("from pack import buried\ndef deadline(ctx):\n    return buried()\n")
    (pack / "deep.py").write_text("from datetime import datetime\ndef buried():\n    return datetime.now()\n")
    (pack / "more.py").write_text("import time\ndef note():\n    time.sleep(1)\ndef unused():\n    time.sleep(1)\n")
    return pack


def test_helpers_are_followed_through_the_package(tmp_path: Path) -> None:
    pack = package(tmp_path)
    for paths in ([pack], [pack / "flow.py"]):
        found = [(Path(one.file).name, one.line, one.rule) for one in examine(paths).findings]
        assert found == [("deep.py", 3, "clock"), ("more.py", 3, "sleep")]
    assert "orchestrator flow runs" in examine([pack]).findings[0].what


def test_a_suppression_needs_its_rule_and_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    line = "    x = hash(value)"

    def rules(comment: str, above: bool = False) -> list[str]:
        body = f"    {comment}\n{line}\n" if above else f"{line}  {comment}\n"
        path.write_text(
            f"from durabletask import task\ndef flow(ctx: task.OrchestrationContext, value):\n{body}    yield x\n"
        )
        return sorted(one.rule for one in examine([path]).findings)

    assert rules("") == ["random"]
    assert rules("# bridge: ignore[random] value is a number") == []
    assert rules("# bridge: ignore[random] value is a number", above=True) == []
    assert rules("# bridge: ignore[random, clock] value is a number") == []
    assert rules("# bridge: ignore[random]") == ["random", "suppression"]
    assert rules("# bridge: ignore") == ["random", "suppression"]
    assert rules("# bridge: ignore[clock] wrong rule") == ["random", "suppression"]
    assert rules("# bridge: ignore[chance] no such rule") == ["random", "suppression"]


def test_a_suppression_in_a_helper_is_judged_with_its_orchestrators_only(tmp_path: Path) -> None:
    """The paths are those of a pre-commit hook, which passes only changed files."""
    pack = package(tmp_path)
    deep = pack / "deep.py"
    deep.write_text(deep.read_text().replace("now()", "now()  # bridge: ignore[clock] for a log"))
    for paths in ([pack], [pack / "flow.py"], [deep]):
        assert "deep.py" not in [Path(one.file).name for one in examine(paths).findings]
    deep.write_text("def buried():\n    return 1  # bridge: ignore[clock] no more\n")
    assert [(one.rule, one.line) for one in examine([pack]).findings if one.file == str(deep)] == [("suppression", 2)]
    assert examine([deep]).findings == []


def test_a_file_that_is_no_python_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def x(:\n")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    assert [(Path(one.file).name, one.rule) for one in examine([tmp_path]).findings] == [
        ("binary.py", "syntax"),
        ("broken.py", "syntax"),
    ]


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(LookupError, match="nowhere"):
        examine([Path("nowhere")])


def test_the_samples_are_clean() -> None:
    assert examine([ROOT / "workflows", ROOT / "bridge" / "workflow"]).findings == []


@pytest.mark.measured
def test_ten_thousand_lines_in_two_seconds(tmp_path: Path) -> None:
    flow = "\n".join(
        f"def flow{n}(ctx: task.OrchestrationContext, value):\n"
        f"    a = ctx.call_activity('a', input=value)\n    b = ctx.create_timer(ctx.current_utc_datetime)\n"
        f"    winner = yield task.when_any([a, b])\n    if winner is a:\n        return {{'n': {n}, 'a': 1}}\n"
        f"    for one in sorted(value):\n        yield ctx.call_activity('b', input=one)\n    return None\n"
        for n in range(100)
    )
    for number in range(10):
        (tmp_path / f"flows{number}.py").write_text("from durabletask import task\n" + flow)
    lines = sum(path.read_text().count("\n") for path in tmp_path.iterdir())
    started = time.process_time()
    assert examine([tmp_path]).findings == []
    took = time.process_time() - started
    assert lines >= 9_900
    assert took < 2.0


def test_sarif_names_rule_file_and_place() -> None:
    log = sarif([Finding("workflows/a.py", 3, 5, "clock", "what", "remedy")])
    run = log["runs"][0]
    result = run["results"][0]
    place = result["locations"][0]["physicalLocation"]
    assert log["version"] == "2.1.0"
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "clock"
    assert place == {"artifactLocation": {"uri": "workflows/a.py"}, "region": {"startLine": 3, "startColumn": 5}}
