"""`bridge trace`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import engine_options, on_engine
from bridge.cli.options import json_option
from bridge.cli.output import plural, print_fields, print_json, print_table, say
from bridge.cli.parameters import Time
from bridge.core.states import Outcome

if TYPE_CHECKING:
    from bridge.app.operations.lineage import Arrival, Found, Lineage, Publication
    from bridge.app.operations.undelivered import Undelivered


@make(
    "trace",
    effect="reads",
    examples="""
        bridge trace order-1001
        bridge trace 7f3c --since 2h
        bridge trace "/shop 7f3c" --prefix order- --all --json
    """,
    exits={
        0: "found",
        1: "no instance, message or published event with this id was found",
        3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
    },
)
@click.argument("id_", metavar="ID")
@click.option("--since", type=Time(), help="Search only instances that changed since this time or duration.")
@click.option("--prefix", metavar="TEXT", help="Search only instances with this prefix of the id.")
@click.option("--all", "all_", is_flag=True, help="Continue after the first instance.")
@json_option
@engine_options
def command(id_: str, since: datetime | None, prefix: str | None, all_: bool, as_json: bool, **engine: Any) -> int:
    """Show which messages led to an instance, and what it published; or which instance a message led to.

    ID is the id of an instance, of a message (its identity, or the id of a CloudEvent), or of a published event. An
    instance is found at once. The engine has no index for the others. The command then searches the instances, the
    most recently changed first, then messages that wait for an instance or in quarantine, and dead letters of such
    messages.
    """
    from bridge.app.operations.lineage import Scope, Tracer

    async def look(tracer: Tracer) -> Found:
        return await tracer.find(id_, Scope(since, prefix, all_, _progress))

    found = on_engine(engine, Tracer, look)
    if as_json:
        print_json(
            {
                "id": id_,
                "found_by": found.by,
                "searched": found.searched,
                "instances": _plain(found),
                "undelivered": [asdict(one) for one in found.undelivered],
            }
        )
    elif found.instances:
        _print(id_, found)
    elif found.undelivered:
        for one in found.undelivered:
            say(_became(one))
    else:
        where = f" that changed since {since:%Y-%m-%dT%H:%M:%SZ}" if since else ""
        begin = f" with the prefix {prefix!r}" if prefix else ""
        looked = f"{plural(found.searched, 'instance')}{begin}{where}"
        click.echo(f"{id_!r} is not an instance, and no message with this id was found in {looked}", err=True)
    return 1 if found.by == "nothing" else 0


def _plain(found: Found) -> list[dict[str, Any]]:
    return [asdict(one) for one in found.instances]


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty() and of > done:
        click.echo(f"\rsearched {done:,} of {of:,} instances", nl=False, err=True)


def _print(id_: str, found: Found) -> None:
    for number, one in enumerate(found.instances):
        if number:
            click.echo()
        _print_one(one, id_)


def _print_one(one: Lineage, wanted: str) -> None:
    from bridge.app.operations.lineage import is_message

    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.name),
            ("status", one.status),
            ("created", one.created_at),
            ("child of", one.parent or ""),
            ("trace", one.trace_id or ""),
        )
    )
    rows = [(arrival.at, 0, _came(arrival)) for arrival in one.arrivals]
    rows += [(publication.at, 1, _went(publication)) for publication in one.publications]
    print_table(
        ("TIME", "", "WHAT", "ID", "BY", ""),
        [
            (at, *cells, "<" if is_message(cells[2], wanted) else "")
            for at, _, cells in sorted(rows, key=lambda row: row[:2])
        ],
    )
    for child in one.children:
        click.echo()
        _print_one(child, wanted)


def _became(one: Undelivered) -> str:
    route = f", route {one.route}" if one.route else ""
    what = f"{one.message_id} (source {one.source}{route})"
    why = f"{one.reason}{': ' if one.detail else ''}{one.detail}"
    if one.state is Outcome.DEAD_LETTERED:
        whom = f"; it waited for {one.instance_id}" if one.instance_id else ""
        return f"{what} was dead-lettered at {one.at}: {why}{whom}"
    if one.instance_id is not None:
        return f"{what} waits for {one.instance_id} since {one.at}, until {one.until}"
    return f"{what} is quarantined with its key {one.key} since {one.at}: {why}"


def _came(arrival: Arrival) -> tuple[str, str, str, str]:
    part = f" [{arrival.part}]" if arrival.part > 0 else ""
    by = "(not by a message)" if arrival.message_id is None else f"route {arrival.route}{part}"
    return "in", arrival.what, arrival.message_id or "", by


def _went(publication: Publication) -> tuple[str, str, str, str]:
    state = "" if publication.state == "published" else f", {publication.state}"
    again = f", {publication.attempts} attempts" if publication.attempts > 1 else ""
    return "out", publication.type, publication.id, f"target {publication.target}{state}{again}"
