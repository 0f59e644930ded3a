"""`bridge parked drop`."""

from __future__ import annotations

import sys
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import reason_option
from bridge.cli.output import plural, say


@make(
    "drop",
    effect="changes",
    examples="""
        bridge parked drop order-1001
        bridge parked drop order-1001 --id 5f0c92d1ab34e6f708192a3b
        bridge parked drop --source orders k-17 --yes
    """,
    exits=EXITS
    | {
        3: "the configuration is broken, or the engine does not answer, or no worker has done it in time",
        1: "nothing waits there, or the question was answered no",
    },
)
@click.argument("target", metavar="TARGET")
@click.option("--source", metavar="NAME", help="The target is a quarantined key of this source.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this message, by its ID in the list; repeatable.")
@click.option("--forget", is_flag=True, help="Write no dead letters: the messages are gone for good.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@reason_option
@engine_options
def command(
    target: str, source: str | None, ids: tuple[str, ...], forget: bool, yes: bool, reason: str | None, **engine: Any
) -> int:
    """Dead-letter waiting messages now. TARGET is the id of an instance, or with --source a quarantined key.

    Their dead letters name the drop as the reason and can be replayed. Dropping the last message ends the quarantine.
    Messages after a dropped one stay until you release the key.
    """
    context = click.get_current_context()
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here: say --yes", context)
        what = plural(len(ids), "message") if ids else "everything that waits there"
        if not click.confirm(f"Drop {what}{' for good' if forget else ''}?", err=True):
            return 1
    what_waits = {"instance_id": target} if source is None else {"source": source, "key": target}
    [change] = operate(engine, ("parked.drop", what_waits | {"ids": ids, "forget": forget, "reason": reason}))
    dropped = change["before"] - change["after"]
    left = f", {change['after']:,} still wait" if change["after"] else ""
    say(f"{change['what']}: {plural(dropped, 'message')} dropped{left}")
    return 0 if dropped else 1
