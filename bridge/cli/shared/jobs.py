"""Shared parts of commands that submit, show and watch jobs."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.connection import engine_names, operate
from bridge.cli.shared.output import clean, print_json, say
from bridge.cli.shared.parameters import RAMP, RATE, SINCE, STATUS, TAG
from bridge.core.errors import EngineOutage, InstanceNotFound
from bridge.core.states import JobState
from bridge.core.words import plural

F = TypeVar("F", bound=Callable[..., Any])
JobDocument = Mapping[str, Any]
"""Job as of `bridge.jobs.view.document`."""

WATCH_EXITS = {
    0: "the job is done, and no item failed",
    1: "the job is stopped or aborted, or items failed",
}
BULK_EXITS = {
    0: "done; with a filter: the job is submitted, or with --watch it is done and no item failed",
    1: "an instance does not exist, or its state does not allow the operation; with a filter: no instance matches, the "
    "question was declined, or with --watch the job did not end well",
}

_ENDED = (JobState.DONE, JobState.ABORTED)
_WORDS = ("succeeded", "duplicate", "failed", "skipped", "early", "quarantined")


# Options


def job_options(function: F) -> F:
    """Add the options of a new job: `rate`, `ramp`, `stop_after_failures`, `yes`, `watch`."""
    for option in (
        click.option("--watch", is_flag=True, help="Show the progress of the job until its end."),
        click.option("--yes", is_flag=True, help="Do not ask for confirmation, and allow more than 100,000 reads."),
        click.option(
            "--stop-after-failures",
            type=click.IntRange(min=0),
            metavar="N",
            help="Stop the job at the Nth failed item; 0: never.  [default: 1 with --ramp, else never]",
        ),
        click.option(
            "--ramp",
            type=RAMP,
            default=(),
            metavar="N,N,...",
            help="Sizes of the first steps, like 1,10,100. A step begins when the items of the one before have ended.",
        ),
        click.option("--rate", type=RATE, metavar="N/s", help="Most items per second.  [default: no limit]"),
    ):
        function = option(function)
    return function


def form_option(function: F) -> F:
    """Add the option `form`, for commands without another form of output."""
    return click.option(
        "-o",
        "form",
        type=click.Choice(["table", "json", "ids"]),
        default="table",
        show_default=True,
        help="Form of the output about a job.",
    )(function)


def filter_options(function: F) -> F:
    """Add the options of a bulk action on instances, for `bulk`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show the number of selected instances, and change nothing."),
        click.option("--all", "all_", is_flag=True, help="All instances that the action works on."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N instances."),
        click.option(
            "--where",
            metavar="CEL",
            help="Only instances for which this is true: id, name, status, created, updated, tags, custom_status, "
            "input, output.",
        ),
        click.option("--tag", "tags", type=TAG, multiple=True, metavar="K=V", help="Only with this tag; repeatable."),
        click.option(
            "--until", "--older", "until", type=SINCE, metavar="TIME", help="Only created before: RFC 3339, or 2h ago."
        ),
        click.option(
            "--since", "--newer", "since", type=SINCE, metavar="TIME", help="Only created since: RFC 3339, or 2h ago."
        ),
        click.option("--prefix", metavar="TEXT", help="Only instances with this prefix of the id."),
        click.option(
            "--status", "statuses", type=STATUS, multiple=True, metavar="STATUS", help="Only this status; repeatable."
        ),
        click.option("--orchestration", metavar="NAME", help="Only this orchestration, or saga of the configuration."),
    ):
        function = option(function)
    return job_options(function)


_PARTS = ("orchestration", "statuses", "prefix", "since", "until", "tags", "where")
_FILTER = (*_PARTS, "limit")
_JOB = ("rate", "ramp", "stop_after_failures")
_OTHER = ("all_", "dry_run", "yes", "watch")


def is_bulk(ids: Sequence[str], given: Mapping[str, Any]) -> bool:
    """True for a filter instead of ids. Raises: UsageError for both, or for neither.

    given: values of `filter_options` and of others.
    """
    filtered = any(given[name] for name in (*_PARTS, "all_"))
    other = any(given[name] for name in (*_JOB, "limit", "dry_run", "watch"))
    context = click.get_current_context()
    if ids and (filtered or other):
        raise click.UsageError("name instances, or use a filter: not both", context)
    if not ids and not filtered:
        raise click.UsageError(
            "name instances, or use a filter: --orchestration, --status, --prefix, --since, --until, --tag, --where; "
            "--all selects all instances",
            context,
        )
    return filtered


def split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of `filter_options` and `form_option`, and the others, which are those of `engine_options`."""
    own = {name: given.pop(name) for name in (*_FILTER, *_JOB, *_OTHER)}
    return own | {"form": given.pop("form", "table")}, given


# Submission


def bulk(
    engine: dict[str, Any], action: str, given: Mapping[str, Any], reason: str | None, more: Mapping[str, Any]
) -> int:
    """Submit a job on the selected instances, or count them; return the exit code.

    given: values of `filter_options`. more: further parameters of the operation.
    """
    selection = {name: given[name] for name in _FILTER if given[name]}
    if "tags" in selection:
        selection["tags"] = dict(given["tags"])
    selection |= {"all": given["all_"], "yes": given["yes"]}
    if given["dry_run"] or not given["yes"]:
        context = click.get_current_context()
        if not given["dry_run"] and not sys.stdin.isatty():
            raise click.UsageError("no terminal to confirm on: use --yes, or --dry-run to see the number", context)
        [found] = operate(engine, ("instances.match", {"action": action, **selection}))
        if given["dry_run"]:
            return _matched(action, found, given["form"])
        if not found["count"]:
            say("error: no instance matches the filter", err=True)
            return exit_codes.FAILED
        what = plural(found["count"], "instance")
        if not click.confirm(f"{action.capitalize()}: {what}. Submit the job?", err=True):
            return exit_codes.FAILED
        selection["yes"] = True  # the reads were affordable a moment ago
    parameters = {**selection, **{name: given[name] for name in _JOB}, "reason": reason, "job": secrets.token_hex(4)}
    [result] = operate(engine, (f"instances.{action}_by", {**parameters, **more}))
    return submitted(engine, [result | {"engine": engine["engine"]}], "instance", given["form"], watch=given["watch"])


def _matched(action: str, found: JobDocument, output: str) -> int:
    if output == "json":
        print_json(found)
    else:
        reads = f"; {found['reads']:,} instances were read, because the engine cannot answer the filter"
        say(f"{action} would work on {plural(found['count'], 'instance')}{reads if found['reads'] else ''}")
    return exit_codes.OK


def submitted(options: dict[str, Any], results: Sequence[JobDocument], noun: str, output: str, *, watch: bool) -> int:
    """Print submitted jobs; return the exit code.

    results: `job`, `count` and `engine` of each. noun: of an item.
    watch: show their progress until their end.
    """
    if output == "json":
        print_json(results)
    elif output == "ids":
        for result in results:
            say(result["job"])
    else:
        for result in results:
            say(f"job {result['job']}: {plural(result['count'], noun)}. Next: bridge jobs watch {result['job']}")
    codes = [watched(options | {"engine": each["engine"]}, each["job"]) for each in results] if watch else []
    return max(codes, default=exit_codes.OK)


# Looks


def engines(options: dict[str, Any]) -> list[str]:
    """Names of the engines whose jobs are meant: the chosen one, or all. options: values of `engine_options`."""
    return engine_names(options) if options["engine"] is None else [options["engine"]]


def on_its_engine(options: dict[str, Any], job: str) -> dict[str, Any]:
    """Options with the engine that has the job; unchanged when no engine has it."""
    names = engines(options)
    if len(names) == 1:
        return options
    for name in names:
        found = options | {"engine": name}
        try:
            operate(found, ("jobs.show", {"job": job}))
        except InstanceNotFound:
            continue
        return found
    return options | {"engine": names[0]}


def word(kind: str, result: str) -> str:
    """Word for a result or count of a kind of jobs."""
    return "dead again" if (kind, result) == ("replay", "failed") else result.replace("_", " ")


def counts_text(document: JobDocument) -> str:
    """Counts of a job that are not zero, in words."""
    counts = document["counts"]
    shown = [f"{word(document['kind'], name)} {counts[name]:,}" for name in _WORDS if counts[name]]
    return ", ".join(shown) or "no results yet"


def progress_text(document: JobDocument) -> str:
    """Progress of a job in one line."""
    from bridge.ops.status import age

    counts, selected = document["counts"], document["selected"]
    ended = selected - counts["in_progress"] - counts["left"]
    state = "following the waiting items" if document["follows"] else document["state"]
    parts = [f"{document['job']} {document['kind']} {state}"]
    if document["state"] != JobState.SELECTING:
        percent = f" ({100 * ended // selected} %)" if selected else ""
        parts.append(f"{ended:,} of {selected:,}{percent}: {counts_text(document)}")
    if document["per_second"]:
        parts.append(f"{document['per_second']:,.1f}/s")
    if document["eta_seconds"] is not None:
        parts.append(f"{age(document['eta_seconds'])} left")
    if document["why"]:
        parts.append(document["why"])
    return clean("  ".join(parts))


def watched(options: dict[str, Any], job: str, interval: float = 1.0) -> int:
    """Show the progress of a job until it ends or stops; return the exit code. Ctrl-C leaves the job running."""
    shown, away = "", False
    screen = _Line()
    try:
        while True:
            try:
                [document] = operate(options, ("jobs.show", {"job": job}))
                away = False
            except EngineOutage as error:
                if not away:
                    screen.end()
                    say(f"{error}; still watching", err=True)
                away = True
                time.sleep(interval)
                continue
            text = progress_text(document)
            if text != shown:
                screen.show(text)
                shown = text
            if document["state"] in (*_ENDED, JobState.STOPPED):
                break
            time.sleep(interval)
    finally:
        screen.end()
    if document["next"]:
        say(f"Next: {document['next']}", err=True)
    good = document["state"] == JobState.DONE and not document["counts"]["failed"]
    return exit_codes.OK if good else exit_codes.FAILED


class _Line:
    """Line that is written over on a terminal; elsewhere each text has a line of its own."""

    def __init__(self) -> None:
        from bridge.cli.shared.screen import Screen

        self._moves = Screen().can_move
        self._open = False

    def show(self, text: str) -> None:
        import shutil

        if not self._moves:
            click.echo(text)
            return
        width = shutil.get_terminal_size().columns
        click.echo(f"\r{text[: width - 1]}\x1b[K", nl=False)
        self._open = True

    def end(self) -> None:
        if self._open:
            click.echo()
            self._open = False
