"""Names of code that docstrings and comments quote exist: a rename changes these, too."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "bridge"
QUOTED = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")
ELSEWHERE = frozenset({"__wrapped__", "ast.iter_child_nodes", "cel.expr.CheckedExpr", "exists_one"})
"""Names of the standard library and of CEL."""
EXAMPLES = ("Class", "Targets")
"""Classes of user code in the docstrings of the lint."""


def is_code(name: str) -> bool:
    """True for a name that is surely one of code: with an underscore, or with the class that defines it."""
    first, dot, _ = name.partition(".")
    return "_" in name or bool(dot and first[:1].isupper())


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    yield from tokenize.generate_tokens(io.StringIO(text).readline)


def is_prose(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""'))


def known(text: str) -> set[str]:
    """Names and words of texts in a module, without its docstrings and comments."""
    found: set[str] = set()
    for token in tokens(text):
        if not is_prose(token):
            found |= set(re.findall(r"\w+", token.string))
    return found


def quoted(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of the quoted names of code."""
    for token in tokens(text):
        if is_prose(token):
            for number, line in enumerate(token.string.splitlines(), token.start[0]):
                yield from ((number, found[1]) for found in QUOTED.finditer(line) if is_code(found[1]))


def test_quoted_names_exist() -> None:
    texts = {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    names = {part for path in texts for part in path.with_suffix("").parts}.union(*map(known, texts.values()))
    missing = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, text in texts.items()
        for line, name in quoted(text)
        if name not in ELSEWHERE
        and not name.startswith(EXAMPLES)
        and not all(part in names for part in name.split("."))
    ]
    assert missing == []


def test_quoted_names_are_found() -> None:
    text = '"""See `Writer.put` and `_flush()`."""\nput = 1  # not `draining` but `has_ended`, as `json.loads`\n'
    assert list(quoted(text)) == [(1, "Writer.put"), (1, "_flush"), (2, "has_ended")]
    assert {"put", "1"} <= known(text)
    assert "has_ended" not in known(text)
