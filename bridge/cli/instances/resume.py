"""`bridge instances resume`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.output import say


@make(
    "resume",
    effect="changes",
    examples='bridge instances resume order-1001 --reason "the customer called"',
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--reason", metavar="TEXT", help="Reason, shown in the history and in the audit.")
@engine_options
def command(instance_id: str, reason: str | None, **engine: Any) -> None:
    """Resume a suspended orchestration."""
    operate(engine, ("instances.resume", {"instance_id": instance_id, "reason": reason}))
    say(f"{instance_id}: resumed")
