"""`bridge trace`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import engine_options, operate
from bridge.cli.shared.options import output_option
from bridge.cli.shared.output import local_time, print_fields, print_json, print_table, say
from bridge.cli.shared.parameters import TimeType
from bridge.core.states import MessageState, Outcome
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.app.operations.lineage.lineage import Arrival, Lineage, Publication
    from bridge.app.operations.lineage.trace import TraceAnswer, TraceResult
    from bridge.app.trace import Traced
    from bridge.config.source import Loaded


@make(
    "trace",
    effect="reads",
    examples="""
        bridge trace order-1001
        bridge trace orders/3@1042
        bridge trace "/shop 7f3c" --all -o json
        cat ids.txt | bridge trace -
    """,
    exits={
        0: "every id has an answer",
        1: "an id names no instance and no known message",
        2: "an id is empty, or the command is used wrongly",
        3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
    },
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--since", type=TimeType(), help="Search only instances that changed since this time or duration.")
@click.option("--prefix", metavar="TEXT", help="Search only instances with this prefix of the id.")
@click.option("--all", "all_", is_flag=True, help="Read all instances of the message.  [default: the first ones]")
@click.option(
    "-0", "--null", "null", is_flag=True, help="With `-`: ids end with a NUL character instead of a line end."
)
@output_option()
@engine_options
def command(
    ids: tuple[str, ...],
    since: datetime | None,
    prefix: str | None,
    all_: bool,
    null: bool,
    output: Literal["table", "json"],
    **engine: Any,
) -> int:
    """Show the outcome of a message with its cause, the messages before it, and its results.

    ID is the identity of a message, the id of a CloudEvent, a position such as orders/3@1042, an ordering key, the id
    of an instance, or the id of a published event; - reads ids from standard input. The answer comes from the index of
    the engine, from the messages that daemons have in flight, and for a position from the broker. The command searches
    instances that the index does not have. With --url, the daemon also asks the other daemons that it can reach for
    their messages in flight.
    """

    if not all(map(str.strip, ids)):
        raise click.UsageError("an id is empty", click.get_current_context())
    wanted = list(_ids(ids, null))
    if not wanted:
        raise click.UsageError("standard input has no ids", click.get_current_context())
    if engine["remote"] is not None and (since is not None or prefix is not None or all_):
        raise click.UsageError("--since, --prefix and --all need a configuration", click.get_current_context())
    loaded, traced = (
        _remote(engine, wanted) if engine["remote"] is not None else _own(engine, wanted, since, prefix, all_)
    )
    away = next((one.away for one in traced if one.away is not None), None)
    if output == "json":
        documents = [_document(one) for one in traced]
        print_json(documents[0] if len(ids) == 1 and ids != ("-",) else documents)
    else:
        for number, one in enumerate(traced):
            if number:
                click.echo()
            _print_traced(loaded, one, since, prefix)
    if away is not None:
        say(f"only messages in flight are known: {away}", err=True)
        return exit_codes.of(away) if not all(_is_answered(one) for one in traced) else 0
    return 0 if all(_is_answered(one) for one in traced) else 1


def _own(
    options: dict[str, Any], wanted: Sequence[str], since: datetime | None, prefix: str | None, all_: bool
) -> tuple[Loaded | None, list[Traced]]:
    from bridge.app.composition import load_config
    from bridge.app.operations.lineage.lineage import SearchScope
    from bridge.app.trace import trace

    loaded = load_config(options["config"], options["overlay"])
    return loaded, asyncio.run(trace(loaded, options["engine"], wanted, SearchScope(since, prefix, all_, _progress)))


def _remote(options: dict[str, Any], wanted: Sequence[str]) -> tuple[Loaded | None, list[Traced]]:
    from pydantic import TypeAdapter

    from bridge.app.operations.lineage.trace import TraceResult
    from bridge.app.trace import Traced

    found = operate(options, *(("messages.trace", {"message": each, "search": True}) for each in wanted))
    read = TypeAdapter(TraceResult).validate_python
    return None, [Traced(id_, read(each)) for id_, each in zip(wanted, found, strict=True)]


def _ids(given: Sequence[str], null: bool) -> Iterator[str]:
    for each in given:
        if each == "-":
            text = sys.stdin.buffer.read().decode("utf-8", "replace")
            yield from filter(str.strip, (one.strip("\r") for one in text.split("\0" if null else "\n")))
        else:
            yield each


def _is_answered(one: Traced) -> bool:
    return (one.found.by != "nothing" and any(answer.outcome != "not_kept" for answer in one.found.answers)) or bool(
        one.found.instances
    )


def _document(one: Traced) -> dict[str, Any]:
    found = one.found
    return {
        "id": one.id,
        "found_by": found.by,
        "answers": [
            {name: value for name, value in asdict(each).items() if value is not None} for each in found.answers
        ],
        "searched": found.searched,
        "index": found.index,
        "index_since": found.index_since,
        "index_bounded": found.index_bounded,
        "silent_daemons": one.silent,
        "behind": None if found.behind is None else asdict(found.behind),
        "more": found.more,
        "instances": [asdict(each) for each in found.instances],
        "started_by": sorted(found.started_by),
        "upstream": [asdict(each) for each in found.upstream],
        "downstream": [asdict(each) for each in found.downstream],
        "undelivered": [asdict(each) for each in found.undelivered],
    }


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty() and of > done:
        click.echo(f"\rsearched {done:,} of {of:,} instances", nl=False, err=True)


def _print_traced(loaded: Loaded | None, one: Traced, since: datetime | None, prefix: str | None) -> None:
    from bridge.app.operations.lineage.position import places

    found = one.found
    if one.away is not None and not found.answers:
        say(f"{one.id}: not known while the engine does not answer", err=True)
        return
    if found.behind is not None:
        of = "of " if found.behind.what == "dead letter" else ""
        state = f"; {found.behind.state}" if found.behind.state else ""
        job = f" by job {found.behind.job}" if found.behind.job else ""
        say(f"{one.id}: {found.behind.what} {of}{found.behind.id}{state}{job}")
    for answer in found.answers:
        say(f"{one.id}: {_sentence(answer)}")
        if (following := _next(loaded, answer)) is not None:
            say(f"  next: {following}")
    if found.more:
        click.echo(f"{found.more} further instances; --all shows them")
    if found.answers and found.instances:
        click.echo()
    wanted = one.id if found.behind is None else found.behind.id
    _print_all(found.instances, wanted)
    for each in found.upstream:
        click.echo("\nstarted by" if each.instance_id in found.started_by else "\npublished by")
        _print_one(each, wanted)
    for each in found.downstream:
        click.echo("\nreceived by")
        _print_one(each, wanted)
    if found.instances and found.index == "none":
        click.echo("\nthe instances above and below are not known without an index", err=True)
    if found.by == "nothing":
        click.echo(f"{one.id!r} is not an instance, and no message with this id was found", err=True)
        if found.index != "complete":
            where = f" that changed since {local_time(since)}" if since else ""
            begin = f" with the prefix {prefix!r}" if prefix else ""
            how = "without an index"
            if found.index_bounded:
                how = "because the index does not have it"
                click.echo(_bound(found), err=True)
            elif found.index == "partial":
                how = f"from before the index (since {local_time(found.index_since)})"
            click.echo(f"searched {plural(found.searched, 'instance')} {how}{begin}{where}", err=True)
            if found.index == "none":
                setting = "" if loaded is None else f" (ops.lineage.index: {loaded.config.ops.lineage.index})"
                click.echo(f"the engine keeps no index{setting}", err=True)
        if loaded is None or not places(loaded, one.id):
            click.echo("an ignored message is found only by its position, like orders/3@17", err=True)
    elif found.searched:
        how = "because the index does not have it" if found.index_bounded else "without an index"
        click.echo(f"\n(searched {plural(found.searched, 'instance')} {how})", err=True)
    if one.silent:
        click.echo(f"partial: {plural(one.silent, 'daemon')} did not answer", err=True)


def _bound(found: TraceResult) -> str:
    """Sentence about an index that does not name an id, which it may have lost."""
    if found.index_since is None:
        return "the index has no rows yet that could name this id"
    since = local_time(found.index_since)
    return f"for this id the index goes back to {since}; older and dropped rows are missing"


def _sentence(answer: TraceAnswer) -> str:
    since, until = local_time(answer.at), local_time(answer.until)
    at = f" at {since}" if since else ""
    route = f" by route {answer.route}" if answer.route else ""
    place = f", position {answer.position}" if answer.position else ""
    source = f" in source {answer.source}" if answer.source else ""
    why = ": ".join(filter(None, (answer.reason, answer.detail)))
    because = f": {why}" if why else ""
    what = answer.what or "a command"
    whom = f"{what} of instance {answer.instance_id}" if answer.instance_id else f"{what} to entity {answer.entity}"
    match answer.outcome:
        case Outcome.EXECUTED:
            return f"executed{at}: {whom}{route}{place}{f' ({answer.detail})' if answer.detail else ''}"
        case Outcome.DUPLICATE:
            return f"duplicate of {answer.duplicate_of}, which was executed{at}: {whom}{route}"
        case Outcome.IGNORED:
            return f"ignored{source}{because}"
        case MessageState.RETRYING:
            following = f", next try at {local_time(answer.next_try)}" if answer.next_try else ""
            return f"retrying{source} since {since}, attempt {answer.attempt}{following}{route}{place}{because}"
        case MessageState.QUEUED:
            return f"queued{source} since {since}{place}{because}"
        case MessageState.EARLY:
            waits = f"waits for {answer.instance_id} since {since}, until {until}"
            return f"early: {answer.message_id}{source}{route} {waits}"
        case MessageState.QUARANTINED:
            key = f"{answer.message_id}{source}{route} waits with its key {answer.key}"
            return f"quarantined: {key} since {since}{because}"
        case Outcome.DEAD_LETTERED:
            whom = f"; it waited for {answer.instance_id}" if answer.instance_id else ""
            where = f" in {answer.topic}" if answer.topic else ""
            return f"dead-lettered{at}{where}{source}{route}{place}{because}{whom}"
        case "published":
            tries = f", {answer.attempt} attempts" if (answer.attempt or 1) > 1 else ""
            state = f", {answer.detail}" if answer.detail else ""
            return f"published{at} to target {answer.topic} by instance {answer.instance_id}{tries}{state}"
        case "not_processed":
            return f"not processed{source}{place}{because}"
        case _:
            return f"not kept{place}{because}"


def _next(loaded: Loaded | None, answer: TraceAnswer) -> str | None:
    """Next command for a message that needs a person."""
    match answer.outcome:
        case MessageState.EARLY:
            return f"bridge early release {answer.instance_id}"
        case MessageState.QUARANTINED:
            return f"bridge quarantine release --source {answer.source} {answer.key}"
        case Outcome.DEAD_LETTERED:
            # `dlq` knows positions without their cluster
            place = (answer.position or "").partition("/")[2]
            dead_letter = answer.message_id if answer.message_id not in (None, answer.position) else place
            if dead_letter and (loaded is None or answer.source in loaded.config.sources):
                return f"bridge dlq show {shlex.quote(dead_letter)}"
    return None


def _print_all(instances: Sequence[Lineage], id_: str) -> None:
    for number, one in enumerate(instances):
        if number:
            click.echo()
        _print_one(one, id_)


def _print_one(one: Lineage, wanted: str) -> None:
    print_fields(
        (
            ("instance", one.instance_id),
            ("name", one.name),
            ("status", one.status),
            ("created", local_time(one.created_at)),
            ("child of", one.parent or ""),
            ("trace", one.trace_id or ""),
        )
    )
    marked = {id(each) for each in one.arrived(wanted)}
    rows = [(each.at, 0, _came(each), id(each) in marked) for each in one.arrivals]
    rows += [(each.at, 1, _went(each), each.id == wanted) for each in one.publications]
    print_table(
        ("TIME", "", "WHAT", "ID", "BY", ""),
        [(local_time(at), *cells, "<" if mark else "") for at, _, cells, mark in sorted(rows, key=lambda row: row[:2])],
    )
    for child in one.children:
        click.echo()
        _print_one(child, wanted)


def _came(arrival: Arrival) -> tuple[str, str, str, str]:
    part = f" [{arrival.part}]" if arrival.part > 0 else ""
    by = "(not by a message)" if arrival.message_id is None else f"route {arrival.route}{part}"
    return "in", arrival.what, arrival.message_id or "", by


def _went(publication: Publication) -> tuple[str, str, str, str]:
    state = "" if publication.state == "published" else f", {publication.state}"
    again = f", {publication.attempts} attempts" if publication.attempts > 1 else ""
    return "out", publication.type, publication.id, f"target {publication.target}{state}{again}"
