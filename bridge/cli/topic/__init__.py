"""`bridge topic`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "topic",
    cls=Group,
    package="bridge.cli.topic",
    members={"read": "Show the messages of a topic or queue."},
    examples="""
        bridge topic read orders
        bridge topic read local/orders.dlq --json
    """,
)
def command() -> None:
    """Show the messages on the brokers of the configuration. `bridge publish` puts messages there."""
