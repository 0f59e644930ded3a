"""`bridge entities show`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_entities
from bridge.cli.options import json_option
from bridge.cli.output import compact, print_fields, print_json
from bridge.cli.parameters import ENTITY


@make(
    "show",
    effect="reads",
    examples="""
        bridge entities show customer_account@c-17
        bridge entities show customer_account@c-17 --json | jq .state
    """,
    exits=EXITS | {1: "the engine has no such entity"},
)
@click.argument("entity", type=ENTITY, metavar="NAME@KEY")
@json_option
@engine_options
def command(entity: tuple[str, str], as_json: bool, **engine: Any) -> None:
    """Show a durable entity and its state."""
    one = on_entities(engine, lambda entities: entities.show(*entity))
    if as_json:
        print_json(asdict(one))
        return
    print_fields(
        (
            ("entity", f"{one.entity}@{one.key}"),
            ("modified", one.last_modified_at),
            ("backlog", str(one.backlog)),
            ("locked by", one.locked_by or ""),
            ("state", compact(one.state)),
        )
    )
