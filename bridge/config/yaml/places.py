"""Places of single characters of values in the text of a YAML file."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from bridge.config.yaml.document import MAX_BYTES
from bridge.config.yaml.scalars import ScalarSpan, content_start, spans
from bridge.core.errors import Problem
from bridge.system.files import read_file


class Places:
    """Places of characters in the files of a configuration, which are read when they are needed."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[str, dict[tuple[int, int], ScalarSpan]]] = {}

    def of(self, problem: Problem) -> tuple[int, int]:
        """Line and column of the problem; those of its value where the character cannot be found."""
        whole = problem.line, problem.column
        if problem.offset is None or not problem.line:
            return whole
        if problem.file not in self._files:
            self._files[problem.file] = _read(problem.file)
        text, scalars = self._files[problem.file]
        span = scalars.get(whole)
        if span is None or "$" in span.value[: problem.offset]:  # variables have other lengths in the value
            return whole
        return character(text, span, problem.offset) or whole


def _read(file: str) -> tuple[str, dict[tuple[int, int], ScalarSpan]]:
    try:
        text = read_file(Path(file), MAX_BYTES).decode("utf-8-sig")
        return text, {(span.line, span.column): span for span in spans(text)}
    except (OSError, ValueError, yaml.YAMLError):
        return "", {}


def character(text: str, span: ScalarSpan, offset: int) -> tuple[int, int] | None:
    """Line and column of a character of a scalar's value, from 1; None if they cannot be determined."""
    places = _block(text, span) if span.style in ("|", ">") else _flow(text, span)
    if places is None or offset > len(places) or not places:
        return None
    at = places[offset] if offset < len(places) else places[-1] + 1
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


_FLOW = {
    "": re.compile(r"(?P<fold>[ \t]*\n[ \t\n]*)|."),
    "'": re.compile(r"(?P<fold>[ \t]*\n[ \t\n]*)|''|."),
    '"': re.compile(
        r"(?P<none>\\\n[ \t]*)|(?P<fold>[ \t]*\n[ \t\n]*)"
        r"|\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|."
    ),
}
"""Units of a scalar without block style, by its quotes. Each is one character of the value, except line breaks."""


def _flow(text: str, span: ScalarSpan) -> list[int] | None:
    """Offset of each character of a value that is plain or in quotes; None if the text has another form."""
    quote = len(span.style)
    places: list[int] = []
    for unit in _FLOW[span.style].finditer(text, span.start + quote, span.end - quote):
        if unit.lastgroup == "fold":
            places += [unit.start()] * max(unit.group().count("\n") - 1, 1)
        elif unit.lastgroup != "none":
            places.append(unit.start())
    return places if len(places) == len(span.value) else None


def _block(text: str, span: ScalarSpan) -> list[int] | None:
    """Offset of each character of a value in a block; None if the text has another form."""
    inside = content_start(text, span)
    lines = text[inside : span.end].split("\n")
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    if not indents:
        return None
    places: list[int] = []
    at, found = inside, ""
    for line in lines:
        content = line[min(indents) :]
        places += range(at + len(line) - len(content), at + len(line) + 1)
        found += content + "\n"
        at += len(line) + 1
    if span.style == ">" and "\n\n" not in found.rstrip("\n"):
        # Lines of one paragraph; others keep their offsets only if nothing was folded away
        found = found.rstrip("\n").replace("\n", " ")
    return places[: len(span.value)] if found.rstrip("\n") == span.value.rstrip("\n") else None
