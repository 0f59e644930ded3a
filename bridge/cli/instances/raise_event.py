"""`bridge instances raise`."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.command import command as make
from bridge.cli.connection import EXITS, engine_options, operate
from bridge.cli.options import as_message, json_option, origin, origin_options, reason_option
from bridge.cli.output import print_json, say
from bridge.cli.parameters import JSON


@make(
    "raise",
    effect="changes",
    examples="""
        bridge instances raise order-1001 payment --data '{"approved": true}'
        bridge instances raise order-1001 cancel --data '{"reason": "customer asked"}'
        bridge instances raise order-1001 payment --data @payment.json --message-id payment-77
    """,
    exits=EXITS,
)
@click.argument("instance_id", metavar="ID")
@click.argument("event")
@click.option("--data", type=JSON, metavar="JSON|@FILE", help="Data of the event.")
@origin_options
@json_option
@reason_option
@engine_options
def command(
    instance_id: str,
    event: str,
    data: Any,
    message_id: str | None,
    bare: bool,
    as_json: bool,
    reason: str | None,
    **engine: Any,
) -> None:
    """Raise an event to an orchestration.

    An orchestration that waits through an inbox drops a second event with the same --message-id. If the orchestration
    has finished and received the event before, the command succeeds. With --json: instance_id, event, message_id, and
    repeated.
    """
    message = origin(message_id, bare, "bridge instances raise")
    given = {"instance_id": instance_id, "event": event, "data": data, "reason": reason}
    [result] = operate(engine, ("instances.raise", given | as_message(message)))
    if as_json:
        print_json(result)
    else:
        say(f"{instance_id}: {event} {'was raised by this message before' if result['repeated'] else 'raised'}")
