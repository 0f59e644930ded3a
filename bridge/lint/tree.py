"""Every node of a tree and its parent, looked up once: many rules walk the same function."""

from __future__ import annotations

import ast
from functools import lru_cache

_LEAVES = frozenset({*ast.expr_context.__subclasses__(), *ast.operator.__subclasses__(), *ast.cmpop.__subclasses__()})
"""Classes of nodes that no rule looks at: shared by the whole tree, without children."""


def children(node: ast.AST) -> list[ast.AST]:
    """The node's children in order, without contexts and operators; `ast.iter_child_nodes` takes twice as long."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if value.__class__ is list:
            found += [one for one in value if isinstance(one, ast.AST)]
        elif isinstance(value, ast.AST) and value.__class__ not in _LEAVES:
            found.append(value)
    return found


def walk(root: ast.AST) -> list[ast.AST]:
    """The tree's nodes as they are now, the root first."""
    found = [root]
    for node in found:  # grows while it is walked
        found += children(node)
    return found


@lru_cache(maxsize=4096)
def nodes(root: ast.AST) -> list[ast.AST]:
    """The tree's nodes at the first call, the root first."""
    return walk(root)


@lru_cache(maxsize=4096)
def calls_in(root: ast.AST) -> list[ast.Call]:
    return [node for node in nodes(root) if isinstance(node, ast.Call)]


@lru_cache(maxsize=4096)
def parents(root: ast.AST) -> dict[ast.AST, ast.AST]:
    """The node that each node below the root is a child of."""
    return {child: node for node in nodes(root) for child in children(node)}
