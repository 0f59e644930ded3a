"""Table of results."""

from __future__ import annotations

from rich.table import Table

from demo.tally import Tally


def table(expected: Tally, observed: Tally) -> Table:
    """Table of each count next to the expected one."""
    wanted, found = expected.rows(), observed.rows()
    table = Table(title="What became of the messages")
    table.add_column("what")
    table.add_column("which")
    table.add_column("found", justify="right")
    table.add_column("expected", justify="right")
    last = ""
    for what, which in [*wanted, *(key for key in found if key not in wanted)]:
        want, have = wanted.get((what, which), 0), found.get((what, which), 0)
        style = None if want == have else "bold red"
        table.add_row("" if what == last else what, which, str(have), str(want), style=style)
        last = what
    return table
