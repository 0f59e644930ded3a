"""`bridge parked`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "parked",
    cls=Group,
    package="bridge.cli.parked",
    members={
        "list": "List messages that wait: for their instance, or in quarantine.",
        "release": "Try them again now.",
        "drop": "Dead-letter them now.",
    },
    examples="""
        bridge parked list
        bridge parked release order-1001
        bridge parked release --source orders k-17
        bridge parked drop --source orders k-17 --id 5f0c... --yes
    """,
)
def command() -> None:
    """List, release and drop messages that wait on the configured engine.

    A message waits for its instance (`on_missing: {wait: ...}`), or behind a quarantined key (`quarantine`).

    An embedded engine runs in the daemon: `bridge serve` must be running.
    """
