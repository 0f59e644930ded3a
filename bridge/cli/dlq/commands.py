"""`bridge dlq`: dead letters."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from bridge.app.dead_letters.view import facts_of
from bridge.cli.dlq.replay import edit, replay
from bridge.cli.dlq.selection import (
    TABLE_WITH_READS,
    own_check,
    parameters_of,
    print_report,
    remote_check,
    selection_of,
    selection_options,
)
from bridge.cli.dlq.states import drop, restore
from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import in_parts, lists_in_parts, operate, require_table
from bridge.cli.shared.options import PATH, config_options, json_option, output_option
from bridge.cli.shared.output import ProgressCount, clean, local_time, print_fields, print_json, print_table, say
from bridge.cli.shared.remote import remote_options
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.dead_letters.reading import DeadLetterSelection, FoundDeadLetter
    from bridge.app.remote import DaemonAddress

F = TypeVar("F", bound=Callable[..., Any])

_MISSING_KEY = re.compile(r'there is no key "(?P<key>[^"]+)".*, in `(?P<expression>[^`]+)`$', re.DOTALL)
_MOST = 10_000
"""Most dead letters that a daemon lists at once."""
_EXITS = {0: "done", 1: "there is no such dead letter"}


@click.group(
    "dlq",
    cls=BridgeGroup,
    members={
        "groups": "Group dead letters by cause.",
        "list": "List dead letters.",
        "show": "Show one dead letter.",
        "export": "Write dead letters as lines of JSON.",
        "check": "Show the outcome that dead letters would have now, and change nothing.",
        "replay": "Bring dead letters back into the running daemon.",
        "drop": "Drop dead letters; they can be restored.",
        "restore": "Open dead letters again.",
        "edit": "Correct the payload of a dead letter, and replay it.",
    },
    examples="""
        bridge dlq groups
        bridge dlq list orders --cause expression_error --since 2h
        bridge dlq show orders.dlq/0@12
        bridge dlq check --candidate fixed.yaml
        bridge dlq replay --cause 3f1c09a2b7de --ramp 1,10,100
        bridge dlq drop --cause 3f1c09a2b7de --reason "test data"
    """,
)
def command() -> None:
    """Work on the dead letters of the configured sources: of the local broker, Kafka and Service Bus.

    Reading joins no group, commits no position and only peeks at queues. The commands also read dead letters of Spring
    for Apache Kafka, Kafka Connect, Kafka Streams, share groups and Service Bus.
    """


def offline_option(function: F) -> F:
    """Add the option --offline."""
    text = "Do not ask the engine for the states of dead letters; show all of them, without states."
    return click.option("--offline", is_flag=True, help=text)(function)


@make(
    "groups",
    effect="reads",
    examples="""
        bridge dlq groups
        bridge dlq groups orders --since 24h
        bridge dlq groups --json | jq '.[0].group'
    """,
)
@selection_options
@offline_option
@json_option
@remote_options
@config_options
def groups(
    as_json: bool,
    offline: bool,
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    **chosen: Any,
) -> None:
    """Group dead letters by cause, the most numerous first.

    Dead letters of one group have the same reason, route, error and detail, apart from the values in the detail. The
    name of a group is a value for --cause.
    """
    ordered, gone = _grouped(remote, config, overlay, chosen, offline)
    for sentence in gone:
        say(sentence, err=True)
    if as_json:
        print_json(ordered)
        return
    if not ordered:
        say(_none(chosen, offline), err=True)
        return
    print_table(
        ("GROUP", "COUNT", "REASON", "ROUTE", "FIRST", "LAST", "EXAMPLE", "DETAIL"),
        [
            (
                each["group"],
                f"{each['count']:,}",
                each["reason"] if each["format"] == "bridge" else f"{each['reason']} ({each['format']})",
                ", ".join(each["routes"]) or "-",
                local_time(each["first"]),
                local_time(each["last"]),
                each["example"],
                each["detail"],
            )
            for each in ordered
        ],
    )
    total = sum(each["count"] for each in ordered)
    next_ = f"bridge dlq check --cause {ordered[0]['group']}"
    say(f"{plural(total, f'{_kind(chosen, offline)}dead letter')}. Next: {next_}", err=True)


@make(
    "list",
    effect="reads",
    examples="""
        bridge dlq list
        bridge dlq list orders --cause schema_error --limit 500
        bridge dlq list --since 1h --json
        bridge dlq list --key order-1001 -o ids | bridge dlq replay --id -
    """,
)
@selection_options
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Maximum number of dead letters; 0 for all.",
)
@offline_option
@output_option(": ids is one id per line", ids=True)
@remote_options
@config_options
def list_(
    limit: int,
    offline: bool,
    output: str,
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    **chosen: Any,
) -> None:
    """List dead letters, in the order of their topics. No payload is shown."""
    if remote is not None:
        _check_online(offline)
        given = parameters_of(chosen)
        if 0 < limit <= _MOST or not lists_in_parts({"remote": remote}):
            limit = min(limit or _MOST, _MOST)
            rows = _asked(remote, offline, "dlq.list", given | {"limit": limit})
        else:
            rows = in_parts({"remote": remote, "engine": None}, ("dlq.list", given), "dead_letters", limit or None)
    else:
        rows = [facts_of(each) for each in _read(config, overlay, selection_of(chosen), limit or None, offline)]
    if output == "json":
        print_json(rows)
        return
    if output == "ids":
        for each in rows:
            say(each["id"])
    else:
        _print_list(rows)
    if len(rows) == limit:
        more = "filters show others" if limit == _MOST and remote is not None else "--limit 0 shows all"
        say(f"the first {limit:,} are shown; {more}", err=True)


def _print_list(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("ID", "STATE", "TIME", "REASON", "ROUTE", "GROUP", "ORIGIN", "DETAIL"),
        [
            (
                each["id"],
                each["state"] or "-",
                local_time(each["time"]),
                each["reason"],
                each["route"] or "-",
                each["group"],
                each["origin"] or "-",
                each["detail"],
            )
            for each in rows
        ],
    )


@make(
    "show",
    effect="reads",
    examples="""
        bridge dlq show orders.dlq/0@12
        bridge dlq show 'billing/$DeadLetterQueue/0@17' --payload
        bridge dlq show order-1001 --json          # a message id shows all dead letters of the message
    """,
    exits=_EXITS,
)
@click.argument("id_", metavar="ID")
@click.option("--payload", is_flag=True, help="Also show headers and body, and the text of a foreign program's error.")
@offline_option
@json_option
@remote_options
@config_options
def show(
    id_: str,
    payload: bool,
    offline: bool,
    as_json: bool,
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Show the cause and the attributes of a dead letter.

    ID is its position (`TOPIC/PARTITION@OFFSET`), the position of the original message, or its message id.
    """
    if remote is not None:
        rows = _asked(remote, offline, "dlq.show", {"id": id_, "payload": payload})
    else:
        read = _read(config, overlay, selection_of({}, (id_,)), None, offline)
        rows = [facts_of(each, payload) for each in read]
    if not rows:
        say(_missing(config, overlay, id_, offline), err=True)
        return 1
    if as_json:
        print_json(rows)
        return 0
    for number, facts in enumerate(rows):
        if number:
            click.echo()
        headers, body = facts.pop("headers", {}), facts.pop("body", None)
        print_fields(
            [
                (name.replace("_", " "), local_time(_text(value)) if name in ("time", "state_since") else _text(value))
                for name, value in facts.items()
                if value not in (None, "", [])
            ]
        )
        for line in _marked(facts["detail"]):
            click.echo(clean(line))
        for name, value in headers.items():
            click.echo(f"  {clean(name)}: {clean(value)}")
        if body is not None:
            click.echo(clean(body))
    return 0


@make(
    "export",
    effect="reads",
    examples="""
        bridge dlq export orders > dead-letters.jsonl
        bridge dlq export --cause no_route --since 24h > unrouted.jsonl
    """,
)
@selection_options
@offline_option
@remote_options
@config_options
def export(
    offline: bool, remote: DaemonAddress | None, config: tuple[Path, ...], overlay: tuple[Path, ...], **chosen: Any
) -> None:
    """Write dead letters as lines of JSON, in the form of `bridge topic read --json`, with their payloads."""
    if remote is not None:
        _check_online(offline)
        _export(remote, parameters_of(chosen))
        return
    from bridge.app.composition import load_config
    from bridge.app.dead_letters.reading import visited
    from bridge.app.messages.jsonlines import line_of

    loaded = load_config(config, overlay)

    async def write() -> None:
        # A reader that closes the pipe ends the command in the middle
        async with aclosing(cast(Any, visited(loaded, selection_of(chosen), offline=offline))) as found:
            async for each in found:
                click.echo(line_of(each.dead_letter.position, each.message).encode())

    asyncio.run(write())


def _export(remote: DaemonAddress, given: dict[str, Any]) -> None:
    """Print the messages of a remote daemon, part by part."""
    from bridge.app.operations.cursors import START

    options: dict[str, Any] = {"remote": remote, "engine": None}
    require_table(options, TABLE_WITH_READS, "dlq export")
    cursor: str | None = START
    while cursor is not None:
        [part] = operate(options, ("dlq.export", {**given, "cursor": cursor, "limit": 1_000}))
        for line in part["lines"]:
            click.echo(line.encode())
        cursor = part["next"]


@make(
    "check",
    effect="reads",
    examples="""
        bridge dlq check
        bridge dlq check orders --cause 3f1c09a2b7de
        bridge dlq check --candidate fixed.yaml        # with another configuration
        bridge dlq check --offline --json
    """,
    exits={
        0: "none of the dead letters would fail again",
        1: "some would fail again",
        3: "a configuration is not valid, or a broker or engine does not answer (is the daemon running?)",
    },
)
@selection_options
@click.option(
    "--candidate",
    type=PATH,
    multiple=True,
    metavar="FILE|DIR",
    help="Configuration whose rules decide; repeatable.  [default: the present one]",
)
@click.option("--offline", is_flag=True, help="Do not ask the engines; take each command as accepted.")
@json_option
@remote_options
@config_options
def check(
    candidate: tuple[Path, ...],
    offline: bool,
    as_json: bool,
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    **chosen: Any,
) -> int:
    """Show the outcome that each dead letter would have now. Nothing changes.

    The command decodes and routes each dead letter with the present configuration, or with a candidate. It asks the
    engine whether the instance exists, so the result distinguishes starts from duplicates. It skips rules that were
    executed before the failure, as a replay does.
    """
    if remote is not None:
        _check_online(offline)
        if candidate:
            raise click.UsageError("--candidate needs a configuration, not --url", click.get_current_context())
        report = remote_check(remote, chosen, replays=False)
    else:
        from bridge.app.composition import load_config

        loaded = load_config(config, overlay)
        rules = load_config(candidate, overlay) if candidate else loaded
        report = own_check(loaded, rules, selection_of(chosen), offline=offline)
    if as_json:
        print_json(report)
    elif not report["total"]:
        say("there are no dead letters", err=True)
    else:
        print_report(report, offline)
    return 1 if report["failing"] else 0


def _grouped(
    remote: DaemonAddress | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    chosen: dict[str, Any],
    offline: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Groups, the most numerous first, and sentences about dead letters that are gone."""
    if remote is not None:
        answer = _asked(remote, offline, "dlq.groups", parameters_of(chosen))
        return answer["groups"], answer["gone"]
    from bridge.app.composition import load_config
    from bridge.app.dead_letters.groups import grouped

    loaded = load_config(config, overlay)
    progress = ProgressCount("dead letter", "read")
    try:
        found = asyncio.run(grouped(loaded, selection_of(chosen), offline, progress))
    finally:
        progress.close()
    return [each.to_dict() for each in found.sorted()], found.gone


def _asked(remote: DaemonAddress, offline: bool, operation: str, given: dict[str, Any]) -> Any:
    """Answer of a remote daemon. Raises: UsageError for `offline`."""
    _check_online(offline)
    [answer] = operate({"remote": remote, "engine": None}, (operation, given))
    return answer


def _check_online(offline: bool) -> None:
    """Raises: UsageError for `offline`, which a remote daemon does not have."""
    if offline:
        raise click.UsageError("--offline needs a configuration, not --url", click.get_current_context())


def _read(
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
    selection: DeadLetterSelection,
    limit: int | None,
    offline: bool,
) -> list[FoundDeadLetter]:
    from bridge.app.composition import load_config
    from bridge.app.dead_letters.reading import visited

    loaded = load_config(config, overlay)

    async def read() -> list[FoundDeadLetter]:
        return [each async for each in visited(loaded, selection, limit, offline=offline)]

    return asyncio.run(read())


def _missing(config: tuple[Path, ...], overlay: tuple[Path, ...], id_: str, offline: bool) -> str:
    """Sentence about a dead letter that was not found."""
    from bridge.app.composition import load_config
    from bridge.app.dead_letters.reading import why_gone

    why = asyncio.run(why_gone(load_config(config, overlay), id_, offline=offline))
    return why or f"there is no dead letter {id_!r}. Next: bridge dlq list --state all"


def _kind(chosen: dict[str, Any], offline: bool) -> str:
    """Adjective for the dead letters of a selection: their states, empty for all."""
    states = chosen["states"]
    return "" if offline or "all" in states else f"{' or '.join(states)} "


def _none(chosen: dict[str, Any], offline: bool) -> str:
    kind = _kind(chosen, offline)
    return f"there are no {kind}dead letters" + ("; `--state all` shows the others" if kind else "")


def _marked(detail: str) -> list[str]:
    """Expression of a detail with a caret below the missing key; nothing where the detail or the place is unknown."""
    found = _MISSING_KEY.search(detail)
    if found is None or "\n" in found["expression"]:
        return []
    name = re.escape(found["key"])
    places = list(re.finditer(rf"""(?<=\.|\?){name}\b|(?<=\['|\["){name}(?=['"]])""", found["expression"]))
    if len(places) != 1:
        return []
    return [f"  {found['expression']}", f"  {' ' * places[0].start()}^"]


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)


for each in (groups, list_, show, export, check, replay, drop, restore, edit):
    command.add_command(each)
