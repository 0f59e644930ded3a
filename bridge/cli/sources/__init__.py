"""`bridge sources`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "sources",
    cls=Group,
    package="bridge.cli.sources",
    members={
        "list": "List sources, with the routes whose dead letters are limited.",
        "resume": "End the limit of dead letters of a source.",
    },
    examples="""
        bridge sources list
        bridge sources resume orders
    """,
)
def command() -> None:
    """Show and control the sources of the running daemons.

    The state is stored on the engine of each source. It applies to all daemons of the source and survives a restart.
    An embedded engine runs in the daemon: `bridge serve` must be running.
    """
