"""`bridge instances show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, on_instances
from bridge.cli.options import json_option
from bridge.cli.output import clean, compact, print_fields, print_json, print_table

if TYPE_CHECKING:
    from durabletask.history import HistoryEvent

    from bridge.app.operations.instances import Instance, Instances


@make(
    "show",
    effect="reads",
    examples="""
        bridge instances show order-1001
        bridge instances show order-1001 --history
        bridge instances show order-1001 --json | jq .output
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.option("--history", is_flag=True, help="Show the history as a timeline.")
@json_option
@engine_options
def command(instance_id: str, history: bool, as_json: bool, **engine: Any) -> None:
    """Show an orchestration: status, input, output, custom status, failure and, on request, its history."""
    from bridge.app.operations.timeline import as_json as history_as_json

    async def look(instances: Instances) -> tuple[Instance, Sequence[HistoryEvent]]:
        return await instances.show(instance_id), await instances.history(instance_id) if history else ()

    one, events = on_instances(engine, look)
    if as_json:
        print_json(asdict(one) | ({"history": history_as_json(events)} if history else {}))
        return
    print_instance(one)
    if history:
        _print_history(events)


def print_instance(one: Instance) -> None:
    """Print an orchestration in lines."""
    from bridge.app.progress import given, progress

    failed = one.failure or {}
    saga, *steps = progress(one.custom_status) or [""]
    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.name),
            ("status", one.status),
            ("created", one.created_at),
            ("updated", one.last_updated_at),
            ("custom status", "" if saga else compact(one.custom_status)),
            ("input", compact(given(one.input))),
            ("output", compact(one.output)),
            ("failure", f"{failed['type']}: {failed['message']}" if failed else ""),
            ("saga", saga),
        )
    )
    for step in steps:
        click.echo(f"  {clean(step)}")
    for line in str(failed.get("stack_trace") or "").splitlines():
        click.echo(f"  {clean(line)}")


def _print_history(events: Sequence[HistoryEvent]) -> None:
    from bridge.app.operations.timeline import timeline

    click.echo()
    print_table(
        ("TIME", "AFTER", "EVENT", "DATA"),
        [(entry.at, f"+{entry.after:.3f}s", entry.event, compact(entry.data, 200)) for entry in timeline(events)],
    )
