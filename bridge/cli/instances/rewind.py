"""`bridge instances rewind`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.output import say


@make("rewind", examples='bridge instances rewind order-1001 --reason "the carrier is back"', exits=EXITS)
@click.argument("instance_id", metavar="ID")
@click.option("--reason", metavar="TEXT", help="Why, for the reader of the history.")
@engine_options
def command(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Let a failed orchestration go on from before its failure; what had succeeded is not repeated."""
    on_instances(engine, lambda instances: instances.rewind(instance_id, reason))
    say(f"{instance_id}: told to rewind")
