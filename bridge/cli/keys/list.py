"""`bridge keys list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_engine
from bridge.cli.options import json_option
from bridge.cli.output import print_json, print_table


@make("list", effect="reads", examples="bridge keys list\nbridge keys list --json", exits=EXITS)
@json_option
@engine_options
def command(as_json: bool, **engine: Any) -> None:
    """List the keys that sign requests, the newest first. The first request creates the first key."""
    from bridge.app.operations.keys import Keys

    keys = on_engine(engine, Keys, Keys.list)
    if as_json:
        print_json([asdict(key) for key in keys])
    elif keys:
        print_table(("KEY", "MADE", "SIGNS"), [(key.id, key.made, "yes" if key.signs else "") for key in keys])
    else:
        click.echo("no keys: no request has been sent yet")
