"""Shared parts of `bridge early` and `bridge quarantine`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from bridge.cli.shared.connection import EXITS, source_names
from bridge.cli.shared.output import plural, print_json, print_table, say

F = TypeVar("F", bound=Callable[..., Any])

CHANGES = EXITS | {
    3: "the configuration is not valid, the engine does not answer, or no worker has processed the request in time"
}
"""Exit codes of commands that change waiting messages."""


def page_options(function: F) -> F:
    """Add the options `limit` and `offset`."""
    function = click.option(
        "--offset", type=click.IntRange(min=0), default=0, show_default=True, help="Number of messages to skip."
    )(function)
    limit = click.option(
        "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="Show only the oldest; 0 for all."
    )
    return limit(function)


def drop_options(function: F) -> F:
    """Add the options `ids`, `forget` and `yes`."""
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
        click.option("--forget", is_flag=True, help="Write no dead letters: the messages are lost."),
        click.option(
            "--id", "ids", multiple=True, metavar="ID", help="Only this message, by its ID in the list; repeatable."
        ),
    ):
        function = option(function)
    return function


def confirmed(ids: tuple[str, ...], forget: bool) -> bool:
    """Ask for the confirmation of a drop. Raises: UsageError without a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError("standard input is not a terminal; confirm with --yes", click.get_current_context())
    what = plural(len(ids), "message") if ids else "all messages that wait there"
    return click.confirm(f"Drop {what}{' for good' if forget else ''}?", err=True)


def dropped(change: dict[str, Any]) -> int:
    """Print the result of a drop; return the exit code."""
    count = change["before"] - change["after"]
    left = f", {change['after']:,} still wait" if change["after"] else ""
    say(f"{change['what']}: {plural(count, 'message')} dropped{left}")
    return 0 if count else 1


def show(
    found: Sequence[Mapping[str, Any]],
    unprocessed: int,
    options: dict[str, Any],
    source: str | None,
    limit: int,
    offset: int,
    as_json: bool,
    member: str,
) -> None:
    """Print waiting messages.

    unprocessed: number of entities with operations that no worker has processed.
    options: values of `engine_options`.
    member: member that names the instance or key.
    """
    shown = found[offset : offset + limit] if limit else found[offset:]
    if as_json:
        other = {"instance_id": "key", "key": "instance_id"}[member]
        print_json([{name: value for name, value in one.items() if name != other} for one in shown])
    elif not found:
        if not is_unknown(options, source):
            click.echo("no message waits", err=True)
    else:
        print_table(
            (member.removesuffix("_id").upper(), "SOURCE", "ROUTE", "MESSAGE", "SINCE", "UNTIL", "REASON", "ID"),
            [
                (
                    one[member],
                    one["source"],
                    one["route"] or "",
                    one["message_id"] or one["position"],
                    one["since"],
                    one["until"] or "a release",
                    one["reason"],
                    one["id"],
                )
                for one in shown
            ],
        )
    if unprocessed:
        click.echo(f"{unprocessed:,} more or changed, not yet processed by a worker; is one running?", err=True)
    if len(shown) < len(found):
        click.echo(f"{len(shown):,} of {len(found):,}; --limit 0 shows all, --offset the next ones", err=True)


def is_unknown(options: dict[str, Any], source: str | None) -> bool:
    """True if the configuration has no such source. Prints an error that lists the existing ones.

    Call this only if nothing was found: messages left by a source of an earlier configuration can be listed and
    dropped.
    options: values of `engine_options`.
    """
    if source is None or source in (known := source_names(options)):
        return False
    click.echo(f"there is no source `{source}`; the configuration has {', '.join(known)}", err=True)
    return True
