"""Nodes of a syntax tree and their parents, cached because many rules walk the same function."""

from __future__ import annotations

import ast
from functools import lru_cache

_LEAVES = frozenset({*ast.expr_context.__subclasses__(), *ast.operator.__subclasses__(), *ast.cmpop.__subclasses__()})
"""Classes of nodes that no rule examines: leaf nodes, shared by the whole tree."""


def children(node: ast.AST) -> list[ast.AST]:
    """Children of a node in order, without contexts and operators. Twice as fast as `ast.iter_child_nodes`."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if value.__class__ is list:
            found += [one for one in value if isinstance(one, ast.AST)]
        elif isinstance(value, ast.AST) and value.__class__ not in _LEAVES:
            found.append(value)
    return found


def walk(root: ast.AST) -> list[ast.AST]:
    """Current nodes of the tree, the root first."""
    found = [root]
    for node in found:  # grows during iteration
        found += children(node)
    return found


@lru_cache(maxsize=4096)
def nodes(root: ast.AST) -> list[ast.AST]:
    """Nodes of the tree as of the first call, the root first."""
    return walk(root)


@lru_cache(maxsize=4096)
def calls_in(root: ast.AST) -> list[ast.Call]:
    return [node for node in nodes(root) if isinstance(node, ast.Call)]


@lru_cache(maxsize=4096)
def parents(root: ast.AST) -> dict[ast.AST, ast.AST]:
    """Parent by node, for each node below the root."""
    return {child: node for node in nodes(root) for child in children(node)}
