"""`bridge keys`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "keys",
    cls=Group,
    package="bridge.cli.keys",
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
