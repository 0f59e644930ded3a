"""`bridge parked list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_parked
from bridge.cli.options import json_option
from bridge.cli.output import print_json, print_table
from bridge.cli.parked.source import unknown

if TYPE_CHECKING:
    from bridge.app.operations.parked import ParkedMessages, Waiting


@make(
    "list",
    effect="reads",
    examples="""
        bridge parked list
        bridge parked list --kind instance --prefix order-
        bridge parked list --kind key --source orders
        bridge parked list --limit 500 --offset 500
        bridge parked list --json | jq 'group_by(.route) | map({route: .[0].route, count: length})'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--kind", type=click.Choice(["instance", "key"]), help="Only what waits for an instance, or with a key.")
@click.option("--prefix", metavar="TEXT", help="Only for instances whose ids begin so.")
@click.option("--source", metavar="NAME", help="Only messages of this source.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="The oldest; 0 for all.")
@click.option("--offset", type=click.IntRange(min=0), default=0, show_default=True, help="How many to pass over.")
@json_option
@engine_options
def command(
    kind: Literal["instance", "key"] | None,
    prefix: str | None,
    source: str | None,
    limit: int,
    offset: int,
    as_json: bool,
    **engine: Any,
) -> None:
    """List waiting messages, the oldest first.

    With --json each has kind, instance_id, source, key, id, message_id, route, since, until, reason, detail, position
    and size.
    """
    from bridge.app.operations.parked import Which

    which = Which(prefix, source, (kind,) if kind else ("instance", "key"))

    async def look(parked: ParkedMessages) -> tuple[list[Waiting], int]:
        return await parked.list(which), await parked.unprocessed()

    found, unprocessed = on_parked(engine, look)
    shown = found[offset : offset + limit] if limit else found[offset:]
    if as_json:
        print_json([asdict(one) for one in shown])
    elif not found:
        if not unknown(engine, source):
            click.echo("nothing waits", err=True)
    else:
        print_table(
            ("WAITS FOR", "SOURCE", "ROUTE", "MESSAGE", "SINCE", "UNTIL", "REASON", "ID"),
            [
                (
                    one.instance_id if one.instance_id is not None else f"key {one.key}",
                    one.source,
                    one.route or "",
                    one.message_id or one.position,
                    one.since,
                    one.until or "a release",
                    one.reason,
                    one.id,
                )
                for one in shown
            ],
        )
    if unprocessed:
        click.echo(f"{unprocessed:,} more, or changed, that no worker has processed yet; is one running?", err=True)
    if len(shown) < len(found):
        click.echo(f"{len(shown):,} of {len(found):,}; --limit 0 shows all, --offset the next ones", err=True)
