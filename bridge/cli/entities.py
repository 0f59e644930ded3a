"""`bridge entities`: durable entities on an engine."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate
from bridge.cli.shared.options import as_message, json_option, origin, origin_options, reason_option
from bridge.cli.shared.output import compact, local_time, print_fields, print_json, print_table, say
from bridge.cli.shared.parameters import AT, DURATION, ENTITY, JSON, SINCE
from bridge.core.words import plural


@click.group(
    "entities",
    cls=BridgeGroup,
    members={
        "list": "List entities by name, key and time.",
        "show": "Show one entity and its state.",
        "signal": "Send a one-way operation to an entity.",
        "clean": "Remove empty entities and release orphaned locks.",
    },
    examples="""
        bridge entities list customer_account
        bridge entities show customer_account@c-17
        bridge entities signal customer_account@c-17 paid --input '{"id": "p1", "amount": 5}'
    """,
)
def command() -> None:
    """List, show, signal and clean durable entities on the configured engine.

    An entity is named NAME@KEY. An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge entities list
        bridge entities list stock_level --key-prefix sku- --modified-from 1h
        bridge entities list stock_level --json | jq '.[].state'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.argument("name", required=False)
@click.option("--key-prefix", metavar="TEXT", help="Only entities with this prefix of the key; needs a NAME.")
@click.option(
    "--modified-from",
    type=SINCE,
    metavar="TIME",
    help="Only entities changed since: RFC 3339, or 2h for two hours ago.",
)
@click.option(
    "--modified-to", type=SINCE, metavar="TIME", help="Only entities changed before: RFC 3339, or 2h for two hours ago."
)
@click.option("--no-state", is_flag=True, help="Leave out the states.")
@click.option("--transient", is_flag=True, help="Include entities without a state.")
@json_option
@engine_options
def list_(
    name: str | None,
    key_prefix: str | None,
    modified_from: datetime | None,
    modified_to: datetime | None,
    no_state: bool,
    transient: bool,
    as_json: bool,
    **engine: Any,
) -> None:
    """List durable entities."""
    if key_prefix and name is None:
        raise click.UsageError("--key-prefix needs NAME", click.get_current_context())
    given = {
        "entity": name,
        "key_prefix": key_prefix,
        "modified_from": modified_from,
        "modified_to": modified_to,
        "state": not no_state,
        "transient": transient,
    }
    [found] = operate(engine, ("entities.list", given))
    if as_json:
        print_json(found)
    elif not found:
        click.echo("no entities", err=True)
    else:
        print_table(
            ("ENTITY", "MODIFIED", "BACKLOG", "LOCKED BY", "STATE"),
            [
                (
                    f"{one['entity']}@{one['key']}",
                    local_time(one["last_modified_at"]),
                    str(one["backlog"]),
                    one["locked_by"] or "",
                    compact(one["state"], 80),
                )
                for one in found
            ],
        )


@make(
    "show",
    effect="reads",
    examples="""
        bridge entities show customer_account@c-17
        bridge entities show customer_account@c-17 --json | jq .state
    """,
    exits=EXITS | {1: "the engine has no such entity"},
)
@click.argument("entity", type=ENTITY, metavar="NAME@KEY")
@json_option
@engine_options
def show(entity: tuple[str, str], as_json: bool, **engine: Any) -> None:
    """Show a durable entity and its state."""
    [one] = operate(engine, ("entities.show", {"entity": entity[0], "key": entity[1]}))
    if as_json:
        print_json(one)
        return
    print_fields(
        (
            ("entity", f"{one['entity']}@{one['key']}"),
            ("modified", local_time(one["last_modified_at"])),
            ("backlog", str(one["backlog"])),
            ("locked by", one["locked_by"] or ""),
            ("state", compact(one["state"])),
        )
    )


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
def signal(
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


@make(
    "clean",
    effect="changes",
    examples="""
        bridge entities clean
        bridge entities clean --keep-empty
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--keep-empty", is_flag=True, help="Do not remove entities without state.")
@click.option("--keep-locks", is_flag=True, help="Do not release locks whose holders no longer exist.")
@reason_option
@engine_options
def clean(keep_empty: bool, keep_locks: bool, reason: str | None, **engine: Any) -> None:
    """Remove entities that have no state, and release locks whose holders are gone."""
    given = {"empty": not keep_empty, "locks": not keep_locks, "reason": reason}
    [result] = operate(engine, ("entities.clean", given))
    removed = plural(result["removed"], "empty entity")
    click.echo(f"{removed} removed, {plural(result['released'], 'orphaned lock')} released")


for each in (list_, show, signal, clean):
    command.add_command(each)
