"""Shared parts of `bridge early` and `bridge quarantine`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.connection import EXITS, operate, source_names
from bridge.cli.shared.jobs import form_option, job_options, submitted
from bridge.cli.shared.output import local_time, print_json, print_table, say
from bridge.cli.shared.parameters import SINCE
from bridge.core.words import plural

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
        "--limit",
        type=click.IntRange(min=0),
        default=100,
        show_default=True,
        help="Maximum number, the oldest first; 0 for all.",
    )
    return limit(function)


def drop_options(function: F) -> F:
    """Add the options `ids` and `forget`."""
    for option in (
        click.option("--forget", is_flag=True, help="Write no dead letters: the messages are lost."),
        click.option(
            "--id", "ids", multiple=True, metavar="ID", help="Only this message, by its ID in the list; repeatable."
        ),
    ):
        function = option(function)
    return function


def filter_options(function: F) -> F:
    """Add the options of a job on waiting messages, for `by_filter`: all but `prefix` and `source`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show the number of selected messages, and change nothing."),
        click.option("--all", "all_", is_flag=True, help="All messages."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N messages, the oldest ones."),
        click.option(
            "--until", "--older", "until", type=SINCE, metavar="TIME", help="Only messages before: RFC 3339, or 2h ago."
        ),
        click.option(
            "--since", "--newer", "since", type=SINCE, metavar="TIME", help="Only messages since: RFC 3339, or 2h ago."
        ),
        click.option(
            "--cause", "causes", multiple=True, metavar="REASON", help="Only messages with this reason; repeatable."
        ),
        click.option(
            "--route", "routes", multiple=True, metavar="NAME", help="Only messages of this route; repeatable."
        ),
    ):
        function = option(function)
    return form_option(job_options(function))


_FILTER = ("prefix", "source", "routes", "causes", "since", "until", "limit")
_JOB = ("rate", "ramp", "stop_after_failures")


def split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of `filter_options` with prefix and source, and the others, which are those of `engine_options`."""
    names = {*_FILTER, *_JOB, "all_", "dry_run", "watch", "form", "yes"}
    return {name: value for name, value in given.items() if name in names}, {
        name: value for name, value in given.items() if name not in names
    }


def is_narrowed(given: Mapping[str, Any]) -> bool:
    """True with an option that only a job has."""
    return any(given[name] for name in (*_JOB, "routes", "causes", "since", "until", "limit", "dry_run", "watch"))


def is_filter(named: bool, given: Mapping[str, Any]) -> bool:
    """True for a filter instead of names. Raises: UsageError for both, or for neither.

    given: values of `filter_options`.
    """
    context = click.get_current_context()
    if named and (is_narrowed(given) or given.get("prefix") or given["all_"]):
        raise click.UsageError("name what waits, or use a filter: not both", context)
    if not named and not any(given.get(name) for name in (*_FILTER[:-1], "all_")):
        raise click.UsageError(
            "name what waits, or use a filter: --source, --route, --cause, --since, --until; --all selects everything",
            context,
        )
    return not named


def by_filter(
    engine: dict[str, Any], stage: str, action: str, given: Mapping[str, Any], more: Mapping[str, Any]
) -> int:
    """Submit a job on the selected messages, or count them; return the exit code.

    given: values of `filter_options`. more: further parameters of the operation.
    """
    selection = {name: given[name] for name in _FILTER if given.get(name)} | {"all": given["all_"]}
    noun = "message" if action == "drop" else "instance" if stage == "early" else "key"
    if given["dry_run"] or not given["yes"]:
        if not given["dry_run"] and not sys.stdin.isatty():
            text = "no terminal to confirm on: use --yes, or --dry-run to see the number"
            raise click.UsageError(text, click.get_current_context())
        [found] = operate(engine, (f"{stage}.match", {"action": action, **selection}))
        what = plural(found["count"], noun)
        if given["dry_run"]:
            if given["form"] == "json":
                print_json(found)
            else:
                say(f"{action} would work on {what} with {plural(found['messages'], 'message')}")
            return exit_codes.OK
        if not found["count"]:
            say("error: no waiting message matches the filter", err=True)
            return exit_codes.FAILED
        if not click.confirm(f"{action.capitalize()}: {what}. Submit the job?", err=True):
            return exit_codes.FAILED
    parameters = {**selection, **{name: given[name] for name in _JOB}, **more}
    [result] = operate(engine, (f"{stage}.{action}_by", parameters))
    return submitted(engine, [result | {"engine": engine["engine"]}], noun, given["form"], watch=given["watch"])


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
                    local_time(one["since"]),
                    local_time(one["until"]) or "a release",
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
