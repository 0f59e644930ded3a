"""`bridge sources resume`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, resume_source
from bridge.cli.options import config_options


@make(
    "resume",
    examples="""
        bridge sources resume orders
        bridge sources resume orders --route start-order
    """,
    exits=EXITS | {1: "no dead letters of the source, or of the route, are limited"},
)
@click.argument("source", metavar="NAME")
@click.option("--route", metavar="NAME", help="Only this route.")
@config_options
def command(source: str, route: str | None, **options: Any) -> int:
    """End the limit of a source's dead letters, on all its daemons within five seconds.

    After too many dead letters a source writes one dead letter per pause, and each doubles the pause. Fix the rule or
    the sender first: as many dead letters as before are written at once, and then the limit holds again.
    """
    ended = resume_source(options, source, route)
    for each in ended:
        subject = f"route {each}" if each else "messages that no route takes"
        click.echo(f"{source}: dead letters of {subject} are free again")
    if not ended:
        click.echo(f"{source}: no dead letters are limited{f' for route {route}' if route else ''}", err=True)
        return 1
    return 0
