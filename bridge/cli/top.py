"""`bridge top`: sources live, the most urgent first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options
from bridge.cli.shared.parameters import PAUSE
from bridge.cli.shared.remote import remotes_options
from bridge.cli.shared.screen import (
    instance_table,
    problem_lines,
    refreshed,
    source_table,
    status_of,
    summary_lines,
)

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress

_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "lag": lambda source: -(source["lag"] or 0),
    "age": lambda source: -(source["oldest_seconds"] or 0),
    "rate": lambda source: -(source["settled_per_second"] or 0),
    "in-flight": lambda source: -(source["in_flight"] or 0),
    "retrying": lambda source: -(source["retrying"] or 0),
    "dead-letters": lambda source: -sum((source["dead_letters"] or {}).values()),
    "name": lambda source: source["name"],
}


@make(
    "top",
    effect="reads",
    examples="""
        bridge top
        bridge top --sort rate --interval 5s
        bridge top --count 1 --sort age | head
    """,
    exits={
        0: "stopped by Ctrl-C, or after the last screen",
        3: "the configuration is not valid",
    },
)
@remotes_options
@click.option(
    "--sort", type=click.Choice(tuple(_SORTS)), default="lag", show_default=True, help="Order of the sources."
)
@click.option(
    "--interval", type=PAUSE, default="2s", show_default=True, metavar="TIME", help="Pause between two screens."
)
@click.option(
    "--count",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of screens; 0: until Ctrl-C.",
)
@config_options
def command(
    remotes: Sequence[DaemonAddress],
    sort: str,
    interval: float,
    count: int,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Show the sources live, those with the largest lag first.

    The command shows the figures of `bridge status`. Ctrl-C ends it.
    """

    def lines(document: dict[str, Any]) -> list[Any]:
        sources = sorted(document["sources"], key=lambda each: (_SORTS[sort](each), each["name"]))
        summary, *daemons = summary_lines(document)
        # The sources come first: a low terminal shows nothing else
        return [
            summary,
            *source_table(document, sources)[1:],
            *problem_lines(document),
            *instance_table(document["engines"]),
            "",
            *daemons,
        ]

    return refreshed(status_of(remotes, config, overlay), lines, interval, count=count)
