"""`bridge instances restart`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import say


@make(
    "restart",
    effect="changes",
    examples="""
        bridge instances restart order-1001
        bridge instances restart order-1001 --new-id
    """,
    exits=EXITS | {0: "the engine has accepted the restart; the id of the new run is printed"},
)
@click.argument("instance_id", metavar="ID")
@click.option("--new-id", is_flag=True, help="Keep the old instance, and start the new one with a random id.")
@reason_option
@engine_options
def command(instance_id: str, new_id: bool, reason: str | None, **engine: Any) -> None:
    """Run a finished orchestration again with the same input, and print its new instance id."""
    given = {"instance_id": instance_id, "new_id": new_id, "reason": reason}
    [result] = operate(engine, ("instances.restart", given))
    say(result["instance_id"])
