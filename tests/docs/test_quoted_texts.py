"""Texts of logs and errors that the tables of symptoms quote are texts of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

import pytest

from tests.docs.document import ROOT

_CODE = re.compile(r"`([^`]+)`")
_ANY = "\0"
_VALUES = ("…", "...", "N", "NAME", "NAMESPACE")
"""Words of a quoted text that stand for a value."""
_PLACEHOLDER = re.compile(r"%(?:\.\d+)?[sdfgr]")
TABLES = (("docs/kafka.md", "Message"), ("docs/servicebus.md", "Symptom"), ("docs/operations.md", "Symptom"))


def _text(node: ast.expr) -> str | None:
    """Text of a literal, with `_ANY` in the place of values; None for another expression."""
    match node:
        case ast.Constant(value=str(text)):
            return _PLACEHOLDER.sub(_ANY, text)
        case ast.JoinedStr(values=parts):
            return "".join(_ANY if isinstance(part, ast.FormattedValue) else _text(part) or "" for part in parts)
    return None


def _texts() -> Iterator[Sequence[str]]:
    for path in (ROOT / "bridge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.expr) and (text := _text(node)) is not None and " " in text:
                yield text.split()


def _same(written: Sequence[str], quoted: Sequence[str]) -> int | None:
    """Number of equal words if the quoted words can be the first ones of a text. A value may have several words."""
    if not quoted:
        return 0
    if not written:
        return None
    if _ANY in written[0]:
        found = [_same(written[1:], quoted[count:]) for count in range(1, len(quoted) + 1)]
        return max((each for each in found if each is not None), default=None)
    rest = _same(written[1:], quoted[1:])
    if rest is None or quoted[0] in _VALUES:
        return rest
    return rest + 1 if quoted[0] in (written[0], written[0].strip(":;,.")) else None


def _is_text(quoted: str) -> bool:
    """True for a text of a log or an error: words, no command, no name of a setting."""
    return " " in quoted and not re.match(r"bridge |limits\.|\w+: ", quoted)


def _cells(page: str, head: str) -> Iterator[str]:
    """First cells of a table, with their backticks."""
    for line in (ROOT / page).read_text().split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]:
        yield line.split(" | ")[0]


QUOTED = [
    pytest.param(quoted, id=f"{page} {quoted}")
    for page, head in TABLES
    for cell in _cells(page, head)
    for quoted in _CODE.findall(cell)
    if _is_text(quoted)
]
WRITTEN = [(text, {word.strip(":;,.") for word in text}) for text in _texts()]


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_text_is_written(quoted: str) -> None:
    words = quoted.split()
    least = (len(words) + 1) // 2
    near = [text for text, known in WRITTEN if len(known.intersection(words)) >= least]
    assert any((_same(text[at:], words) or 0) >= least for text in near for at in range(len(text))), quoted


def test_the_tables_quote_texts() -> None:
    assert len(QUOTED) > 20
