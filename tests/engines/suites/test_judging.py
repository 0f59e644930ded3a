"""Comparison of suites with their committed expectations, on invented results."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.engines.suites import java_sdk, javascript_sdk, judging
from tests.engines.suites.__main__ import SUITES, main
from tests.engines.suites.judging import Expected, differences

AS_EXPECTED = {"a.py::one": "passed", "a.py::two": "failed", "b.py": "skipped"}
EXPECTED = Expected(1, {"a.py::two": "the scheduler purges by itself"}, {"b.py": "needs a blob store"})


def test_what_is_on_the_list_is_no_difference() -> None:
    assert differences(AS_EXPECTED, EXPECTED) == []


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        (
            {"a.py::one": "failed"},
            ["a.py::one: failed, expected passed", "0 tests passed, expected 1"],
        ),
        (
            {"a.py::two": "passed"},
            ["a.py::two: passed, expected failed (the scheduler purges by itself)", "2 tests passed, expected 1"],
        ),
        ({"a.py::two": "skipped"}, ["a.py::two: skipped, expected failed (the scheduler purges by itself)"]),
        ({"b.py": "failed"}, ["b.py: failed, expected skipped (needs a blob store)"]),
        ({"c.py::new": "failed"}, ["c.py::new: failed, expected passed"]),
        ({"c.py::new": "skipped"}, ["c.py::new: skipped, expected passed"]),
        ({"c.py::new": "passed"}, ["2 tests passed, expected 1"]),
    ],
)
def test_every_other_outcome_is_a_difference(outcomes: dict[str, str], found: list[str]) -> None:
    assert differences(AS_EXPECTED | outcomes, EXPECTED) == found


def test_a_test_that_did_not_run_is_a_difference() -> None:
    assert differences({}, EXPECTED) == [
        "a.py::two: not run, expected failed (the scheduler purges by itself)",
        "b.py: not run, expected skipped (needs a blob store)",
        "0 tests passed, expected 1",
    ]


def test_counts_name_every_outcome() -> None:
    assert judging.counts(AS_EXPECTED | {"a.py::three": "passed"}) == "2 passed, 1 failed, 1 skipped"


def test_a_list_stands_for_one_version(tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_text(json.dumps({"python": {"1.0.0": {"passed": 1, "failed": {"a.py::two": "why"}}}}))
    assert judging.load("python", "1.0.0", path) == Expected(1, {"a.py::two": "why"})
    assert judging.load("python", "1.0.1", path) is None
    assert judging.load("javascript", "1.0.0", path) is None


@pytest.mark.parametrize(
    "listed", [{"failed": {"a": " "}}, {"failed": {"a": "why"}, "skipped": {"a": "why"}}], ids=["no reason", "twice"]
)
def test_a_list_without_one_reason_a_test_is_refused(listed: dict[str, dict[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"^a is on the list without|^on the list as failed and as skipped: a$"):
        Expected.read({"passed": 0, **listed})


def test_the_committed_lists_are_readable() -> None:
    lists = json.loads(judging.EXPECTED.read_text())
    assert lists
    for suite, versions in lists.items():
        for version in versions:
            assert judging.load(suite, version) is not None


def test_reports_of_jest_are_read(tmp_path: Path) -> None:
    results = [{"fullName": f"a {status}", "status": status} for status in ("passed", "failed", "pending", "todo")]
    files = [
        {"name": str(tmp_path / "test/a.spec.ts"), "assertionResults": results},
        {"name": str(tmp_path / "test/broken.spec.ts"), "assertionResults": []},
    ]
    assert javascript_sdk.outcomes({"testResults": files}, tmp_path) == {
        "test/a.spec.ts::a passed": "passed",
        "test/a.spec.ts::a failed": "failed",
        "test/a.spec.ts::a pending": "skipped",
        "test/a.spec.ts::a todo": "skipped",
        "test/broken.spec.ts": "failed",
    }


def test_reports_of_surefire_are_read() -> None:
    report = """<testsuite name="com.microsoft.durabletask.Tests">
        <testcase name="good" classname="com.microsoft.durabletask.Tests"><system-out>...</system-out></testcase>
        <testcase name="bad" classname="com.microsoft.durabletask.Tests"><failure>at ...</failure></testcase>
        <testcase name="broken" classname="com.microsoft.durabletask.Tests"><error message="no"/></testcase>
        <testcase name="off" classname="com.microsoft.durabletask.Tests"><skipped message="@Disabled"/></testcase>
    </testsuite>"""
    assert java_sdk.outcomes(report) == {
        "Tests::good": "passed",
        "Tests::bad": "failed",
        "Tests::broken": "failed",
        "Tests::off": "skipped",
    }


@pytest.mark.parametrize("suite", ["python", "javascript", "java"])
def test_a_folder_without_the_sdk_is_refused(suite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([suite, str(tmp_path)]) == 2
    assert f"is no checkout of the {suite} SDK" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outcomes", "version", "code"),
    [
        ({"a": "passed"}, "1.0.0", 0),
        ({"a": "failed"}, "1.0.0", 1),
        ({"a": "passed"}, "1.0.1", 1),
        ({}, "1.0.1", 1),
    ],
)
def test_the_exit_code(
    outcomes: dict[str, str], version: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "expected.json"
    path.write_text(json.dumps({"made up": {"1.0.0": {"passed": 1}}}))
    monkeypatch.setattr(judging, "EXPECTED", path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    suite = SimpleNamespace(NAME="made up", version=lambda _: version, run=lambda *_: outcomes)
    monkeypatch.setitem(SUITES, "made up", suite)
    assert main(["made up", str(tmp_path)]) == code
