"""`bridge quarantine`: quarantined keys and their messages."""

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
    is_narrowed,
    is_unknown,
    page_options,
    show,
    split,
)
from bridge.core.words import plural


@click.group(
    "quarantine",
    cls=BridgeGroup,
    members={
        "list": "List quarantined messages.",
        "release": "Process the messages of quarantined keys again.",
        "drop": "Dead-letter quarantined messages now.",
    },
    examples="""
        bridge quarantine list
        bridge quarantine release --source orders k-17
        bridge quarantine drop --source orders k-17 --id 5f0c... --yes
    """,
)
def command() -> None:
    """List, release and drop quarantined messages on the configured engine.

    A failed message waits in quarantine with all later messages of its ordering key (`quarantine`).

    An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge quarantine list
        bridge quarantine list --source orders --limit 500 --offset 500
        bridge quarantine list --json | jq 'group_by(.key) | map({key: .[0].key, count: length})'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option("--source", metavar="NAME", help="Only messages of this source.")
@page_options
@json_option
@engine_options
def list_(source: str | None, limit: int, offset: int, as_json: bool, **engine: Any) -> None:
    """List quarantined messages, the oldest first.

    With --json each message has source, key, id, message_id, route, since, until, reason, detail, position and size.
    """
    found, unprocessed = operate(engine, ("quarantine.list", {"source": source}), ("quarantine.unprocessed", {}))
    show(found, unprocessed["count"], engine, source, limit, offset, as_json, "key")


@make(
    "release",
    effect="changes",
    examples="""
        bridge quarantine release --source orders k-17 k-18
        bridge quarantine release --source orders --all
        bridge quarantine release --cause expression_error --ramp 1,10,100 --watch
    """,
    exits=CHANGES
    | {
        1: "the key is not in quarantine, or no source resumes it; with a filter: nothing matches, or the "
        "job did not end well"
    },
)
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--source", metavar="NAME", help="Source of the keys.")
@filter_options
@reason_option
@engine_options
def release(keys: tuple[str, ...], source: str | None, reason: str | None, **given: Any) -> int:
    """Release quarantined keys.

    The messages of a released key go through the rules again, in order, and later ones follow. A filter, except
    --source with --all alone, selects keys for a job, see `bridge jobs`.
    """
    chosen, engine = split(given)
    chosen["source"] = source
    alone = source is not None and chosen["all_"] and not is_narrowed(chosen)
    if not alone and is_filter(bool(keys), chosen):
        return by_filter(engine, "quarantine", "release", chosen, {"reason": reason})
    if source is None:
        raise click.UsageError("name the --source of the keys", click.get_current_context())
    if alone and keys:
        raise click.UsageError("name a KEY, or say --all", click.get_current_context())
    named: list[dict[str, Any]] = [{"all": True}] if alone else [{"key": key} for key in keys]
    calls = (("quarantine.release", {"source": source, "reason": reason} | each) for each in named)
    changes = [change for result in operate(engine, *calls) for change in result]
    for change in changes:
        say(f"{change['what']}: {plural(change['before'], 'message')} released")
    if not changes:
        if is_unknown(engine, source):
            return 1
        click.echo("nothing to release")
    return 0


@make(
    "drop",
    effect="changes",
    examples="""
        bridge quarantine drop --source orders k-17
        bridge quarantine drop --source orders k-17 --id 5f0c92d1ab34e6f708192a3b --yes
        bridge quarantine drop --source orders --older 30d --dry-run
    """,
    exits=CHANGES | {1: "the key is not in quarantine, or you answered no; with --watch: the job did not end well"},
)
@click.argument("key", required=False, metavar="[KEY]")
@click.option("--source", metavar="NAME", help="Source of the key.")
@filter_options
@drop_options
@reason_option
@engine_options
def drop(
    key: str | None, source: str | None, ids: tuple[str, ...], forget: bool, reason: str | None, **given: Any
) -> int:
    """Dead-letter quarantined messages of a key now.

    Their dead letters name the drop as the reason and can be replayed. Dropping the last message ends the quarantine.
    Messages after a dropped one stay until you release the key. A filter selects messages for a job, see `bridge jobs`.
    """
    chosen, engine = split(given)
    chosen["source"] = source
    if is_filter(key is not None or bool(ids), chosen):
        return by_filter(engine, "quarantine", "drop", chosen, {"reason": reason, "forget": forget})
    if key is None or source is None:
        raise click.UsageError("name the KEY and its --source", click.get_current_context())
    if not chosen["yes"] and not confirmed(ids, forget):
        return 1
    parameters = {"source": source, "key": key, "ids": ids, "forget": forget, "reason": reason}
    [change] = operate(engine, ("quarantine.drop", parameters))
    return dropped(change)


for each in (list_, release, drop):
    command.add_command(each)
