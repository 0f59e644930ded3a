"""`bridge jobs`: bulk actions that run on an engine."""

from __future__ import annotations

from typing import Any

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_options, operate
from bridge.cli.shared.jobs import WATCH_EXITS, counts_text, engines, on_its_engine, progress_text, watched, word
from bridge.cli.shared.options import output_option, reason_option
from bridge.cli.shared.output import compact, local_time, print_fields, print_json, print_table, say
from bridge.cli.shared.parameters import PAUSE
from bridge.core.words import plural

_STATUSES = ("succeeded", "duplicate", "failed", "skipped", "early", "quarantined", "in_progress", "left")
_STATES = ("selecting", "running", "paused", "stopped", "aborted", "done")


@click.group(
    "jobs",
    cls=BridgeGroup,
    members={
        "list": "List jobs, the newest first.",
        "show": "Show one job, and results of its items.",
        "watch": "Show the progress of a job until its end.",
        "pause": "Pause a job.",
        "resume": "Continue a paused or stopped job.",
        "abort": "End a job. Items that have not begun stay unchanged.",
    },
    examples="""
        bridge jobs list
        bridge jobs watch 3f9ac012
        bridge jobs show 3f9ac012 --failed
        bridge jobs pause 3f9ac012 --reason "the shop is down"
    """,
)
def command() -> None:
    """Show and control jobs: actions on many instances or messages, which run on the engine.

    A job survives the command, the daemon and the broker. Each of its items has a result.
    An embedded engine runs in the daemon: `bridge serve` must be running.
    """


@make(
    "list",
    effect="reads",
    examples="""
        bridge jobs list
        bridge jobs list --state running --state stopped
        bridge jobs list -o json | jq '.[] | select(.state == "stopped")'
    """,
    exits=EXITS | {1: "the engine refused"},
)
@click.option(
    "--state", "states", type=click.Choice(_STATES), multiple=True, help="Only jobs with this state; repeatable."
)
@output_option(ids=True, older=False)
@engine_options
def list_(states: tuple[str, ...], output: str, **engine: Any) -> None:
    """List the jobs of all engines, the newest first. Engines keep ended jobs for `ops.jobs.keep` (30 days)."""
    from datetime import UTC, datetime

    from bridge.ops.status import age

    def since(time: str) -> str:
        return age(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()))

    found = []
    for name in engines(engine):
        [documents] = operate(engine | {"engine": name}, ("jobs.list", {}))
        found += [document | {"engine": name} for document in documents]
    shown = [each for each in found if not states or each["state"] in states]
    shown.sort(key=lambda each: each["created"], reverse=True)
    if output == "json":
        print_json(shown)
    elif output == "ids":
        for each in shown:
            say(each["job"])
    elif not shown:
        click.echo("no jobs", err=True)
    else:
        print_table(
            ("JOB", "KIND", "STATE", "SELECTED", "LEFT", "RESULTS", "AGE", "BY", "SELECTION"),
            [
                (
                    each["job"],
                    each["kind"],
                    each["state"],
                    f"{each['selected']:,}",
                    f"{each['counts']['left'] + each['counts']['in_progress']:,}",
                    counts_text(each),
                    since(each["created"]),
                    each["by"],
                    each["selection"],
                )
                for each in shown
            ],
        )
        for each in shown:
            if each["state"] == "stopped":
                say(f"{each['job']} is stopped: {each['why']}. Next: {each['next']}", err=True)


@make(
    "show",
    effect="reads",
    examples="""
        bridge jobs show 3f9ac012
        bridge jobs show 3f9ac012 --failed
        bridge jobs show 3f9ac012 --status left --limit 1000 -o ids | bridge instances show -
    """,
    exits=EXITS | {1: "there is no such job"},
)
@click.argument("job", metavar="JOB")
@click.option("--failed", is_flag=True, help="List the failed items, with their cause.")
@click.option(
    "--status", "statuses", type=click.Choice(_STATUSES), multiple=True, help="List items with this status; repeatable."
)
@click.option("--items", is_flag=True, help="List items of every status.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="Maximum number of items to list.",
)
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Number of items to skip.")
@output_option(ids=True, older=False)
@engine_options
def show(
    job: str,
    failed: bool,
    statuses: tuple[str, ...],
    items: bool,
    limit: int,
    offset: int,
    output: str,
    **engine: Any,
) -> None:
    """Show a job: its selection, its counts, and on request the results of its items.

    The counts add up: selected = succeeded + duplicate + failed + skipped + early + quarantined + in progress + left.
    With -o ids the ids of the listed items are printed.
    """
    found = on_its_engine(engine, job)
    wanted = (*statuses, *(("failed",) if failed and "failed" not in statuses else ()))
    [document] = operate(found, ("jobs.show", {"job": job}))
    listed: list[dict[str, Any]] | None = None
    if wanted or items or output == "ids":
        given = {"job": job, "statuses": wanted, "limit": limit, "offset": offset}
        [listed] = operate(found, ("jobs.items", given))
    if output == "json":
        print_json(document if listed is None else document | {"items": listed})
        return
    if output == "ids":
        for item in listed or ():
            say(item["id"])
        return
    _print(document)
    if listed is None:
        return
    click.echo()
    if not listed:
        click.echo("no such items", err=True)
        return
    rows = [(item["id"], word(document["kind"], item["status"]), item["detail"]) for item in listed]
    print_table(("ITEM", "RESULT", "DETAIL"), rows)
    total = sum(document["counts"][status] for status in wanted) if wanted else document["selected"]
    if offset + len(listed) < total:
        shown = f"items {offset + 1:,} to {offset + len(listed):,} of {total:,}"
        click.echo(f"{shown}; --offset shows the next ones", err=True)


def _print(document: dict[str, Any]) -> None:
    counts, control = document["counts"], document["control"]
    fields = [
        ("job", document["job"]),
        ("kind", document["kind"]),
        ("state", f"{document['state']}{': ' + document['why'] if document['why'] else ''}"),
        ("selection", document["selection"]),
        ("arguments", ", ".join(f"{name}: {_argument(value)}" for name, value in document["arguments"].items())),
        ("by", document["by"]),
        ("reason", document["reason"]),
        ("created", local_time(document["created"])),
        ("ended", local_time(document["ended"])),
        ("rate", "" if document["rate"] is None else f"{document['rate']:g}/s"),
        ("ramp", ", ".join(map(str, document["ramp"]))),
        ("stops after", "" if document["stop_after_failures"] is None else f"{document['stop_after_failures']} failed"),
        ("last change", "" if control is None else _control(control)),
        ("selected", f"{document['selected']:,}"),
        *((f"  {word(document['kind'], name)}", f"{counts[name]:,}" if counts[name] else "") for name in _STATUSES),
        ("progress", progress_text(document) if document["ended"] is None else ""),
        ("next", document["next"] or ""),
    ]
    print_fields(fields)


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def _control(control: dict[str, Any]) -> str:
    reason = f" ({control['reason']})" if control["reason"] else ""
    return f"{control['action']} by {control['by']}{reason} at {control['at']}"


@make(
    "watch",
    effect="reads",
    examples="""
        bridge jobs watch 3f9ac012
    """,
    exits=EXITS | WATCH_EXITS,
)
@click.argument("job", metavar="JOB")
@click.option(
    "--interval", type=PAUSE, default="1s", show_default=True, metavar="TIME", help="Time between two queries."
)
@engine_options
def watch(job: str, interval: float, **engine: Any) -> int:
    """Show the progress of a job until it ends or stops.

    Ctrl-C ends the command; the job continues. While the engine does not answer, the command waits.
    """
    return watched(on_its_engine(engine, job), job, interval)


def _controlled(action: str, jobs: tuple[str, ...], reason: str | None, engine: dict[str, Any]) -> None:
    for job in jobs:
        [document] = operate(on_its_engine(engine, job), (f"jobs.{action}", {"job": job, "reason": reason}))
        left = document["counts"]["left"]
        say(f"job {job} is {document['state']}: {plural(left, 'item')} left, {counts_text(document)}")


_jobs = click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
_REFUSED = EXITS | {1: "there is no such job, or its state does not allow it"}


@make("pause", effect="changes", examples='bridge jobs pause 3f9ac012 --reason "the shop is down"', exits=_REFUSED)
@_jobs
@reason_option
@engine_options
def pause(jobs: tuple[str, ...], reason: str | None, **engine: Any) -> None:
    """Pause running jobs. Items in progress finish."""
    _controlled("pause", jobs, reason, engine)


@make("resume", effect="changes", examples="bridge jobs resume 3f9ac012", exits=_REFUSED)
@_jobs
@reason_option
@engine_options
def resume(jobs: tuple[str, ...], reason: str | None, **engine: Any) -> None:
    """Continue paused or stopped jobs. The count of failures for --stop-after-failures begins again."""
    _controlled("resume", jobs, reason, engine)


@make("abort", effect="changes", examples='bridge jobs abort 3f9ac012 --reason "wrong filter"', exits=_REFUSED)
@_jobs
@reason_option
@engine_options
def abort(jobs: tuple[str, ...], reason: str | None, **engine: Any) -> None:
    """End jobs for good. Items in progress finish; the others stay unchanged."""
    _controlled("abort", jobs, reason, engine)


for each in (list_, show, watch, pause, resume, abort):
    command.add_command(each)
