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
    """See what lies on the brokers of the configuration. Messages are put there with `bridge publish`."""
