"""Syntax trees of the modules of a room, for tests of the code's own rules."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
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


@contextmanager
def uncollected() -> Iterator[None]:
    """Block without collections of garbage: they, and later ones, would visit a million nodes and find none."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@cache
def parse(source: str) -> ast.Module:
    """Parse a module. Nobody changes the tree: the rules that read all modules run in one process, and share it."""
    with uncollected():
        return ast.parse(source)


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
