"""`bridge parked release`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import plural, say
from bridge.cli.parked.source import unknown


@make(
    "release",
    effect="changes",
    examples="""
        bridge parked release order-1001 order-1002
        bridge parked release --source orders k-17
        bridge parked release --source orders --all
    """,
    exits=EXITS
    | {
        3: "the configuration is broken, or the engine does not answer, or no worker has done it in time",
        1: "nothing waits there, or nobody would take it up",
    },
)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--source", metavar="NAME", help="The targets are quarantined keys of this source.")
@click.option("--all", "all_", is_flag=True, help="Every quarantined key of the source.")
@reason_option
@engine_options
def command(targets: tuple[str, ...], source: str | None, all_: bool, reason: str | None, **engine: Any) -> int:
    """Retry waiting messages now.

    A target is the id of an instance: its waiting messages are delivered if the instance exists by now, else they
    keep waiting. With --source, a target is a quarantined key: its messages go through the rules again, in order, and
    later ones follow.
    """
    context = click.get_current_context()
    if all_ and source is None:
        raise click.UsageError("--all needs a --source", context)
    if all_ == bool(targets):
        raise click.UsageError("name a target, or say --source NAME --all", context)
    if source is None:
        named: list[dict[str, Any]] = [{"instance_id": target} for target in targets]
    elif all_:
        named = [{"source": source, "all": True}]
    else:
        named = [{"source": source, "key": target} for target in targets]
    results = operate(engine, *(("parked.release", each | {"reason": reason}) for each in named))
    changes = [change for result in results for change in result]
    for change in changes:
        if source is None:
            left = f", {change['after']:,} still wait" if change["after"] else ""
            say(f"{change['what']}: {plural(change['before'] - change['after'], 'message')} delivered{left}")
        else:
            say(f"{change['what']}: {plural(change['before'], 'message')} released")
    if not changes:
        if unknown(engine, source):
            return 1
        click.echo("nothing to release")
    return 0
