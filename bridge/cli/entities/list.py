"""`bridge entities list`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_entities
from bridge.cli.options import json_option
from bridge.cli.output import compact, print_json, print_table
from bridge.cli.parameters import SINCE


@make(
    "list",
    effect="reads",
    examples="""
        bridge entities list
        bridge entities list stock_level --key-prefix sku- --modified-from 1h
        bridge entities list stock_level --json | jq '.[].state'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.argument("name", required=False)
@click.option("--key-prefix", metavar="TEXT", help="Only entities with this prefix of the key; needs a NAME.")
@click.option("--modified-from", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--modified-to", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--no-state", is_flag=True, help="Leave out the states.")
@click.option("--transient", is_flag=True, help="Include entities without a state.")
@json_option
@engine_options
def command(
    name: str | None,
    key_prefix: str | None,
    modified_from: datetime | None,
    modified_to: datetime | None,
    no_state: bool,
    transient: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """List durable entities."""
    if key_prefix and name is None:
        raise click.UsageError("--key-prefix needs NAME", click.get_current_context())
    found = on_entities(
        engine,
        lambda entities: entities.list(
            name, key_prefix, modified_from, modified_to, state=not no_state, transient=transient
        ),
    )
    if as_json:
        print_json([asdict(one) for one in found])
    elif not found:
        click.echo("no entities", err=True)
    else:
        print_table(
            ("ENTITY", "MODIFIED", "BACKLOG", "LOCKED BY", "STATE"),
            [
                (
                    f"{one.entity}@{one.key}",
                    one.last_modified_at,
                    str(one.backlog),
                    one.locked_by or "",
                    compact(one.state, 80),
                )
                for one in found
            ],
        )
