"""`bridge entities`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "entities",
    cls=Group,
    package="bridge.cli.entities",
    members={
        "list": "List entities by name, key and time.",
        "show": "Show one entity and its state.",
        "signal": "Send a one-way operation to an entity.",
        "clean": "Remove empty entities and release orphaned locks.",
    },
    modules={"signal": "signal_entity"},
    examples="""
        bridge entities list customer_account
        bridge entities show customer_account@c-17
        bridge entities signal customer_account@c-17 paid --input '{"id": "p1", "amount": 5}'
    """,
)
def command() -> None:
    """List, show, signal and clean durable entities on the configured engine.

    An entity is named NAME@KEY. An embedded engine runs in the daemon: `bridge serve` must be running.
    """
