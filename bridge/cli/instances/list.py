"""`bridge instances list`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.options import json_option
from bridge.cli.output import clean, compact, print_json, print_table
from bridge.cli.parameters import SINCE, STATUS


@make(
    "list",
    effect="reads",
    examples="""
        bridge instances list
        bridge instances list --status running --status suspended --prefix order-
        bridge instances list --created-from 2h --json | jq .
        bridge instances list --status failed -0 | xargs -0 -n1 bridge instances rewind
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option(
    "--status",
    "statuses",
    type=STATUS,
    multiple=True,
    metavar="STATUS",
    help="Only instances with this status; repeatable.",
)
@click.option("--prefix", metavar="TEXT", help="Only instances with this prefix of the id.")
@click.option("--created-from", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--created-to", type=SINCE, metavar="TIME", help="RFC 3339, or 2h for two hours ago.")
@click.option("--completed-from", type=SINCE, metavar="TIME", help="Only finished ones; RFC 3339 or 2h.")
@click.option("--completed-to", type=SINCE, metavar="TIME", help="Only finished ones; RFC 3339 or 2h.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Number of instances, the newest first; 0 for all.",
)
@click.option("--ids", "only_ids", is_flag=True, help="Print ids only, one per line.")
@click.option(
    "-0", "--null", "separated", is_flag=True, help="Print ids only, each terminated by a null byte, for `xargs -0`."
)
@json_option
@engine_options
def command(
    statuses: tuple[str, ...],
    prefix: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    completed_from: datetime | None,
    completed_to: datetime | None,
    limit: int,
    only_ids: bool,
    separated: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """List orchestrations, the newest first.

    With --json each has instance_id, name, status, created_at, last_updated_at, input, output, custom_status,
    failure.
    """
    from bridge.app.operations.instances import Filter

    if as_json + only_ids + separated > 1:
        raise click.UsageError("use one of --json, --ids and -0", click.get_current_context())
    filter_ = Filter(statuses, prefix, created_from, created_to, completed_from, completed_to)
    found = on_instances(engine, lambda instances: instances.list(filter_, payloads=as_json))
    shown = found[:limit] if limit else found
    if as_json:
        print_json([asdict(one) for one in shown])
    elif separated:
        _print_separated([one.instance_id for one in shown])
    elif only_ids:
        for one in shown:
            click.echo(clean(one.instance_id))
    elif not found:
        click.echo("no instances", err=True)
    else:
        print_table(
            ("INSTANCE", "NAME", "STATUS", "CREATED", "UPDATED", "CUSTOM STATUS"),
            [
                (
                    one.instance_id,
                    one.name,
                    one.status,
                    one.created_at,
                    one.last_updated_at,
                    compact(one.custom_status, 80),
                )
                for one in shown
            ],
        )
    if len(shown) < len(found):
        click.echo(f"the newest {len(shown):,} of {len(found):,}; --limit 0 shows all", err=True)


def _print_separated(ids: list[str]) -> None:
    """Print ids unchanged. Ids that no command-line argument can hold are left out and counted on standard error."""
    usable = [each for each in ids if "\0" not in each and not any("\ud800" <= one <= "\udfff" for one in each)]
    sys.stdout.buffer.write("".join(f"{each}\0" for each in usable).encode())
    if left := len(ids) - len(usable):
        click.echo(f"{left:,} omitted: their ids contain null bytes or are not Unicode; --json shows them", err=True)
