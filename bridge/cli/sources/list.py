"""`bridge sources list`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, source_states
from bridge.cli.options import config_options, json_option
from bridge.cli.output import print_json, print_table


@make(
    "list",
    effect="reads",
    examples="""
        bridge sources list
        bridge sources list --json | jq '.[] | select(.pause != null)'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@json_option
@config_options
def command(as_json: bool, **options: Any) -> None:
    """List sources, with the routes whose dead letters are limited.

    With --json each line has source, route (null for messages without a route), state (`probing`, or null), pause
    (seconds between two dead letters, or null) and next (seconds until the next one).
    """
    lines = source_states(options)
    if as_json:
        print_json(lines)
        return
    rows = [
        (
            line["source"],
            line["state"] or "-",
            "" if line["pause"] is None else line["route"] or "(no route)",
            "" if line["pause"] is None else f"one every {line['pause']:g} s",
            "" if line["pause"] is None else f"in {line['next']:g} s",
        )
        for line in lines
    ]
    print_table(("SOURCE", "STATE", "ROUTE", "DEAD LETTERS", "NEXT"), rows)
    if any(line["pause"] is not None for line in lines):
        click.echo("fix the rule or the sender, then `bridge sources resume SOURCE`", err=True)
