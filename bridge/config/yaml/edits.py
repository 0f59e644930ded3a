"""Changes of single values in the text of a YAML file. Comments and formatting stay."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bridge.config.yaml.document import parse
from bridge.config.yaml.node import FilePosition, MappingNode, Node, ScalarNode, SequenceNode, plain
from bridge.config.yaml.scalars import ScalarSpan, comments, spans
from bridge.core.errors import Problem

LineColumn = tuple[int, int]
"""Line and column, from 1."""


def rewrite(text: str, values: Mapping[LineColumn, str | bool], comment_lines: Collection[int] = ()) -> str:
    """Text with new values of scalars and keys, and without the comments of some lines.

    A value is only changed if the result is the same configuration except for that value. A value in several lines
    stays.
    """
    changed = _applied(text, values, comment_lines)
    if changed is not None:
        return changed
    # One of the changes is not possible. Later ones first, because each moves what follows in its line
    for place in sorted(values, reverse=True):
        changed = _applied(text, {place: values[place]}, ())
        text = text if changed is None else changed
    return text


def _applied(text: str, values: Mapping[LineColumn, str | bool], comment_lines: Collection[int]) -> str | None:
    """Text with all changes; None if the result would be another configuration."""
    before = parse(text, "", [])
    if before is None:
        return None
    pieces = [(span.start, span.end, piece) for span, piece in _scalars(text, values)]
    pieces += [(start, end, "") for start, end in _comments(text, comment_lines)]
    changed = text
    for start, end, piece in sorted(pieces, reverse=True):
        changed = changed[:start] + piece + changed[end:]
    problems: list[Problem] = []
    after = parse(changed, "", problems)
    if after is None or len(pieces) < len(values) + len(set(comment_lines)):
        return None
    return changed if plain(after) == _expected(before, values) else None


def _scalars(text: str, values: Mapping[LineColumn, str | bool]) -> Sequence[tuple[ScalarSpan, str]]:
    """Places of the changed scalars that fit in one line, each with its new text."""
    found = []
    for span in spans(text):
        value = values.get((span.line, span.column))
        if value is not None and span.style not in ("|", ">") and "\n" not in text[span.start : span.end]:
            found.append((span, _written(value, span.style)))
    return found


def _written(value: str | bool, style: str) -> str:
    """Text of a value, in the style of the one it replaces."""
    if isinstance(value, bool):
        return str(value).lower()
    if style == "'":
        return "'" + value.replace("'", "''") + "'"
    if style == '"' or not _is_plain(value):
        return json.dumps(value, ensure_ascii=False)
    return value


def _is_plain(value: str) -> bool:
    """True if a text can be written without quotes everywhere."""
    problems: list[Problem] = []
    root = parse(f"a: [{value}, {value}]\n", "", problems)
    return root is not None and not problems and plain(root) == {"a": [value, value]}


def _comments(text: str, lines: Collection[int]) -> Sequence[tuple[int, int]]:
    """Offsets of the comments in some lines, with the space before them, or with the whole line."""
    found = []
    for start, comment in comments(text) if lines else ():
        if text.count("\n", 0, start) + 1 not in lines:
            continue
        begin, end = text.rfind("\n", 0, start) + 1, start + len(comment)
        before = text[begin:start]
        if before.strip():
            found.append((begin + len(before.rstrip()), end))
        else:
            newline = text.find("\n", end)
            found.append((begin, len(text) if newline < 0 else newline + 1))
    return found


def _expected(node: Node, values: Mapping[LineColumn, str | bool]) -> Any:
    """Plain values of a tree with the changed ones."""
    if isinstance(node, MappingNode):
        return {_new(node.keys[key], values, key): _expected(part, values) for key, part in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [_expected(item, values) for item in node.items]
    assert isinstance(node, ScalarNode)
    return _new(node.mark, values, node.value)


def _new(mark: FilePosition, values: Mapping[LineColumn, str | bool], old: Any) -> Any:
    return values.get((mark.line, mark.column), old)
