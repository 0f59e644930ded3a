"""Options and output that the commands on dead letters share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bridge.cli.shared.connection import operate, table_of
from bridge.cli.shared.output import ProgressCount, print_json, print_table, say
from bridge.cli.shared.parameters import SINCE
from bridge.cli.shared.several import LONGEST_PART, in_requests
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.dead_letters.reading import DeadLetterSelection
    from bridge.app.remote import DaemonAddress
    from bridge.config.source import Loaded

F = TypeVar("F", bound=Callable[..., Any])

_PACE = ("rate", "ramp", "stop_after_failures")

STATES = ("open", "replaying", "replayed", "dropped", "returned", "all")


def selection_options(function: F) -> F:
    """Add the options of a filter, and the states of dead letters, for `selection_of`."""
    return filter_options(
        click.option(
            "--state",
            "states",
            type=click.Choice(STATES),
            multiple=True,
            default=("open",),
            show_default=True,
            help="Only dead letters in this state; repeatable.",
        )(function)
    )


def filter_options(function: F) -> F:
    """Add the options of a filter, for `selection_of`."""
    for option in (
        click.option(
            "--until",
            type=SINCE,
            metavar="TIME",
            help="Only dead letters written before this time: RFC 3339, or 2h for two hours ago.",
        ),
        click.option(
            "--since",
            type=SINCE,
            metavar="TIME",
            help="Only dead letters written since this time: RFC 3339, or 2h for two hours ago.",
        ),
        click.option("--key", "keys", multiple=True, metavar="KEY", help="Only messages with this key; repeatable."),
        click.option(
            "--cause", "causes", multiple=True, metavar="REASON|GROUP", help="Only this reason or group; repeatable."
        ),
        click.option("--route", "routes", multiple=True, metavar="NAME", help="Only this route; repeatable."),
        click.argument("sources", nargs=-1, metavar="[SOURCE]..."),
    ):
        function = option(function)
    return function


def selection_of(chosen: dict[str, Any], ids: tuple[str, ...] = ()) -> DeadLetterSelection:
    """Selection of the options. ids: of dead letters or messages."""
    from bridge.app.dead_letters.reading import DeadLetterSelection
    from bridge.dead_letters.state_machine import DeadLetterState

    states = chosen.get("states", ("all",))
    return DeadLetterSelection(
        tuple(chosen.get("sources", ())),
        tuple(chosen.get("routes", ())),
        tuple(chosen.get("causes", ())),
        ids,
        tuple(chosen.get("keys", ())),
        _seconds(chosen.get("since")),
        _seconds(chosen.get("until")),
        frozenset() if "all" in states else frozenset(map(DeadLetterState, states)),
    )


def require_filter(chosen: dict[str, Any], ids: tuple[str, ...], all_: bool) -> None:
    """Check that a job has a filter, or that a person means all dead letters. Raises: UsageError."""
    from bridge.app.dead_letters.reading import DeadLetterSelection

    if selection_of({**chosen, "states": ("all",)}, ids) == DeadLetterSelection() and not all_:
        raise click.UsageError(
            "no filter is given; name sources, --cause, --route, --key, --id, --since or --until, or use --all",
            click.get_current_context(),
        )


def parameters_of(chosen: dict[str, Any]) -> dict[str, Any]:
    """Parameters of an operation on the dead letters that the options select."""
    names = ("sources", "routes", "causes", "keys", "since", "until")
    states = () if "all" in chosen["states"] else chosen["states"]
    return {name: chosen[name] for name in names} | {"states": states}


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


TABLE_WITH_READS = 6
"""First table of operations that counts, exports and tries edits of dead letters."""


def remote_count(
    remote: DaemonAddress, chosen: dict[str, Any], ids: tuple[str, ...], limit: int | None, *, replays: bool = False
) -> int:
    """Number of dead letters that the options select on a remote daemon. replays: only those that can be replayed."""
    from bridge.app.operations.operation import MOST_IDS_OF_QUERY

    options: dict[str, Any] = {"remote": remote, "engine": None}
    if table_of(options) >= TABLE_WITH_READS:
        count = foreign = 0
        for part in in_requests(ids, MOST_IDS_OF_QUERY):
            left = None if limit is None else limit - count
            if left == 0:
                break
            given = {**parameters_of(chosen), "ids": part, "limit": left, "replays": replays}
            [matched] = operate(options, ("dlq.match", given))
            count += matched["count"]
            foreign += matched["foreign"]
        if foreign:
            what = plural(foreign, "dead letter")
            say(f"{what} of sources that are not configured there are left out", err=True)
        return count
    if ids:
        count = len(ids)
    else:
        [found] = operate(options, ("dlq.groups", parameters_of(chosen)))
        count = sum(each["count"] for each in found["groups"])
    return count if limit is None else min(count, limit)


MOST_CHECKED = 10_000
"""Most dead letters that a daemon checks at once."""


def remote_check(
    remote: DaemonAddress, chosen: dict[str, Any], ids: tuple[str, ...] = (), limit: int | None = None, *, replays: bool
) -> dict[str, Any]:
    """Dry run of a remote daemon; see `DryRunReport.to_dict`. Standard error tells if some were left out."""
    from bridge.app.operations.operation import MOST_IDS_OF_QUERY

    count = remote_count(remote, chosen, ids, limit, replays=replays)
    reports: list[dict[str, Any]] = []
    left = max(1, min(count, MOST_CHECKED))
    for part in in_requests(ids, MOST_IDS_OF_QUERY):
        if left > 0:
            given = {**parameters_of(chosen), "ids": part, "limit": left}
            reports += operate({"remote": remote, "engine": None}, ("dlq.check", given))
            left -= reports[-1]["total"]
    if count > MOST_CHECKED:
        say(f"the first {MOST_CHECKED:,} of {count:,} dead letters were checked", err=True)
    return _together(reports)


def own_check(
    loaded: Loaded, rules: Loaded, selection: DeadLetterSelection, *, offline: bool = False, limit: int | None = None
) -> dict[str, Any]:
    """Dry run in this process, with its progress. rules: configuration that decides; see `DryRunReport.to_dict`."""
    from bridge.app.dead_letters.check import checked

    progress = ProgressCount("dead letter", "checked")
    try:
        return asyncio.run(checked(loaded, rules, selection, offline, progress, limit)).to_dict()
    finally:
        progress.close()


def _together(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of the dry runs of several parts, with the most numerous lines first."""
    lines: dict[tuple[str, str, str | None], dict[str, Any]] = {}
    for line in (line for report in reports for line in report["lines"]):
        same = lines.setdefault((line["outcome"], line["would"], line["detail"]), {**line, "count": 0})
        same["count"] += line["count"]
    return {
        "total": sum(report["total"] for report in reports),
        "failing": sum(report["failing"] for report in reports),
        "lines": sorted(lines.values(), key=lambda line: -line["count"]),
    }


def submit_jobs(
    options: dict[str, Any],
    action: str,
    engines: Iterable[str],
    selection: DeadLetterSelection,
    given: dict[str, Any],
    verb: str,
    as_json: bool,
) -> int:
    """Submit the jobs of an operation on dead letters, one or more for each engine, and print them.

    options: values of `config_options` and `remote_options`. action: operation, like `dlq.drop`.
    given: parameters beside the selection.
    verb: of the printed line, like `drops`.
    Raises: as `bridge.cli.shared.connection.operate`.
    """
    from bridge.app.operations.operation import MOST_IDS

    parameters = {
        **given,
        "sources": selection.sources,
        "routes": selection.routes,
        "causes": selection.causes,
        "keys": selection.keys,
        "since": _time(selection.since),
        "until": _time(selection.until),
    }
    parts = in_requests(selection.ids, MOST_IDS, 10 * LONGEST_PART)
    if len(parts) > 1 and (paced := [name for name in _PACE if given.get(name)]):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in paced)
        raise click.UsageError(
            f"{len(selection.ids):,} ids become {len(parts)} jobs, and {names} would count for each job alone. Next: "
            f"name at most {MOST_IDS:,} ids at once, or select by a filter",
            click.get_current_context(),
        )
    jobs: list[dict[str, Any]] = []
    for engine in engines:
        for part in parts:
            left = None if given["limit"] is None else given["limit"] - sum(each["count"] for each in jobs)
            if left is None or left > 0:
                call = action, {**parameters, "ids": part, "limit": left}
                [submitted] = operate(options | {"engine": engine}, call)
                jobs += submitted
    if as_json:
        print_json(jobs)
        return 0
    for each in jobs:
        say(f"job {each['job']} {verb} {plural(each['count'], 'dead letter')}. Next: bridge jobs watch {each['job']}")
    return 0


def print_report(report: dict[str, Any], offline: bool) -> None:
    """Print the result of a dry run, one line for all dead letters of which the same would become.

    report: see `DryRunReport.to_dict`.
    """
    print_table(
        ("COUNT", "WOULD", "EXAMPLE", "DETAIL"),
        [(f"{each['count']:,}", each["would"], each["example"], each["detail"]) for each in report["lines"]],
    )
    asked = "; the engines were not asked" if offline else ""
    say(f"{plural(report['total'], 'dead letter')}, {report['failing']:,} would fail again{asked}", err=True)
