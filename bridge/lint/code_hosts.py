"""Findings in the forms of code hosts: SARIF 2.1.0, and annotations of GitHub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bridge import __version__
from bridge.lint.finding import RULES, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A rule of a tool.

    title: heading of its annotations.
    help: text for readers who want to know more; empty if there is none.
    """

    text: str
    title: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A result of a tool. line and column start at 1; 0: unknown."""

    rule: str
    level: Literal["error", "warning"]
    text: str
    file: str
    line: int
    column: int


def sarif(findings: Sequence[Finding], orchestrators: int | None = None) -> dict[str, Any]:
    """SARIF log of `bridge lint`.

    orchestrators: number of analysed functions, written as a property of the run.
    """
    properties = {} if orchestrators is None else {"orchestrators": orchestrators}
    return log("bridge lint", _RULES, _results(findings), properties)


def github(findings: Sequence[Finding]) -> Iterator[str]:
    """Annotations of `bridge lint`, see `github_annotations`."""
    return github_annotations(_RULES, _results(findings))


_RULES = {rule: ToolRule(text, f"{rule}: {text}") for rule, text in RULES.items()}


def _results(findings: Sequence[Finding]) -> list[ToolResult]:
    return [
        ToolResult(each.rule, "error", f"{each.what}; {each.remedy}", each.file, each.line, each.column)
        for each in findings
    ]


def github_annotations(rules: Mapping[str, ToolRule], results: Sequence[ToolResult]) -> Iterator[str]:
    """Workflow commands of GitHub Actions, which become annotations of the lines of a change."""
    for each in results:
        place = f",line={each.line},col={max(each.column, 1)}" if each.line else ""
        title, file = (
            _escaped(text).replace(":", "%3A").replace(",", "%2C") for text in (rules[each.rule].title, each.file)
        )
        yield f"::{each.level} file={file}{place},title={title}::{_escaped(each.text)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def log(
    tool: str, rules: Mapping[str, ToolRule], results: Sequence[ToolResult], properties: Mapping[str, Any]
) -> dict[str, Any]:
    """SARIF log with one run that holds every result. Paths below the current directory are relative to it."""
    order = {rule: index for index, rule in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": tool,
                        "version": __version__,
                        "rules": [
                            {
                                "id": name,
                                "shortDescription": {"text": rule.text},
                                **({"help": {"text": rule.help}} if rule.help else {}),
                            }
                            for name, rule in rules.items()
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": each.rule,
                        "ruleIndex": order[each.rule],
                        "level": each.level,
                        "message": {"text": each.text},
                        "locations": [{"physicalLocation": _location(each)}],
                    }
                    for each in results
                ],
                **({"properties": dict(properties)} if properties else {}),
            }
        ],
    }


def _location(result: ToolResult) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(result.file)}}
    if result.line:
        place["region"] = {"startLine": result.line, "startColumn": max(result.column, 1)}
    return place


def _uri(file: str) -> str:
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix() if not path.is_absolute() else path.as_uri()
