"""Comparison, display and progress reports."""

from __future__ import annotations

import io
from collections import Counter

from rich.console import Console

from demo.progress import Progress
from demo.report import table
from demo.tally import Tally, differences

WANTED = Tally(Counter(completed=3, terminated=1), dead_letters=Counter({("orders", "no_route"): 1}), settled=6)


def rendered(expected: Tally, observed: Tally) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table(expected, observed))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_equal_counts_do_not_differ() -> None:
    same = Tally(
        Counter(completed=3, terminated=1, failed=0), dead_letters=Counter({("orders", "no_route"): 1}), settled=6
    )
    assert differences(WANTED, same) == []


def test_each_difference_is_told_in_both_directions() -> None:
    other = Tally(Counter(completed=2, terminated=1, failed=1), settled=6, duplicates=1)
    assert set(differences(WANTED, other)) == {
        "orders, completed: expected 3, found 2",
        "dead letters, orders: no_route: expected 1, found 0",
        "orders, failed: expected 0, found 1",
        "messages, dropped as duplicates: expected 0, found 1",
    }


def test_the_table_shows_what_was_not_expected_too() -> None:
    text = rendered(WANTED, Tally(Counter(completed=3, failed=7), settled=6))
    for word in ("completed", "terminated", "failed", "7", "no_route"):
        assert word in text


def test_without_a_terminal_progress_is_plain_lines() -> None:
    output = io.StringIO()
    with Progress(Console(file=output), {"settled": 10}) as progress:
        progress.show(settled=1)
        progress.show(settled=10)
    assert output.getvalue().splitlines() == ["settled 1/10", "settled 10/10"]


def test_on_a_terminal_progress_is_a_bar() -> None:
    output = io.StringIO()
    with Progress(Console(file=output, force_terminal=True, width=80), {"settled": 10}) as progress:
        progress.show(settled=10)
    assert "10/10" in output.getvalue()
