"""`bridge instances raise`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.parameters import JSON


@make(
    "raise",
    examples="""
        bridge instances raise order-1001 payment --data '{"approved": true}'
        bridge instances raise order-1001 cancel --data '{"reason": "customer asked"}'
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.argument("event")
@click.option("--data", type=JSON, metavar="JSON|@FILE", help="Data of the event.")
@engine_options
def command(instance_id: str, event: str, data: Any, **engine: Any) -> None:
    """Raise an event to an orchestration."""
    on_instances(engine, lambda instances: instances.raise_event(instance_id, event, data))
    click.echo(f"{instance_id}: {event} raised")
