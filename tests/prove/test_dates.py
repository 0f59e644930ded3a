"""Overdue results, with invented dates and code."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.prove import table
from tests.prove.proofs import DAYS, PROOFS, ROOT, Proof, digests, overdue

TODAY = date(2031, 3, 20)
PROOF = Proof(
    "broker", "make prove-broker", ("lib/broker", "lib/one.py"), ("tests/broker",),
    declared=TODAY - timedelta(days=DAYS + 1),
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "lib/broker/deep").mkdir(parents=True)
    (tmp_path / "lib/broker/a.py").write_text("a = 1\n")
    (tmp_path / "lib/broker/deep/b.py").write_text("b = 1\n")
    (tmp_path / "lib/one.py").write_text("one = 1\n")
    (tmp_path / "lib/other.py").write_text("other = 1\n")
    return tmp_path


def result(tree: Path, days: int, **more: Any) -> dict[str, Any]:
    """Return a result that is `days` old, for the present content of the tree."""
    ran = (TODAY - timedelta(days=days)).isoformat()
    return {"broker": {"date": ran, "code": digests(PROOF.covers, tree)} | more}


def change(tree: Path) -> None:
    (tree / "lib/broker/deep/b.py").write_text("b = 2\n")


@pytest.mark.parametrize("days", [0, 1, DAYS, -1])
def test_a_recent_result_stands_whatever_has_changed(tree: Path, days: int) -> None:
    results = result(tree, days)
    change(tree)
    assert overdue(results, [PROOF], TODAY, tree) == []


@pytest.mark.parametrize("days", [DAYS + 1, 400])
def test_an_old_result_stands_for_unchanged_code(tree: Path, days: int) -> None:
    results = result(tree, days)
    (tree / "lib/other.py").write_text("other = 2\n")
    cache = tree / "lib/broker/__pycache__"
    cache.mkdir()
    (cache / "a.pyc").write_bytes(b"compiled")
    (tree / "lib/broker/.a.py.swp").write_bytes(b"of an editor")
    assert overdue(results, [PROOF], TODAY, tree) == []


def test_an_old_result_for_changed_code_is_reported_with_name_age_change_and_command(tree: Path) -> None:
    results = result(tree, 15)
    change(tree)
    [said] = overdue(results, [PROOF], TODAY, tree)
    assert said == (
        "proof broker: the result is 15 days old (limit 14), and since then lib/broker changed. "
        "Renew it with `make prove-broker` and commit docs/guarantees.*"
    )


@pytest.mark.parametrize("how", ["changed", "added", "removed", "renamed", "moved", "one file", "all gone"])
def test_every_kind_of_change_counts(tree: Path, how: str) -> None:
    results = result(tree, 15)
    folder = tree / "lib/broker"
    match how:
        case "changed":
            change(tree)
        case "added":
            (folder / "c.py").touch()
        case "removed":
            (folder / "a.py").unlink()
        case "renamed":
            (folder / "a.py").rename(folder / "z.py")
        case "moved":
            (folder / "a.py").rename(folder / "deep/a.py")
        case "one file":
            (tree / "lib/one.py").write_text("one = 2\n")
        case "all gone":
            (tree / "lib").rename(tree / "elsewhere")
    assert len(overdue(results, [PROOF], TODAY, tree)) == 1


def test_a_proof_that_covers_more_than_it_did_is_run_again(tree: Path) -> None:
    results = result(tree, 15)
    wider = Proof("broker", "make prove-broker", (*PROOF.covers, "lib/other.py"))
    [said] = overdue(results, [wider], TODAY, tree)
    assert "lib/other.py changed" in said


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({}, "was declared 15 days ago and has never been recorded"),
        ({"broker": {}}, "has an unreadable result (KeyError)"),
        ({"broker": {"date": "soon", "code": {}}}, "has an unreadable result (ValueError)"),
        ({"broker": {"date": 20310320, "code": {}}}, "has an unreadable result (TypeError)"),
        ({"broker": {"date": "2031-03-20"}}, "has an unreadable result (KeyError)"),
        ({"broker": {"date": "2031-03-20", "code": 7}}, "has an unreadable result (TypeError)"),
        ({"broker": []}, "has an unreadable result (TypeError)"),
        ({"broker": {"date": "2062-03-20", "code": {}}}, "is dated 11323 days ahead"),
    ],
)
def test_a_result_that_says_nothing_is_none(tree: Path, results: dict[str, Any], said: str) -> None:
    assert [f"proof broker: {said}." in each for each in overdue(results, [PROOF], TODAY, tree)] == [True]


def test_a_new_proof_has_as_much_time_for_its_first_result(tree: Path) -> None:
    new = Proof("new", "make prove-new", PROOF.covers, declared=TODAY)
    assert overdue({}, [new], TODAY + timedelta(days=DAYS), tree) == []
    assert len(overdue({}, [new], TODAY + timedelta(days=DAYS + 1), tree)) == 1


def test_only_the_proofs_that_are_overdue_are_named(tree: Path) -> None:
    recent = Proof("recent", "make prove-recent", PROOF.covers)
    results = result(tree, 15) | {"recent": {"date": TODAY.isoformat(), "code": {}}}
    change(tree)
    [said] = overdue(results, [PROOF, recent], TODAY, tree)
    assert said.startswith("proof broker: ")


def test_what_is_covered_exists() -> None:
    for proof in PROOFS:
        missing = [path for path, digest in digests(proof.covers).items() if not digest]
        assert not missing, proof.name


def test_every_slow_test_belongs_to_a_proof() -> None:
    parts = [part for proof in PROOFS for part in proof.tests if part.startswith("tests/")]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        if "pytest.mark.prove" in path.read_text() and path != Path(__file__):
            assert any(name == part or name.startswith(f"{part}/") for part in parts), name


def test_every_command_is_one_of_the_makefile_or_of_the_kills() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for proof in PROOFS:
        if proof.tests:
            assert f"\n{proof.command.removeprefix('make ')}: " in makefile
            assert f"\n\t$(BIN)/python -m tests.prove.dates run {proof.name}\n" in makefile
        else:
            assert proof.command == f"python -m tests.prove {proof.name.removeprefix('kills/')}"


def test_a_renewed_result_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.prove import dates

    results, document = tmp_path / "guarantees.json", tmp_path / "guarantees.md"
    results.write_text(table.RESULTS.read_text())
    document.write_text(table.DOCUMENT.read_text())
    monkeypatch.setattr(table, "RESULTS", results)
    monkeypatch.setattr(table, "DOCUMENT", document)
    monkeypatch.setattr(dates, "today", lambda: TODAY)
    before = table.load()
    dates.recorded(["servicebus"], {"servicebus": {"bridge/brokers/servicebus": "0123"}})
    after = table.load()
    assert after["proofs"]["servicebus"] == {"date": "2031-03-20", "code": {"bridge/brokers/servicebus": "0123"}}
    del after["proofs"]["servicebus"]
    before["proofs"].pop("servicebus", None)
    assert after == before
    assert "| `make prove-servicebus` | 2031-03-20 |" in document.read_text()
