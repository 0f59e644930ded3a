"""Every node of a tree and its parent, looked up once: many rules walk the same function."""

from __future__ import annotations

import ast
from functools import lru_cache


@lru_cache(maxsize=4096)
def nodes(root: ast.AST) -> list[ast.AST]:
    """The tree's nodes, the root first."""
    found = [root]
    for node in found:  # grows while it is walked
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                found += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context | ast.operator | ast.cmpop):
                found.append(value)
    return found


@lru_cache(maxsize=4096)
def calls_in(root: ast.AST) -> list[ast.Call]:
    return [node for node in nodes(root) if isinstance(node, ast.Call)]


@lru_cache(maxsize=4096)
def parents(root: ast.AST) -> dict[ast.AST, ast.AST]:
    """The node that each node below the root is a child of."""
    return {child: node for node in nodes(root) for child in ast.iter_child_nodes(node)}
