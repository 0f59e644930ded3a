"""`bridge keys rotate`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_engine


@make(
    "rotate",
    examples="bridge keys rotate",
    exits=EXITS | {1: "there are as many keys as can be", 3: f"{EXITS[3]}, or no worker has done it in time"},
)
@engine_options
def command(**engine: Any) -> None:
    """Add a key. It signs new requests after a minute, when every process has read it.

    The other keys still verify answers to requests that they signed, until `bridge keys retire`.
    """
    from bridge.app.keys import Keys

    key = on_engine(engine, Keys, Keys.rotate)
    click.echo(f"key {key.id} was added; it signs new requests after a minute")
