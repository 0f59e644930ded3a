"""`bridge instances terminate`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import say
from bridge.cli.parameters import JSON


@make(
    "terminate",
    effect="changes",
    examples="""
        bridge instances terminate order-1001
        bridge instances terminate order-1001 --output '{"reason": "fraud"}' --no-recursive
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--output", type=JSON, metavar="JSON|@FILE", help="Output of the instance.")
@click.option("--no-recursive", is_flag=True, help="Leave its child orchestrations running.")
@reason_option
@engine_options
def command(instance_id: str, output: Any, no_recursive: bool, reason: str | None, **engine: Any) -> None:
    """Stop an orchestration at once, without compensation. To let it clean up, raise its cancel event instead."""
    given = {"instance_id": instance_id, "output": output, "recursive": not no_recursive, "reason": reason}
    operate(engine, ("instances.terminate", given))
    say(f"{instance_id}: termination requested")
