"""`bridge limits`: temporary limits of routes."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_of_route, operate, operate_on_each_engine
from bridge.cli.shared.options import config_options, output_option, reason_option
from bridge.cli.shared.output import local_time, print_json, print_table, say
from bridge.cli.shared.parameters import PAUSE, RATE
from bridge.cli.shared.remote import remote_options

_EXITS = EXITS | {1: "the engine refused, or the route has no temporary limit"}


@click.group(
    "limits",
    cls=BridgeGroup,
    members={
        "set": "Limit a route for a time, on all its daemons.",
        "list": "List temporary limits.",
        "clear": "End the temporary limit of a route.",
    },
    examples="""
        bridge limits set start-order --rate 10/s --for 2h --reason "the shop is slow"
        bridge limits list
        bridge limits clear start-order
    """,
)
def command() -> None:
    """Limit routes for a time.

    The limit is stored on the engine of the route. It applies to all daemons within five seconds, survives restarts and
    ends by itself. Lasting limits belong in the configuration, as `limits` of the route.
    """


@make(
    "set",
    effect="changes",
    examples="""
        bridge limits set start-order --running 50 --for 2h
        bridge limits set start-order --rate 10/s --for 30m --reason "the shop is slow"
    """,
    exits=_EXITS,
)
@click.argument("route", metavar="ROUTE")
@click.option("--running", type=click.IntRange(min=1), metavar="N", help="Orchestrations that may run at once.")
@click.option("--rate", type=RATE, metavar="N/s", help="Commands per second of all daemons together: 10/s, 300/m.")
@click.option("--for", "seconds", type=PAUSE, required=True, metavar="TIME", help="Time until the limit ends.")
@reason_option
@remote_options
@config_options
def set_(
    route: str, running: int | None, rate: float | None, seconds: float, reason: str | None, **options: Any
) -> None:
    """Limit a route for a time, on all its daemons within five seconds and across restarts.

    The value replaces that of the configuration, and may be higher. A second call replaces the limit. Messages beyond
    the limit wait; none is dropped. The daemons share the rate equally.
    """
    if running is None and rate is None:
        raise click.UsageError("set --running, --rate or both", click.get_current_context())
    given = {"route": route, "running": running, "rate": rate, "seconds": seconds, "reason": reason}
    engine = engine_of_route(options, "limits.set", route, reason)
    [limit] = operate({**options, "engine": engine}, ("limits.set", given))
    say(f"{route} is limited to {_limits(limit)} until {local_time(limit['until'])}. Next: bridge limits clear {route}")


@make(
    "list",
    effect="reads",
    examples="""
        bridge limits list
        bridge limits list -o json | jq '.[].route'
    """,
    exits=_EXITS,
)
@output_option(older=False)
@remote_options
@config_options
def list_(output: str, **options: Any) -> None:
    """List the temporary limits of all routes.

    With -o json each line has route, engine, running, rate (per second), until and since (RFC 3339), by, reason,
    daemons (those that share the rate) and configured (running and rate).
    """
    lines = [line for found in operate_on_each_engine(options, ("limits.list", {})) for line in found]
    if output == "json":
        print_json(lines)
        return
    rows = [
        (
            line["route"],
            "" if line["running"] is None else f"{line['running']:,}",
            "" if line["rate"] is None else _rate(line["rate"]),
            _limits(line["configured"]) or "none",
            local_time(line["until"]),
            line["by"],
            line["reason"],
        )
        for line in lines
    ]
    if not rows:
        say("no temporary limits", err=True)
        return
    print_table(("ROUTE", "RUNNING", "RATE", "CONFIGURED", "UNTIL", "BY", "REASON"), rows)


@make(
    "clear",
    effect="changes",
    examples="""
        bridge limits clear start-order
    """,
    exits=_EXITS,
)
@click.argument("route", metavar="ROUTE")
@reason_option
@remote_options
@config_options
def clear(route: str, reason: str | None, **options: Any) -> None:
    """End the temporary limit of a route, on all its daemons within five seconds."""
    engine = engine_of_route(options, "limits.clear", route, reason)
    operate({**options, "engine": engine}, ("limits.clear", {"route": route, "reason": reason}))
    say(f"the temporary limit of {route} has ended")


def _limits(limit: dict[str, Any]) -> str:
    parts = [] if limit["running"] is None else [f"{limit['running']:,} running"]
    parts += [] if limit["rate"] is None else [_rate(limit["rate"])]
    return " and ".join(parts)


def _rate(per_second: float) -> str:
    """Rate in the largest unit in which it is at least 1."""
    for seconds, unit in ((1, "s"), (60, "m"), (3600, "h")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:g}/{unit}"
    return f"{per_second * 86400:g}/d"


for each in (set_, list_, clear):
    command.add_command(each)
