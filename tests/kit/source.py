"""Syntax trees of the modules of a room, for tests of the code's own rules."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def trees(room: str = "bridge", *, text: str = "") -> Iterator[tuple[Path, ast.Module]]:
    """Yield the files below a folder, by their path there, with their trees.

    text: what the searched files contain, such as the name of a module; others are not parsed.
    """
    for path in sorted((ROOT / room).rglob("*.py")):
        source = path.read_text()
        if text in source:
            yield path.relative_to(ROOT / room), parse(source)


def parse(source: str) -> ast.Module:
    """Parse a module. Without the collections of garbage, which find none, it takes a third of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, as `ast.walk` does in twice the time. Contexts (load, store) are left out."""
    found = [tree]
    while found:
        node = found.pop()
        yield node
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                found += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and name != "ctx":
                found.append(value)
