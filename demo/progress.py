"""Progress display: bars on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

EVERY = 2.0
"""Seconds between two lines without a terminal."""


class Progress:
    """Counts that rise to a total each. Use as a context manager."""

    def __init__(self, console: Console, totals: Mapping[str, int]) -> None:
        self._console = console
        self._totals = dict(totals)
        self._counts = dict.fromkeys(totals, 0)
        self._said = 0.0
        columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=console) if console.is_terminal else None
        self._tasks = (
            {name: self._bars.add_task(name, total=total) for name, total in totals.items()} if self._bars else {}
        )

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        else:
            self._say()

    def show(self, **counts: int) -> None:
        """Update the counts that have changed."""
        self._counts |= counts
        if self._bars is not None:
            for name, count in counts.items():
                self._bars.update(self._tasks[name], completed=count)
        elif time.monotonic() - self._said >= EVERY:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        self._console.print(
            ", ".join(f"{name} {count}/{self._totals[name]}" for name, count in self._counts.items()), highlight=False
        )
