"""Place of a finding."""

from __future__ import annotations

import ast

from bridge.lint.finding import Finding
from bridge.lint.project import Reached


def found(reached: Reached, node: ast.AST, rule: str, what: str, remedy: str) -> Finding:
    """Create a finding at a node. For a helper, its text names the orchestrator that runs the helper."""
    if not reached.is_orchestrator:
        what = f"{what} (in {reached.function.name}, which orchestrator {reached.orchestrator} runs)"
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding(str(reached.module.path), line, column + 1, rule, what, remedy)
