"""`bridge instances start`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import as_message, json_option, origin, origin_options, reason_option
from bridge.cli.output import print_json, say
from bridge.cli.parameters import AT, DURATION, JSON, TAG


@make(
    "start",
    effect="changes",
    examples="""
        bridge instances start order_saga --id order-1001 --input @order.json
        bridge instances start cleanup --delay 1h --tag by=operations
        id=$(bridge instances start cleanup) && bridge instances wait "$id"
        bridge instances start cleanup --message-id nightly-2030-01-31     # in a script that may run twice
    """,
    exits=EXITS
    | {0: "the engine has accepted the start; the id is printed", 1: "the engine refused, or the id is in use"},
)
@click.argument("orchestration")
@click.option("--input", "input_", type=JSON, metavar="JSON|@FILE", help="Input.")
@click.option("--id", "instance_id", metavar="ID", help="Instance id.  [default: random]")
@click.option("--at", "start_at", type=AT, metavar="TIME", help="RFC 3339 time of the first turn.")
@click.option("--delay", type=DURATION, metavar="T", help="Duration until the first turn.")
@click.option("--version", metavar="V", help="Version of the orchestrator.")
@click.option("--tag", "tags", type=TAG, multiple=True, metavar="K=V", help="Tag of the instance; repeatable.")
@origin_options
@json_option
@reason_option
@engine_options
def command(
    orchestration: str,
    input_: Any,
    instance_id: str | None,
    start_at: datetime | None,
    delay: float | None,
    version: str | None,
    tags: tuple[tuple[str, str], ...],
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **engine: Any,
) -> None:
    """Start an orchestration by its name, and print the instance's id.

    A second start with the same --message-id has no effect and succeeds. With --json: instance_id, message_id, and
    repeated.
    """
    if start_at is not None and delay is not None:
        raise click.UsageError("use either --at or --delay", click.get_current_context())
    message = origin(message_id, bare, "bridge instances start")
    given = {
        "orchestration": orchestration,
        "input": input_,
        "instance_id": instance_id,
        "start_at": start_at,
        "delay": delay,
        "version": version,
        "tags": dict(tags),
        "reason": reason,
    }
    [result] = operate(engine, ("instances.start", given | as_message(message)))
    if as_json:
        print_json(result)
        return
    if result["repeated"]:
        click.echo("this message started the instance before", err=True)
    say(result["instance_id"])
