"""`bridge instances list`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.instances.views import in_json, instance_of
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate
from bridge.cli.shared.options import json_option
from bridge.cli.shared.output import clean, compact, local_time, print_json, print_table
from bridge.cli.shared.parameters import OUTCOMES, SINCE, STATUS, TAG

if TYPE_CHECKING:
    from bridge.app.operations.instances.instances import InstanceInfo


@make(
    "list",
    effect="reads",
    examples="""
        bridge instances list
        bridge instances list --status running --status suspended --prefix order-
        bridge instances list --outcome compensated --outcome compensation_failed --newer 1d
        bridge instances list --name checkout --tag country=de --older 3d
        bridge instances list --count
        bridge instances list --newer 2h --json | jq .
        bridge instances list --status failed -0 | bridge instances rewind -0 -
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
@click.option("--name", metavar="NAME", help="Only this orchestration, or saga of the configuration.")
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(OUTCOMES),
    multiple=True,
    help="Only instances whose saga ended like this; repeatable.",
)
@click.option("--tag", "tags", type=TAG, multiple=True, metavar="K=V", help="Only instances with this tag; repeatable.")
@click.option("--prefix", metavar="TEXT", help="Only instances with this prefix of the id.")
@click.option(
    "--created-from",
    "--newer",
    "created_from",
    type=SINCE,
    metavar="TIME",
    help="Only created since: RFC 3339, or 2h for two hours ago.",
)
@click.option(
    "--created-to",
    "--older",
    "created_to",
    type=SINCE,
    metavar="TIME",
    help="Only created before: RFC 3339, or 2h for two hours ago.",
)
@click.option(
    "--completed-from", type=SINCE, metavar="TIME", help="Only finished since: RFC 3339, or 2h for two hours ago."
)
@click.option(
    "--completed-to", type=SINCE, metavar="TIME", help="Only finished before: RFC 3339, or 2h for two hours ago."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Maximum number of instances, the newest first; 0 for all.",
)
@click.option("--count", "only_count", is_flag=True, help="Print numbers by name and status, or by saga and outcome.")
@click.option("--ids", "only_ids", is_flag=True, help="Print ids only, one per line.")
@click.option(
    "-0", "--null", "separated", is_flag=True, help="Print ids only, each terminated by a null byte, for `xargs -0`."
)
@click.option("--no-payloads", is_flag=True, help="With --json: leave out input and output.")
@json_option
@engine_options
def list_(
    statuses: tuple[str, ...],
    name: str | None,
    outcomes: tuple[str, ...],
    tags: tuple[tuple[str, str], ...],
    prefix: str | None,
    created_from: datetime | None,
    created_to: datetime | None,
    completed_from: datetime | None,
    completed_to: datetime | None,
    limit: int,
    only_count: bool,
    only_ids: bool,
    separated: bool,
    no_payloads: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """List orchestrations, the newest first. A saga of the configuration has its own name.

    With --json each instance has instance_id, name, status, created_at, last_updated_at, input, output, custom_status,
    failure, saga, outcome. The embedded engine counts by status, name and outcome without reading the instances.
    """
    if as_json + only_ids + separated > 1 or (only_count and (only_ids or separated)):
        raise click.UsageError("use one of --json, --ids, -0 and --count", click.get_current_context())
    filter_ = {
        "statuses": statuses,
        "prefix": prefix,
        "created_from": created_from,
        "created_to": created_to,
        "completed_from": completed_from,
        "completed_to": completed_to,
        "name": name,
        "outcomes": outcomes,
        "tags": dict(tags),
    }
    if only_count:
        [counts] = operate(engine, ("instances.count", filter_))
        _print_counts(counts, "outcome" if outcomes else "status", as_json=as_json)
        return
    given = {"limit": limit, "payloads": as_json and not no_payloads, "named": not (only_ids or separated)}
    [found] = operate(engine, ("instances.list", filter_ | given))
    shown, count = [instance_of(one) for one in found["instances"]], found["all"]
    if as_json:
        print_json([in_json(one) for one in shown])
    elif separated:
        _print_separated([one.instance_id for one in shown])
    elif only_ids:
        for one in shown:
            click.echo(clean(one.instance_id))
    elif not count:
        click.echo("no instances", err=True)
    else:
        _print_instances(shown)
    if len(shown) < count:
        click.echo(f"the newest {len(shown):,} of {count:,}; --limit 0 shows all", err=True)


def _print_counts(counts: Sequence[Mapping[str, Any]], word: str, *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": one["name"], word: one["status"], "count": one["count"]} for one in counts])
    else:
        rows = [(one["name"], one["status"], f"{one['count']}") for one in counts]
        print_table(("NAME", word.upper(), "COUNT"), rows)


def _print_instances(shown: Sequence[InstanceInfo]) -> None:
    """Print a table. On a terminal it has ages instead of times, and no empty column."""
    terminal = sys.stdout.isatty()
    columns = ("INSTANCE", "NAME", "STATUS", "OUTCOME", "CREATED", "UPDATED", "CUSTOM STATUS")
    rows = [
        (
            one.instance_id,
            one.shown_name,
            one.status,
            one.outcome or "",
            _age(one.created_at) if terminal else local_time(one.created_at),
            _age(one.last_updated_at) if terminal else local_time(one.last_updated_at),
            compact(one.custom_status, 80 if terminal else None),
        )
        for one in shown
    ]
    used = [at for at, name in enumerate(columns) if not terminal or any(row[at] for row in rows)]
    print_table(
        [columns[at] for at in used],
        [[row[at] for at in used] for row in rows],
        folds=("INSTANCE", "NAME", "CUSTOM STATUS"),
    )


def _age(time: str) -> str:
    from bridge.cli.shared.screen import age

    return age(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())) if time else ""


def _print_separated(ids: list[str]) -> None:
    """Print ids unchanged. Ids that no command-line argument can hold are left out and counted on standard error."""
    usable = [each for each in ids if "\0" not in each and not any("\ud800" <= one <= "\udfff" for one in each)]
    sys.stdout.buffer.write("".join(f"{each}\0" for each in usable).encode())
    if left := len(ids) - len(usable):
        click.echo(f"{left:,} omitted: their ids contain null bytes or are not Unicode; --json shows them", err=True)
