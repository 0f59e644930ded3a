"""`bridge sources`: states of sources and their dead-letter limits."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_of_source, operate
from bridge.cli.shared.options import config_options, json_option, reason_option
from bridge.cli.shared.output import print_json, print_table, say
from bridge.cli.shared.remote import remote_options
from bridge.cli.sources.positions import lag, seek


@click.group(
    "sources",
    cls=BridgeGroup,
    members={
        "list": "List sources, with the routes whose dead letters are limited.",
        "pause": "Pause a source on all its daemons.",
        "resume": "End the pause of a source and the limit of its dead letters.",
        "lag": "Show how far sources are behind, by partition.",
        "seek": "Move the position of a source.",
    },
    examples="""
        bridge sources list
        bridge sources pause orders --reason "the shop is down"
        bridge sources resume orders
        bridge sources lag orders
        bridge sources seek orders --to 2h-ago --dry-run
    """,
)
def command() -> None:
    """Show and control the sources of the running daemons.

    The state is stored on the engine of each source. It applies to all daemons of the source and survives a restart.
    An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge sources list
        bridge sources list --json | jq '.[] | select(.pause != null)'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@json_option
@remote_options
@config_options
def list_(as_json: bool, **options: Any) -> None:
    """List sources, with the routes whose dead letters are limited.

    With --json each line has source, route (null for messages without a route), state (`paused`, `probing`, or null),
    pause (seconds between two dead letters, or null), next (seconds until the next one) and seek (partitions whose
    position a daemon still has to move). A paused source also has since, by and reason.
    """
    [lines] = operate({**options, "engine": None}, ("sources.list", {}))
    if as_json:
        print_json(lines)
        return
    rows = [
        (
            line["source"],
            line["state"] or "-",
            "" if line["pause"] is None else line["route"] or "(no route)",
            "" if line["pause"] is None else f"one every {line['pause']:g} s",
            "" if line["pause"] is None else f"in {line['next']:g} s",
        )
        for line in lines
    ]
    print_table(("SOURCE", "STATE", "ROUTE", "DEAD LETTERS", "NEXT"), rows)
    for line in lines:
        if line["state"] == "paused":
            why = f" ({line['reason']})" if line["reason"] else ""
            name = line["source"]
            say(f"{name} was paused by {line['by']}{why}. Next: bridge sources resume {name}", err=True)
    for name, waiting in {line["source"]: line["seek"] for line in lines if line["seek"]}.items():
        shown = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" if len(waiting) > 5 else "")
        say(f"{name}: a seek waits for the daemons of {shown}. Next: bridge sources lag {name}", err=True)
    if any(line["pause"] is not None for line in lines):
        click.echo("fix the rule or the sender, then `bridge sources resume SOURCE`", err=True)


@make(
    "pause",
    effect="changes",
    examples="""
        bridge sources pause orders --reason "the shop is down"
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.argument("source", metavar="NAME")
@reason_option
@remote_options
@config_options
def pause(source: str, reason: str | None, **options: Any) -> None:
    """Pause a source, on all its daemons within five seconds and across restarts.

    Messages in flight finish. On Kafka the daemons keep their membership of the group and their partitions. On Service
    Bus, prefetched messages may lose their lock: the broker delivers them again, and counts the delivery.
    """
    engine = engine_of_source(options, "sources.pause", source, reason)
    operate({**options, "engine": engine}, ("sources.pause", {"source": source, "reason": reason}))
    say(f"{source} is paused. Next: bridge sources resume {source}")


@make(
    "resume",
    effect="changes",
    examples="""
        bridge sources resume orders
        bridge sources resume orders --route start-order
    """,
    exits=EXITS | {1: "the source is neither paused nor limited, or the route has no limited dead letters"},
)
@click.argument("source", metavar="NAME")
@click.option("--route", metavar="NAME", help="Only the limit of this route.")
@reason_option
@remote_options
@config_options
def resume(source: str, route: str | None, reason: str | None, **options: Any) -> None:
    """End the pause of a source and the limit of its dead letters, on all its daemons within five seconds.

    After too many dead letters a source writes one dead letter per pause, and each one doubles the pause. Fix the rule
    or the sender first. Otherwise the source writes as many dead letters as before, and then slows down again.
    """
    given = {"source": source, "route": route, "reason": reason}
    engine = engine_of_source(options, "sources.resume", source, reason)
    [result] = operate({**options, "engine": engine}, ("sources.resume", given))
    if result["paused"]:
        say(f"{source} continues")
    for each in result["routes"]:
        subject = f"route {each}" if each else "messages that no route matches"
        say(f"{source}: dead letters of {subject} are no longer limited")


for each in (list_, pause, resume, lag, seek):
    command.add_command(each)
