"""`bridge sources resume`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_of_source, operate
from bridge.cli.options import config_options, reason_option
from bridge.cli.output import say


@make(
    "resume",
    effect="changes",
    examples="""
        bridge sources resume orders
        bridge sources resume orders --route start-order
    """,
    exits=EXITS | {1: "the source, or the route, has no limited dead letters"},
)
@click.argument("source", metavar="NAME")
@click.option("--route", metavar="NAME", help="Only this route.")
@reason_option
@config_options
def command(source: str, route: str | None, reason: str | None, **options: Any) -> None:
    """End the dead-letter limit of a source, on all its daemons within five seconds.

    After too many dead letters a source writes one dead letter per pause, and each one doubles the pause. Fix the
    rule or the sender first. Otherwise as many dead letters as before are written at once, and then the limit applies
    again.
    """
    given = {"source": source, "route": route, "reason": reason}
    engine = engine_of_source(options, "sources.resume", source, reason)
    [result] = operate({**options, "engine": engine}, ("sources.resume", given))
    for each in result["routes"]:
        subject = f"route {each}" if each else "messages that no route matches"
        say(f"{source}: dead letters of {subject} are no longer limited")
