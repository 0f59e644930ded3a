"""`bridge instances suspend`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.output import say


@make(
    "suspend",
    effect="changes",
    examples='bridge instances suspend order-1001 --reason "waiting for the customer"',
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--reason", metavar="TEXT", help="Reason, shown in the history and in the audit.")
@engine_options
def command(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Pause an orchestration: it keeps arriving events and processes none of them."""
    operate(engine, ("instances.suspend", {"instance_id": instance_id, "reason": reason}))
    say(f"{instance_id}: suspended")
