"""`bridge instances`: one file per command."""

from __future__ import annotations

import click

from bridge.cli.command import Group


@click.group(
    "instances",
    cls=Group,
    package="bridge.cli.instances",
    members={
        "list": "List instances by status, id and time.",
        "show": "Show one instance: status, payloads, failure, history.",
        "export": "Write an instance's history to a file, for replay tests.",
        "wait": "Wait until an instance has started or finished.",
        "start": "Start an orchestration.",
        "terminate": "Stop an instance at once, without compensation.",
        "raise": "Raise an event to an instance.",
        "suspend": "Pause an instance.",
        "resume": "Resume a suspended instance.",
        "restart": "Run a finished instance again with its input.",
        "rewind": "Continue a failed instance from before its failure.",
        "purge": "Remove finished instances.",
    },
    modules={"raise": "raise_event"},
    examples="""
        bridge instances list --status running --prefix order-
        bridge instances show order-1001 --history
        bridge instances wait order-1001 --timeout 2m
        bridge instances raise order-1001 payment --data '{"approved": true}'
    """,
)
def command() -> None:
    """List, show and control orchestrations on the configured engine.

    An embedded engine runs in the daemon: `bridge serve` must be running.
    """
