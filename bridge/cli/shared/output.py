"""Output of commands: JSON for machines, tables and lines for people, never a raw control character."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from bridge.core.bytetext import escape_invisible, printable
from bridge.core.words import plural

WIDE = 100_000
"""Width of tables that are not written to a terminal. Nothing is wrapped for a pipe."""


def print_json(value: Any) -> None:
    """Print indented JSON on standard output. Numbers of any size and any text keep their value.

    Characters that could control a terminal are written as JSON escapes, which have the same value.
    """
    text = json.dumps(value, indent=2, ensure_ascii=not encodable(value))
    click.echo(escape_invisible(text))


def encodable(value: Any) -> bool:
    """True if the text can be written in the encoding of standard output. Payloads may hold lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def say(text: object, *, err: bool = False) -> None:
    """Print lines for people, on standard output or error, without raw control characters."""
    click.echo("\n".join(clean(line) for line in str(text).split("\n")), err=err)


def compact(value: Any, limit: int | None = None) -> str:
    """JSON value in one line, shortened to `limit` characters; empty for None."""
    text = "" if value is None else clean(json.dumps(value, ensure_ascii=False))
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def clean(text: str) -> str:
    """Text for a terminal."""
    return printable(text)


_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(?:Z|\+00:00)(?!\w)")
"""RFC 3339 time in UTC."""
_PRECISION = {0: "seconds", 7: "microseconds"}


def local_time(value: str | float | datetime | None) -> str:
    """Replace the RFC 3339 times in UTC of a text by local times with their offset. None becomes empty.

    Tables and sentences for people show local times; JSON has UTC. `--since` and its like accept both.
    value: also seconds since the Unix epoch, or a time.
    """
    if value is None:
        return ""
    if isinstance(value, int | float):
        value = datetime.fromtimestamp(int(value), UTC)
    return _TIME.sub(_localize, value.isoformat() if isinstance(value, datetime) else value)


def _localize(found: re.Match[str]) -> str:
    try:
        moment = datetime.fromisoformat(found[0]).astimezone()
    except (OverflowError, ValueError):  # first or last day of the calendar
        return found[0]
    return moment.isoformat(timespec=_PRECISION.get(len(found[1] or ""), "milliseconds")).replace("+00:00", "Z")


_GAP = 2
"""Spaces between two columns."""
_NARROWEST = 8
"""Least width of a column whose cells are folded."""
COPIED = frozenset({"ENTITY", "EXAMPLE", "GROUP", "ID", "INSTANCE", "ITEM", "JOB", "KEY", "MESSAGE", "TARGET"})
"""Columns with ids, which a person copies: their cells are never folded."""


def kept_whole(
    columns: Sequence[str], rows: Sequence[Sequence[str]], folds: Collection[str] | None, width: int
) -> frozenset[str] | None:
    """Columns whose cells are not folded on a terminal of this width: ids at least.

    folds: columns whose cells may be folded, but for ids; None: all. Where the others leave no room for them, only ids
    are kept whole. None where ids leave no room: the terminal is too narrow for a table, see `field_lines`.
    """
    widths = [max(len(column), *(len(row[at]) for row in rows), 0) for at, column in enumerate(columns)]
    ids = COPIED.intersection(columns)
    for whole in (ids if folds is None else ids | (set(columns) - set(folds)), ids):
        least = (
            found if column in whole else min(found, _NARROWEST)
            for column, found in zip(columns, widths, strict=True)
        )  # fmt: skip
        if sum(each + _GAP for each in least) <= width:
            return frozenset(whole)
    return None if ids else frozenset()


def field_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as blocks of lines, one for each cell. The terminal wraps them, and they are copied whole."""
    width = max(map(len, columns))
    return [
        line
        for row in rows
        for line in ("", *(f"{column:<{width}}  {cell}" for column, cell in zip(columns, row, strict=True) if cell))
    ]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, folds: Collection[str] | None = None) -> None:
    """Print a table on standard output. On a terminal long cells but ids are folded; in a pipe every row is one line.

    A terminal that is too narrow for the ids gets one line for each cell.
    folds: see `kept_whole`.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else WIDE, highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    cells = [[clean(cell) for cell in row] for row in rows]
    whole = kept_whole(columns, cells, folds, console.width)
    if whole is None:
        click.echo("\n".join(field_lines(columns, cells)[1:]))
        return
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in cells:
        table.add_row(*map(Text, row))
    if terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print aligned `name  value` lines without empty values."""
    shown = [(name, text) for name, text in fields if text]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        click.echo(f"{name:<{width}}  {clean(text)}")


class ProgressCount:
    """Progress count on standard error during long work. Silent if standard error is not a terminal."""

    INTERVAL = 0.2

    def __init__(self, noun: str, done: str) -> None:
        self._noun, self._done = noun, done
        self._shown = sys.stderr.isatty()
        self._next = time.monotonic() + self.INTERVAL
        self._written = False

    def __call__(self, count: int) -> None:
        if self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + self.INTERVAL
            self._written = True
            click.echo(f"\r{plural(count, self._noun)} {self._done}", nl=False, err=True)

    def close(self) -> None:
        if self._written:
            click.echo("\r\x1b[K", nl=False, err=True)
