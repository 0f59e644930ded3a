"""Results of `bridge check` for other programs: JSON, SARIF, annotations of GitHub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bridge.app.check.configuration import Report
from bridge.core.errors import Problem
from bridge.core.problems.codes import CODES
from bridge.lint.sarif import Result, Rule, log


def document(report: Report, *, ok: bool) -> dict[str, Any]:
    """JSON document of a report."""
    return {"ok": ok, "problems": [asdict(problem) for problem in report.problems], "counts": dict(report.counts)}


def sarif(report: Report) -> dict[str, Any]:
    """SARIF log of a report."""
    rules = {code.name: Rule(code.summary, f"See {code.anchor}") for code in CODES.values()}
    results = [
        Result(each.code, each.severity, _text(each), each.file, each.line, each.column) for each in report.problems
    ]
    return log("bridge check", rules, results, {"counts": dict(report.counts)})


def github_annotations(report: Report) -> Iterator[str]:
    """Workflow commands of GitHub Actions, which become annotations of the lines of a change."""
    for problem in report.problems:
        place = f",line={problem.line},col={problem.column}" if problem.line else ""
        title, file = (
            _escaped(text).replace(":", "%3A").replace(",", "%2C") for text in (CODES[problem.code].title, problem.file)
        )
        yield f"::{problem.severity} file={file}{place},title={title}::{_escaped(_text(problem))}"


def _text(problem: Problem) -> str:
    return f"{problem.path}: {problem.what}" if problem.path else problem.what


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
