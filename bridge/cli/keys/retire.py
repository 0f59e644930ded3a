"""`bridge keys retire`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_engine

if TYPE_CHECKING:
    from bridge.app.keys import Keys


@make(
    "retire",
    examples="bridge keys retire x7Qa",
    exits=EXITS
    | {1: "there is no such key, or it signs requests now", 3: f"{EXITS[3]}, or no worker has done it in time"},
)
@click.argument("key", metavar="KEY")
@engine_options
def command(key: str, **engine: Any) -> None:
    """Remove a key: answers to open requests that it signed are dead-lettered from now on."""
    from bridge.app import keys

    async def retire(found: Keys) -> None:
        await found.retire(key)

    on_engine(engine, keys.Keys, retire)
    click.echo(f"key {key} was retired")
