"""`bridge sources lag` and `seek`: positions of sources in their topics."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import EXITS, engine_of_source, operate, source_names
from bridge.cli.shared.options import config_options, output_option, reason_option
from bridge.cli.shared.output import local_time, print_json, say
from bridge.cli.shared.parameters import DURATION, PAUSE
from bridge.cli.shared.remote import remote_options
from bridge.cli.shared.screen import Screen, Table, age
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.config.source import Loaded

_POLL_SECONDS = 0.5
_SHOWN = 5
"""Number of partitions that a line names."""


@make(
    "lag",
    effect="reads",
    examples="""
        bridge sources lag
        bridge sources lag orders --watch
        bridge sources lag -o json | jq '.[] | select(.lag > 1000)'
    """,
    exits={
        0: "all lags are known",
        1: "a broker does not state the lag of a source, or one of several does not answer",
        3: "the configuration is not valid, or a broker does not answer",
    },
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--watch", is_flag=True, help="Show the lag again every interval, until Ctrl-C.")
@click.option(
    "--interval", type=PAUSE, default="2s", show_default=True, metavar="TIME", help="Pause between two screens."
)
@output_option()
@remote_options
@config_options
def lag(sources: tuple[str, ...], watch: bool, interval: float, output: str, **options: Any) -> int:
    """Show the lag of sources by partition: position, end, lag, oldest unprocessed message, and member.

    The command asks the broker, with or without a running daemon. It joins no group and changes nothing. On Kafka the
    lag counts offsets, which also stand for transaction markers and compacted records. Service Bus states only the
    time of its oldest message. With --url, the daemon asks its broker.
    """
    ask = _remote_lags(sources, options) if options["remote"] is not None else _own_lags(sources, options)
    screen = Screen()
    if not watch:
        lines = ask()
        if output == "json":
            print_json(lines)
        else:
            screen.show(_lag_screen(lines))
        return exit_codes.FAILED if any(line["lag"] is None for line in lines) else exit_codes.OK
    return _watch(ask, interval, screen, as_json=output == "json")


def _own_lags(sources: Sequence[str], options: dict[str, Any]) -> Callable[[], list[dict[str, Any]]]:
    """Function that asks the brokers of the configuration. Raises: LookupError for an unknown source."""
    from bridge.app.composition import load_config, require

    loaded = load_config(options["config"], options["overlay"])
    for source in sources:
        require("source", source, loaded.config.sources)
    return partial(_lags, loaded, list(dict.fromkeys(sources)) or list(loaded.config.sources))


def _remote_lags(sources: Sequence[str], options: dict[str, Any]) -> Callable[[], list[dict[str, Any]]]:
    """Function that asks a daemon."""
    from bridge.app.operations.sources.positions import unknown
    from bridge.core.errors import BrokerError

    given = {**options, "engine": None}
    names = list(dict.fromkeys(sources)) or source_names(given)

    def ask() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for name in names:
            try:
                [lines] = operate(given, ("sources.lag", {"source": name}))
            except BrokerError as error:
                if len(names) == 1:
                    raise
                lines = [unknown(name, None, str(error))]
            found += lines
        return found

    return ask


def _watch(ask: Callable[[], list[dict[str, Any]]], interval: float, screen: Screen, *, as_json: bool) -> int:
    from bridge.system.clock import time_of

    if not as_json:
        screen.open()
    try:
        while True:
            lines = ask()
            if as_json:
                click.echo(json.dumps(lines))
                sys.stdout.flush()
            else:
                screen.redraw([f"{local_time(time_of(time.time()))}  (Ctrl-C ends)", *_lag_screen(lines)])
            time.sleep(interval)
    except KeyboardInterrupt:
        return exit_codes.OK
    finally:
        if not as_json:
            screen.close()


def _lags(loaded: Loaded, names: Sequence[str]) -> list[dict[str, Any]]:
    from bridge.app.operations.sources.positions import lag as lag_of
    from bridge.app.operations.sources.positions import unknown
    from bridge.core.errors import BrokerError

    async def ask_one(name: str) -> list[dict[str, Any]]:
        try:
            return await lag_of(loaded, name)
        except BrokerError as error:
            if len(names) == 1:
                raise
            return [unknown(name, None, str(error))]  # the other sources may have other brokers

    async def ask() -> list[dict[str, Any]]:
        return [line for lines in await asyncio.gather(*map(ask_one, names)) for line in lines]

    return asyncio.run(ask())


def _lag_screen(lines: Sequence[Mapping[str, Any]]) -> list[str | Table]:
    several = len({line["source"] for line in lines}) > 1
    columns = ("PARTITION", "POSITION", "END", "LAG", "AGE", "OLDEST", "MEMBER", "DETAIL")
    rows = [
        (
            *((line["source"],) if several else ()),
            _name(line),
            _number(line["committed"]),
            _number(line["end"]),
            _number(line["lag"]),
            "-" if line["oldest"] is None else age(line["oldest_seconds"]),
            local_time(line["oldest"]) or "-",
            line["member"] or "-",
            line["note"],
        )
        for line in lines
    ]
    if not rows:
        return ["no partition: the topics of the source do not exist yet"]
    return [Table((*(("SOURCE",) if several else ()), *columns), rows)]


def _name(line: Mapping[str, Any]) -> str:
    return line["topic"] or "-" if line["partition"] is None else f"{line['topic']}/{line['partition']}"


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


@make(
    "seek",
    effect="changes",
    examples="""
        bridge sources seek orders --to 2h-ago --dry-run
        bridge sources seek orders --to 2h-ago --reason "the rule of yesterday was wrong"
        bridge sources seek orders --to 42 --topic orders --partition 3 --yes
        bridge sources seek orders --cancel
    """,
    exits=EXITS
    | {
        0: "the positions are moved; with --dry-run: the plan is shown",
        1: "the seek is stored, but a partition was not moved within --wait; or you declined",
    },
)
@click.argument("source", metavar="NAME")
@click.option(
    "--to", metavar="TARGET", help="beginning, end, an offset like 42, a time like 2030-01-31T08:00:00Z, or 2h-ago."
)
@click.option("--topic", metavar="T", help="Only this topic of the source.  [default: all]")
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="Only this partition.  [default: all]")
@click.option("--dry-run", is_flag=True, help="Show the effect and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--wait", type=DURATION, default="1m", show_default=True, metavar="TIME", help="Time to wait for the daemons."
)
@click.option("--cancel", is_flag=True, help="Cancel moves that no daemon has applied yet.")
@reason_option
@output_option()
@remote_options
@config_options
def seek(
    source: str,
    to: str | None,
    topic: str | None,
    partition: int | None,
    dry_run: bool,
    yes: bool,
    wait: float,
    cancel: bool,
    reason: str | None,
    output: str,
    **options: Any,
) -> int:
    """Move the position of a source, to read messages again or to skip them. Kafka and local brokers.

    Each daemon moves the partitions that it has: it finishes the messages in flight, stores the new position, and reads
    on from there. The source need not be paused. The engine of the source stores the request: a daemon that is frozen,
    or killed, moves its partitions later, and each partition is moved once. Without a running daemon the command moves
    the positions itself.

    Messages that are read again are duplicates while their instances exist. Those whose instances the engine has
    removed would start again: the dry run counts them.
    """
    context = click.get_current_context()
    if cancel == (to is not None):
        raise click.UsageError("use either --to or --cancel", context)
    if cancel:
        return _cancel(source, reason, options)
    assert to is not None
    _check_target(to, context)
    plan = _planned(source, {"to": to, "topic": topic, "partition": partition}, reason, options, dry_run=dry_run)
    if output == "json" and dry_run:
        print_json(plan)
    if output != "json":
        Screen().show(_plan_screen(plan, direct=options["remote"] is None))
    if dry_run:
        return exit_codes.OK
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "standard input is not a terminal; look at --dry-run, then confirm with --yes", context
            )
        if not click.confirm(f"Move {plural(len(plan['partitions']), 'partition')} of {source}?", err=True):
            return exit_codes.FAILED
    positions = {_name(line): line["to"] for line in plan["partitions"]}
    moved, left = _apply(source, positions, reason, wait, options, active=plan["active"])
    if output == "json":
        print_json({**plan, "moved": moved, "waiting": left})
    elif moved:
        say(f"{source}: {plural(len(moved), 'partition')} moved")
    if left:
        say(
            f"{source}: the seek is stored, but no daemon has moved {_listed(left)} within {age(wait)}. Each moves as "
            f"soon as a daemon that has it continues. Next: bridge sources lag {source}; "
            f"bridge sources seek {source} --cancel takes the rest back",
            err=True,
        )
    return exit_codes.FAILED if left else exit_codes.OK


def _check_target(to: str, context: click.Context) -> None:
    from bridge.app.operations.sources.positions import parse_target

    try:
        parse_target(to, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint="--to") from None


def _cancel(source: str, reason: str | None, options: dict[str, Any]) -> int:
    engine = engine_of_source(options, "sources.seek.cancel", source, reason)
    given = {"source": source, "reason": reason}
    [result] = operate({**options, "engine": engine}, ("sources.seek.cancel", given))
    found = result["cancelled"]
    say(f"{source}: {_listed(found)} will not be moved" if found else f"{source}: no move waits for a daemon")
    return exit_codes.OK


def _planned(
    source: str, target: Mapping[str, Any], reason: str | None, options: dict[str, Any], *, dry_run: bool
) -> dict[str, Any]:
    """Plan of a seek. target: parameters of `sources.seek.plan`."""
    if options["remote"] is not None:
        [plan] = operate({**options, "engine": None}, ("sources.seek.plan", {"source": source, **target}))
        found: dict[str, Any] = plan
        return found
    from bridge.app.audit import refused
    from bridge.app.composition import load_config
    from bridge.app.operations.sources.positions import plan as plan_of

    loaded = load_config(options["config"], options["overlay"])
    with nullcontext() if dry_run else refused(loaded, "sources.seek", source, reason):
        return asyncio.run(plan_of(loaded, source, target["to"], target["topic"], target["partition"]))


def _apply(
    source: str,
    positions: Mapping[str, int],
    reason: str | None,
    wait: float,
    options: dict[str, Any],
    *,
    active: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Move the positions; return the moves, and the partitions that wait for a daemon."""
    if not active and options["remote"] is None:
        from bridge.app.composition import load_config
        from bridge.app.operations.sources.positions import seek_directly
        from bridge.brokers.positions import GroupActive

        loaded = load_config(options["config"], options["overlay"])
        try:
            asyncio.run(seek_directly(loaded, source, positions, reason))
        except GroupActive:
            pass  # a daemon has started meanwhile
        else:
            return {name: {"to": to} for name, to in positions.items()}, []
    engine = {**options, "engine": engine_of_source(options, "sources.seek", source, reason)}
    [given] = operate(engine, ("sources.seek", {"source": source, "positions": positions, "reason": reason}))
    stamps = {each["stamp"] for each in given.values()}
    end = time.monotonic() + wait
    while True:
        [state] = operate(engine, ("sources.seek.show", {"source": source}))
        mine = {name: each for name, each in state.items() if each["stamp"] in stamps}
        moved = {name: {"to": each["to"], **each["moved"]} for name, each in mine.items() if "moved" in each}
        left = sorted(name for name, each in mine.items() if "moved" not in each)
        if not left or time.monotonic() > end:
            return moved, left
        time.sleep(_POLL_SECONDS)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _plan_screen(plan: Mapping[str, Any], *, direct: bool) -> list[str | Table]:
    lines = plan["partitions"]
    rows = [
        (
            _name(line),
            f"{line['from']:,}",
            f"{line['to']:,}",
            _count(line, "again"),
            _count(line, "skipped"),
            _count(line, "older"),
            line["member"] or "-",
            line["note"],
        )
        for line in lines
    ]
    columns = ("PARTITION", "FROM", "TO", "READ AGAIN", "SKIPPED", "OLDER", "MEMBER", "DETAIL")
    return [Table(columns, rows), "", *_sums(plan, direct=direct)]


def _count(line: Mapping[str, Any], name: str) -> str:
    return f"{line[name]:,}" if line["exact"] else f"at most {line[name]:,}"


def _sums(plan: Mapping[str, Any], *, direct: bool) -> list[str]:
    about = "" if all(line["exact"] for line in plan["partitions"]) else "at most "
    found = []
    if plan["skipped"]:
        found.append(f"{about}{plural(plan['skipped'], 'message')} would be skipped: no rule would see them")
    if plan["again"]:
        found.append(f"{about}{plural(plan['again'], 'message')} would be read again")
        found += [_retention(plan, engine, about) for engine in plan["retention"]]
    if not found:
        found.append("the positions would not change")
    if plan["active"]:
        found.append("daemons have the partitions: each moves its own within seconds, in-flight messages are finished")
    elif direct:
        found.append("no daemon has the partitions: the command moves the positions itself")
    else:
        found.append("no daemon has the partitions: the first one that gets them moves the positions")
    return found


def _retention(plan: Mapping[str, Any], engine: Mapping[str, Any], about: str) -> str:
    rules, seconds = ", ".join(engine["routes"]), engine["seconds"]
    name = f"engine {engine['engine']}"
    if seconds is None:
        text = f"{name} keeps finished instances without a configured limit: repeats of {rules} are duplicates"
    elif not plan["older"]:
        text = f"none is older than {age(seconds)}, the retention of {name}: repeats of {rules} are duplicates"
    else:
        # The number counts from the shortest retention
        shortest = min(each["seconds"] for each in plan["retention"] if each["seconds"] is not None)
        text = (
            f"{about if seconds == shortest else 'at most '}{plan['older']:,} of them are older than {age(seconds)}, "
            f"the retention of {name}: {rules} would start those again whose instances are removed"
        )
    if engine["limit"] is not None:
        text += f"; the engine keeps at most {engine['limit']:,} finished instances, and removes older ones earlier"
    return text
