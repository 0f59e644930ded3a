"""Findings in SARIF 2.1.0, the format of code hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bridge import __version__
from bridge.lint.finding import RULES, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a tool. help: text for readers who want to know more; empty if there is none."""

    text: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Result:
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
    results = [
        Result(each.rule, "error", f"{each.what}; {each.remedy}", each.file, each.line, each.column)
        for each in findings
    ]
    properties = {} if orchestrators is None else {"orchestrators": orchestrators}
    return log("bridge lint", {rule: Rule(text) for rule, text in RULES.items()}, results, properties)


def log(
    tool: str, rules: Mapping[str, Rule], results: Sequence[Result], properties: Mapping[str, Any]
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


def _location(result: Result) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(result.file)}}
    if result.line:
        place["region"] = {"startLine": result.line, "startColumn": max(result.column, 1)}
    return place


def _uri(file: str) -> str:
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix() if not path.is_absolute() else path.as_uri()
