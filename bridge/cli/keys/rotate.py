"""`bridge keys rotate`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option


@make(
    "rotate",
    effect="changes",
    examples="bridge keys rotate",
    exits=EXITS | {1: "the maximum number of keys is reached", 3: f"{EXITS[3]}, or no worker was fast enough"},
)
@reason_option
@engine_options
def command(reason: str | None, **engine: Any) -> None:
    """Add a key. It signs new requests after a minute, when every process has read it.

    The other keys still verify answers to requests that they signed, until `bridge keys retire`.
    """
    [key] = operate(engine, ("keys.rotate", {"reason": reason}))
    click.echo(f"key {key['id']} was added; it signs new requests after a minute")
