"""Where a finding is."""

from __future__ import annotations

import ast

from bridge.lint.finding import Finding
from bridge.lint.project import Reached


def found(reached: Reached, node: ast.AST, rule: str, what: str, remedy: str) -> Finding:
    """A finding at a node; in a helper it says which orchestrator runs it."""
    if not reached.is_orchestrator:
        what = f"{what} (in {reached.function.name}, which orchestrator {reached.orchestrator} runs)"
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding(str(reached.module.path), line, column + 1, rule, what, remedy)
