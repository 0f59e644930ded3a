"""Findings in SARIF 2.1.0, the format of code hosts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge import __version__
from bridge.lint.finding import RULES, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], orchestrators: int | None = None) -> dict[str, Any]:
    """SARIF log with one run that holds every finding. Paths below the current directory are relative to it.

    orchestrators: number of analysed functions, written as a property of the run.
    """
    rules = list(RULES)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "bridge lint",
                        "version": __version__,
                        "rules": [{"id": rule, "shortDescription": {"text": RULES[rule]}} for rule in rules],
                    }
                },
                "results": [
                    {
                        "ruleId": finding.rule,
                        "ruleIndex": rules.index(finding.rule),
                        "level": "error",
                        "message": {"text": f"{finding.what}; {finding.remedy}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": _uri(finding.file)},
                                    "region": {"startLine": finding.line, "startColumn": finding.column},
                                }
                            }
                        ],
                    }
                    for finding in findings
                ],
                **({} if orchestrators is None else {"properties": {"orchestrators": orchestrators}}),
            }
        ],
    }


def _uri(file: str) -> str:
    path = Path(file)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_posix() if not path.is_absolute() else path.as_uri()
