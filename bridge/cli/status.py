"""`bridge status`: health, lag, failures, and what waits for a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, output_option
from bridge.cli.shared.output import print_json
from bridge.cli.shared.parameters import PAUSE
from bridge.cli.shared.remote import remotes_options
from bridge.cli.shared.screen import (
    Screen,
    problem_lines,
    refreshed,
    status_of,
    status_tables,
    summary_lines,
)

if TYPE_CHECKING:
    from bridge.app.remote import DaemonAddress

EXITS = {
    0: "nothing needs a person",
    1: "something needs a person, or no daemon runs",
    3: "the configuration is not valid, or no daemon, engine or broker can be reached",
}


@make(
    "status",
    effect="reads",
    examples="""
        bridge status
        bridge status --watch
        bridge status --url http://10.0.0.1:8099 --url http://10.0.0.2:8099
        bridge status -o json | jq '.sources[] | {name, lag, oldest_seconds}'
    """,
    exits=EXITS,
)
@remotes_options
@click.option("--watch", is_flag=True, help="Show the status again every interval, until Ctrl-C.")
@click.option(
    "--interval", type=PAUSE, default="2s", show_default=True, metavar="TIME", help="Pause between two screens."
)
@output_option()
@config_options
def command(
    remotes: Sequence[DaemonAddress],
    watch: bool,
    interval: float,
    output: str,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Show whether the daemons are healthy, how far behind they are, what failed, and what waits for a person.

    Without --url, the command asks the daemons of the configuration on this machine through their control sockets.
    These ask the daemons of other machines that have the same `ops.http.access.sessions.keys`.
    Without a daemon the command shows what the engine and the broker know.

    Each line that needs a person names its next command. With -o json, the output has the form of
    `GET /api/v1/status`; with --watch, one line for each interval.
    """
    ask = status_of(remotes, config, overlay)
    if not watch:
        document = ask()
        if output == "json":
            print_json(document)
        else:
            Screen().show([*summary_lines(document), *status_tables(document), *problem_lines(document)])
        return code_of(document)

    def lines(document: dict[str, Any]) -> list[Any]:
        return [*summary_lines(document), *problem_lines(document), *status_tables(document)]

    return refreshed(ask, lines, interval, count=0, as_json=output == "json")


def code_of(document: dict[str, Any]) -> int:
    """Exit code for a status."""
    from bridge.app.status import is_reachable

    if not is_reachable(document):
        return exit_codes.UNAVAILABLE
    return exit_codes.FAILED if document["problems"] else exit_codes.OK
