"""How often the product, its tests and its documents break the rules of language."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.source import parse, walk
from tests.language.retired import IDENTIFIERS, OPENERS, PROSE

ROOT = Path(__file__).parents[2]

ROOMS = ("bridge", "workflows", "demo", "benchmarks", "tests")
_LEFT_OUT = ("tests/lint/corpus/", "tests/language/", "tests/upgrade/v")
"""What `bridge lint` is tried on, the tables of retired words, and records of older builds."""

_FIRST = re.compile(r"[^A-Za-z]*([A-Za-z]+)")
_THIRD_PERSON = re.compile(r"\s*([A-Z][a-z]{2,}(?<!s)s) (?:(?:an?|the|each|every|one|its)\b(?! second)|`)")
"""Verb without a subject, as in "Counts the items"."""
_PARAMETER = re.compile(r"\s*([a-z_]+)(?:, [a-z_]+)*: ")
_COMMENT = re.compile(r"(?:^|\s)#\s(.*)$", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)

Place = tuple[str, int, str]
"""File, line, and what stands there."""


@dataclass(slots=True)
class Found:
    """Places where a rule is broken: docstrings by room, retired identifiers and words of prose by word."""

    docstrings: dict[str, list[Place]] = field(default_factory=lambda: {room: [] for room in ROOMS})
    identifiers: dict[str, list[Place]] = field(default_factory=lambda: {name: [] for name in IDENTIFIERS})
    prose: dict[str, list[Place]] = field(default_factory=lambda: {name: [] for name in PROSE})

    def rules(self) -> Iterator[tuple[str, str, list[Place]]]:
        """Kind, room or word, and places of each rule."""
        for kind in ("docstrings", "identifiers", "prose"):
            for name, places in getattr(self, kind).items():
                yield kind, name, places


def count() -> Found:
    """Search all rooms and documents."""
    found = Found()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(_LEFT_OUT):
                _module(found, room, name, path.read_text())
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "RELEASING.md")]
    pages += sorted((ROOT / "bridge/app/scaffold").rglob("*.md*"))
    for path in (*pages, *sorted((ROOT / "docs").rglob("*.md"))):
        # Code of documents is tested as code; lines keep their numbers
        text = _CODE.sub(lambda code: "\n" * code[0].count("\n"), path.read_text())
        _prose(found, path.relative_to(ROOT).as_posix(), text, 1)
    return found


def _module(found: Found, room: str, name: str, text: str) -> None:
    tree = parse(text)
    nodes = list(walk(tree))
    docstrings = set()
    for part in name.removesuffix(".py").split("/"):
        _identifier(found, name, 1, part)
    for docstring in docstrings_of(nodes):
        docstrings.add(id(docstring))
        if (opener := breaks_rule(docstring.value)) is not None:
            found.docstrings[room].append((name, docstring.lineno, opener))
    for node in nodes:
        if type(node) is ast.Constant:
            if isinstance(node.value, str) and " " in node.value:
                _prose(found, name, node.value, node.lineno)
            continue
        for identifier in _identifiers(node):
            _identifier(found, name, getattr(node, "lineno", 1), identifier)
    for comment in _COMMENT.finditer(text):
        _prose(found, name, comment[1], text.count("\n", 0, comment.start(1)) + 1)


def docstrings_of(nodes: Iterable[ast.AST]) -> Iterator[ast.Constant]:
    """Docstrings of modules, classes and functions, and those behind constants and attributes."""
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            before: ast.AST | None = None
            for each in node.body:
                is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
                if is_text and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                    constant = each.value  # type: ignore[attr-defined]  # is_text says so
                    if isinstance(constant.value, str):
                        yield constant
                before = each


def breaks_rule(docstring: object) -> str | None:
    """First word of a docstring that opens with a pronoun, a question word, a parameter or a verb in the third person.

    None of any other.
    """
    if found := _PARAMETER.match(str(docstring)) or _THIRD_PERSON.match(str(docstring)):
        return found[1]
    found = _FIRST.match(str(docstring))
    return found[1] if found is not None and found[1].lower() in OPENERS else None


def _identifiers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg is not None):
        yield node.arg
    elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.alias):
        yield from node.name.split(".")
        if node.asname is not None:
            yield node.asname
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "").split(".")


def _identifier(found: Found, name: str, line: int, identifier: str) -> None:
    if identifier in found.identifiers:
        found.identifiers[identifier].append((name, line, identifier))


def _prose(found: Found, name: str, text: str, line: int) -> None:
    for word, (pattern, _) in PROSE.items():
        for match in pattern.finditer(text):
            found.prose[word].append((name, line + text.count("\n", 0, match.start()), match[0].strip()))
