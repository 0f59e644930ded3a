"""`bridge keys retire`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import say


@make(
    "retire",
    effect="changes",
    examples="bridge keys retire x7Qa",
    exits=EXITS | {1: "the key does not exist, or signs requests now", 3: f"{EXITS[3]}, or no worker was fast enough"},
)
@click.argument("key", metavar="KEY")
@reason_option
@engine_options
def command(key: str, reason: str | None, **engine: Any) -> None:
    """Remove a key. Answers to open requests that it signed are dead-lettered from now on."""
    operate(engine, ("keys.retire", {"key": key, "reason": reason}))
    say(f"key {key} was retired")
