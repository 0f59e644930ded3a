"""Places of scalars and comments in the text of a YAML file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from bridge.core.problems.suppression import Suppression, parse_suppression

LOADER: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_BEGIN = re.compile(r"(?:^|(?<=\s))#", re.MULTILINE)
_REST = re.compile(r"[^\r\n]*")


@dataclass(frozen=True, slots=True)
class ScalarSpan:
    """Place of a scalar or key in a text.

    start, end: offsets, with its quotes.
    style: `'`, `"`, `|`, `>` or empty.
    value: content, without quotes, escapes and indentation.
    """

    line: int
    column: int
    start: int
    end: int
    style: str
    value: str


@dataclass(frozen=True, slots=True)
class FileSuppression:
    """A suppression in a configuration file."""

    file: str
    suppression: Suppression


def spans(text: str) -> list[ScalarSpan]:
    """Scalars of a text that is YAML, in order."""
    found = []
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.ScalarEvent):
            first, last = event.start_mark, event.end_mark
            assert first is not None
            assert last is not None
            found.append(
                ScalarSpan(first.line + 1, first.column + 1, first.index, last.index, event.style or "", event.value)
            )
    return found


def suppressions_in(text: str) -> Iterator[Suppression]:
    """Suppressions in the comments of a text that is YAML."""
    for start, comment in comments(text):
        line = text.count("\n", 0, start) + 1
        before = text[text.rfind("\n", 0, start) + 1 : start]
        found = parse_suppression(comment, line, alone=not before.strip())
        if found is not None:
            yield found


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of each comment, with its `#`."""
    scalars = [(content_start(text, span), span.end) for span in spans(text)]
    starts = [start for start, _ in scalars]
    end = 0
    for found in _BEGIN.finditer(text):
        start = found.start()
        at = bisect_right(starts, start) - 1
        if start < end or (at >= 0 and start < scalars[at][1]):
            continue
        rest = _REST.match(text, start)
        assert rest is not None
        end = rest.end()
        yield start, rest.group()


def content_start(text: str, span: ScalarSpan) -> int:
    """Offset at which the content of a scalar begins: a comment may follow the `|` of a block."""
    if span.style not in ("|", ">"):
        return span.start
    end = text.find("\n", span.start)
    return span.end if end < 0 else end + 1
