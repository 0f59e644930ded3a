"""`bridge entities signal`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import as_message, json_option, origin, origin_options, reason_option
from bridge.cli.output import print_json, say
from bridge.cli.parameters import AT, DURATION, ENTITY, JSON


@make(
    "signal",
    effect="changes",
    examples="""
        bridge entities signal stock_level@sku-1 receive --input '{"id": "d1", "quantity": 10}'
        bridge entities signal stock_level@sku-1 count --delay 1h
        bridge entities signal stock_level@sku-1 receive --input @delivery.json --message-id delivery-17
    """,
    exits=EXITS | {0: "the engine has accepted the signal", 1: "the engine refused"},
)
@click.argument("entity", type=ENTITY, metavar="NAME@KEY")
@click.argument("operation")
@click.option("--input", "input_", type=JSON, metavar="JSON|@FILE", help="Input of the operation.")
@click.option("--at", type=AT, metavar="TIME", help="RFC 3339 time of the operation.")
@click.option("--delay", type=DURATION, metavar="T", help="Duration until the operation.")
@origin_options
@json_option
@reason_option
@engine_options
def command(
    entity: tuple[str, str],
    operation: str,
    input_: Any,
    at: datetime | None,
    delay: float | None,
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **engine: Any,
) -> None:
    """Send a durable entity a one-way operation, without waiting for its outcome.

    An entity of the workflow kit's class `Entity` runs an operation once for a --message-id. With --json: entity,
    key, operation, message_id.
    """
    if at is not None and delay is not None:
        raise click.UsageError("use either --at or --delay", click.get_current_context())
    name, key = entity
    message = origin(message_id, bare, "bridge entities signal")
    given = {
        "entity": name,
        "key": key,
        "operation": operation,
        "input": input_,
        "at": at,
        "delay": delay,
        "reason": reason,
    }
    [result] = operate(engine, ("entities.signal", given | as_message(message)))
    if as_json:
        print_json(result)
    else:
        say(f"{name}@{key}: {operation} signalled")
