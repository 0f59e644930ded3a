"""`bridge keys`: keys that sign requests."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate
from bridge.cli.shared.options import json_option, reason_option
from bridge.cli.shared.output import local_time, print_json, print_table, say


@click.group(
    "keys",
    cls=BridgeGroup,
    members={
        "list": "List the keys that sign requests.",
        "rotate": "Add a key; it signs new requests after a minute.",
        "retire": "Remove an old key.",
    },
    examples="""
        bridge keys list
        bridge keys rotate
        bridge keys retire x7Qa
    """,
)
def command() -> None:
    """List, rotate and retire the keys that bind answers to requests, on the configured engine.

    The keys are stored on the engine, and all its daemons and workers share them. Their secrets are never shown. An
    embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make("list", effect="reads", examples="bridge keys list\nbridge keys list --json", exits=EXITS)
@json_option
@engine_options
def list_(as_json: bool, **engine: Any) -> None:
    """List the keys that sign requests, the newest first. The first request creates the first key."""
    [keys] = operate(engine, ("keys.list", {}))
    if as_json:
        print_json(keys)
    elif keys:
        print_table(
            ("KEY", "MADE", "SIGNS"),
            [(key["id"], local_time(key["made"]), "yes" if key["signs"] else "") for key in keys],
        )
    else:
        click.echo("no keys: no request has been sent yet")


@make(
    "rotate",
    effect="changes",
    examples="bridge keys rotate",
    exits=EXITS | {1: "the maximum number of keys is reached", 3: f"{EXITS[3]}, or no worker was fast enough"},
)
@reason_option
@engine_options
def rotate(reason: str | None, **engine: Any) -> None:
    """Add a key. It signs new requests after a minute, when every process has read it.

    The other keys still verify answers to requests that they signed, until `bridge keys retire`.
    """
    [key] = operate(engine, ("keys.rotate", {"reason": reason}))
    click.echo(f"key {key['id']} was added; it signs new requests after a minute")


@make(
    "retire",
    effect="changes",
    examples="bridge keys retire x7Qa",
    exits=EXITS | {1: "the key does not exist, or signs requests now", 3: f"{EXITS[3]}, or no worker was fast enough"},
)
@click.argument("key", metavar="KEY")
@reason_option
@engine_options
def retire(key: str, reason: str | None, **engine: Any) -> None:
    """Remove a key. Answers to open requests that it signed are dead-lettered from now on."""
    operate(engine, ("keys.retire", {"key": key, "reason": reason}))
    say(f"key {key} was retired")


for each in (list_, rotate, retire):
    command.add_command(each)
