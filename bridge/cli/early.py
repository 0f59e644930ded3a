"""`bridge early`: early messages."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate
from bridge.cli.shared.options import json_option, reason_option
from bridge.cli.shared.output import say
from bridge.cli.shared.waiting import (
    CHANGES,
    by_filter,
    confirmed,
    drop_options,
    dropped,
    filter_options,
    is_filter,
    page_options,
    show,
    split,
)
from bridge.core.words import plural


@click.group(
    "early",
    cls=BridgeGroup,
    members={
        "list": "List early messages.",
        "release": "Try to deliver early messages now.",
        "drop": "Dead-letter early messages now.",
    },
    examples="""
        bridge early list
        bridge early release order-1001
        bridge early drop order-1001 --id 5f0c... --yes
    """,
)
def command() -> None:
    """List, release and drop early messages on the configured engine.

    An early message waits for the start of its instance (`on_missing: {wait: ...}`).

    An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge early list
        bridge early list --prefix order-
        bridge early list --source orders --limit 500 --offset 500
        bridge early list --json | jq 'group_by(.route) | map({route: .[0].route, count: length})'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--prefix", metavar="TEXT", help="Only for instances with this prefix of the id.")
@click.option("--source", metavar="NAME", help="Only messages of this source.")
@page_options
@json_option
@engine_options
def list_(prefix: str | None, source: str | None, limit: int, offset: int, as_json: bool, **engine: Any) -> None:
    """List early messages, the oldest first.

    With --json each message has instance_id, source, id, message_id, route, since, until, reason, detail, position and
    size.
    """
    found, unprocessed = operate(
        engine, ("early.list", {"prefix": prefix, "source": source}), ("early.unprocessed", {})
    )
    show(found, unprocessed["count"], engine, source, limit, offset, as_json, "instance_id")


@make(
    "release",
    effect="changes",
    examples="""
        bridge early release order-1001 order-1002
        bridge early release --source orders --older 2h --rate 10/s --watch
    """,
    exits=CHANGES
    | {1: "the instance has no early messages; with a filter: nothing matches, or the job did not end well"},
)
@click.argument("instances", nargs=-1, metavar="INSTANCE...")
@click.option("--prefix", metavar="TEXT", help="Only for instances with this prefix of the id.")
@click.option("--source", metavar="NAME", help="Only messages of this source.")
@filter_options
@reason_option
@engine_options
def release(instances: tuple[str, ...], reason: str | None, **given: Any) -> int:
    """Deliver the early messages of instances now.

    Messages whose instance exists are delivered; the others continue to wait. A filter selects instances for a job, see
    `bridge jobs`.
    """
    chosen, engine = split(given)
    if is_filter(bool(instances), chosen):
        return by_filter(engine, "early", "release", chosen, {"reason": reason})
    changes = operate(
        engine, *(("early.release", {"instance_id": instance, "reason": reason}) for instance in instances)
    )
    for change in changes:
        left = f", {change['after']:,} still wait" if change["after"] else ""
        say(f"{change['what']}: {plural(change['before'] - change['after'], 'message')} delivered{left}")
    return 0


@make(
    "drop",
    effect="changes",
    examples="""
        bridge early drop order-1001
        bridge early drop order-1001 --id 5f0c92d1ab34e6f708192a3b
        bridge early drop --route pay --older 7d --dry-run
    """,
    exits=CHANGES | {1: "nothing waits there, or you answered no; with --watch: the job did not end well"},
)
@click.argument("instance", required=False, metavar="[INSTANCE]")
@click.option("--prefix", metavar="TEXT", help="Only for instances with this prefix of the id.")
@click.option("--source", metavar="NAME", help="Only messages of this source.")
@filter_options
@drop_options
@reason_option
@engine_options
def drop(instance: str | None, ids: tuple[str, ...], forget: bool, reason: str | None, **given: Any) -> int:
    """Dead-letter early messages of an instance now.

    Their dead letters name the drop as the reason and can be replayed. A filter selects messages for a job, see
    `bridge jobs`.
    """
    chosen, engine = split(given)
    if is_filter(instance is not None or bool(ids), chosen):
        return by_filter(engine, "early", "drop", chosen, {"reason": reason, "forget": forget})
    if instance is None:
        raise click.UsageError("name the INSTANCE of the messages", click.get_current_context())
    if not chosen["yes"] and not confirmed(ids, forget):
        return 1
    [change] = operate(
        engine, ("early.drop", {"instance_id": instance, "ids": ids, "forget": forget, "reason": reason})
    )
    return dropped(change)


for each in (list_, release, drop):
    command.add_command(each)
