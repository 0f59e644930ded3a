"""Results of `bridge check` for other programs: JSON, SARIF, annotations of GitHub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bridge.app.check.configuration import Report
from bridge.config.yaml.places import Places
from bridge.core.errors import Problem
from bridge.core.problems.codes import CODES
from bridge.lint import code_hosts
from bridge.lint.code_hosts import ToolResult, ToolRule

_RULES = {code.name: ToolRule(code.summary, code.title, f"See {code.anchor}") for code in CODES.values()}


def document(report: Report, *, ok: bool) -> dict[str, Any]:
    """JSON document of a report."""
    return {"ok": ok, "problems": [asdict(problem) for problem in report.problems], "counts": dict(report.counts)}


def sarif(report: Report) -> dict[str, Any]:
    """SARIF log of a report."""
    return code_hosts.log("bridge check", _RULES, _results(report), {"counts": dict(report.counts)})


def github_annotations(report: Report) -> Iterator[str]:
    """Annotations of a report."""
    return code_hosts.github_annotations(_RULES, _results(report))


def _results(report: Report) -> list[ToolResult]:
    """Results with their places. A problem inside an expression has the place of its character."""
    places = Places()
    return [ToolResult(each.code, each.severity, _text(each), each.file, *places.of(each)) for each in report.problems]


def _text(problem: Problem) -> str:
    return f"{problem.path}: {problem.what}" if problem.path else problem.what
