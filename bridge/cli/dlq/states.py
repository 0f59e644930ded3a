"""`bridge dlq drop` and `bridge dlq restore`: states of dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, TypeVar

import click

from bridge.cli.dlq.selection import filter_options, remote_count, require_filter, selection_of, submit_jobs
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import engine_names
from bridge.cli.shared.options import config_options, json_option, reason_option
from bridge.cli.shared.output import print_json, say
from bridge.cli.shared.remote import remote_options
from bridge.cli.shared.several import read_ids
from bridge.core.words import plural

F = TypeVar("F", bound=Callable[..., Any])

_EXITS = {
    0: "the job was submitted, or the dry run has counted",
    1: "no dead letter is selected",
    3: "the configuration is not valid, or a broker or engine does not answer (is the daemon running?)",
}


def _job_options(function: F) -> F:
    """Add the options of a job on dead letters."""
    for option in (
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="Most dead letters per second.  [default: no limit]",
        ),
        click.option("--dry-run", is_flag=True, help="Count the dead letters, and change nothing."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Select at most N dead letters."),
        click.option("--all", "all_", is_flag=True, help="Select all; required without a filter."),
        click.option("-0", "--null", "separated", is_flag=True, help="Ids on standard input end with null bytes."),
        click.option(
            "--id", "ids", multiple=True, metavar="ID", help="Only this id; repeatable. `-` reads ids from a pipe."
        ),
        filter_options,
    ):
        function = option(function)
    return remote_options(config_options(function))


@make(
    "drop",
    effect="changes",
    examples="""
        bridge dlq drop --cause 3f1c09a2b7de --reason "test data of last week"
        bridge dlq drop orders --since 2h --reason "wrong sender" --dry-run
        bridge dlq drop --id orders.dlq/0@12 --reason "answered by phone" --yes
    """,
    exits=_EXITS,
)
@click.option("--reason", required=True, metavar="TEXT", help="Reason, for the state and the audit line.")
@_job_options
def drop(**given: Any) -> int:
    """Drop open dead letters, as durable jobs.

    A dropped dead letter is not open any more. It stays in its topic until the retention ends, and `bridge dlq restore`
    opens it again. On Service Bus the daemon completes it after `ops.dead_letters.restore` (7 days).
    """
    if not given["reason"].strip():
        raise click.BadParameter("is empty", click.get_current_context(), param_hint="--reason")
    return _submit("drop", ("open",), given)


@make(
    "restore",
    effect="changes",
    examples="""
        bridge dlq restore --cause 3f1c09a2b7de
        bridge dlq restore --id orders.dlq/0@12 --yes
        bridge dlq restore orders --state replayed --reason "the database was restored"
    """,
    exits=_EXITS,
)
@click.option(
    "--state",
    "states",
    type=click.Choice(("dropped", "replayed", "returned", "replaying")),
    multiple=True,
    default=("dropped",),
    show_default=True,
    help="Only dead letters in this state; repeatable.",
)
@reason_option
@_job_options
def restore(states: tuple[str, ...], **given: Any) -> int:
    """Open dropped dead letters again, or with --state those in another state, as durable jobs.

    A dead letter that an unfinished job replays is skipped. On Service Bus, replayed dead letters and those that were
    dropped more than `ops.dead_letters.restore` (7 days) ago are completed, and cannot be restored.
    """
    return _submit("restore", states, given)


_DONE = {"drop": "drops", "restore": "restores"}


def _submit(
    action: Literal["drop", "restore"],
    states: tuple[str, ...],
    given: dict[str, Any],
) -> int:
    """Select dead letters, and submit the jobs. states: of the selected ones."""
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.dead_letters.batches import DeadLetterBatch, select
    from bridge.core.errors import InstanceNotFound

    ids = tuple(read_ids(given["ids"], given["separated"])) if given["ids"] else ()
    require_filter(given, ids, given["all_"])
    selection = selection_of({**given, "states": states}, ids)
    engines: Iterable[str]
    ends: Mapping[str, int] | None = None
    loaded = None if given["remote"] is not None else load_config(given["config"], given["overlay"])
    with (
        nullcontext() if loaded is None or given["dry_run"] else refused(loaded, f"dlq.{action}", "*", given["reason"])
    ):
        if loaded is None:
            count = remote_count(given["remote"], {**given, "states": states}, ids, given["limit"])
            engines = engine_names(given)
        else:
            found = asyncio.run(select(loaded, selection, DeadLetterBatch, given["limit"]))
            count, engines, ends = found.count, found.engines, found.ends
        if not count and not (given["dry_run"] and given["as_json"]):
            which = " or ".join(states)
            raise InstanceNotFound(f"no dead letter that is {which} is selected. Next: bridge dlq groups --state all")
    what = plural(count, "dead letter")
    if given["dry_run"] and given["as_json"]:
        print_json({"count": count})
        return 0 if count else 1
    if given["dry_run"]:
        say(f"would {action} {what}")
        return 0
    if not given["yes"] and not click.confirm(f"{action.capitalize()} {what}?", err=True):
        return 1
    parameters = {
        "states": states,
        "all": given["all_"],
        "limit": given["limit"],
        "ends": ends,
        "rate": given["rate"],
        "reason": given["reason"],
    }
    return submit_jobs(given, f"dlq.{action}", engines, selection, parameters, _DONE[action], given["as_json"])
