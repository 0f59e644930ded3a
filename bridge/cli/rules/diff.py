"""`bridge diff`, and the printed form of differences between two configurations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import PATH, json_option
from bridge.cli.shared.output import ProgressCount, print_json, say
from bridge.core.words import plural

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bridge.app.rules.diff import ReceivedMessage, Receivers
    from bridge.config.source import Loaded

LIMIT = 10_000
"""Messages that are compared unless --limit names another number."""

_VALUES = 8
"""Most differing values of an example that are printed."""


@make(
    "diff",
    effect="reads",
    examples="""
        bridge diff bridge.yaml new/bridge.yaml --messages orders      # the newest messages of a source's topic
        bridge diff bridge.yaml new/ --messages kafka/orders --limit 100000
        bridge diff bridge.yaml new/ --messages samples/               # files, as for `bridge check --samples`
        bridge diff bridge.yaml new/ --messages order.json --source orders
        bridge topic read orders --json | bridge diff bridge.yaml new/ --messages -
        git worktree add ../main main && bridge diff ../main/bridge.yaml bridge.yaml --messages samples/
    """,
    exits={
        0: "every message has the same route, commands and dead-letter reason in both configurations",
        1: "messages would be routed differently, or there was no message to compare",
        3: "a configuration is not valid, or the broker or schema registry cannot be reached",
    },
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option(
    "--messages",
    "place",
    required=True,
    metavar="FILE|DIR|SOURCE|BROKER/TOPIC|-",
    help="Messages to compare: files, the topic of a source, a topic of a broker, or lines of standard input.",
)
@click.option("--source", metavar="SOURCE", help="Source of all messages.  [default: by their topic]")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=LIMIT,
    show_default=True,
    metavar="N",
    help="Maximum number of messages; of a topic the newest ones.",
)
@click.option(
    "--overlay", type=PATH, multiple=True, metavar="FILE", help="Overlay for both configurations; repeatable."
)
@json_option
def command(
    old: Path,
    new: Path,
    place: str,
    source: str | None,
    limit: int,
    overlay: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Show which messages two configurations would route differently: another route, command, id, input or reason.

    OLD and NEW are files or directories. Each message is decoded and routed by both, as `bridge route` and the daemon
    do it. Nothing is executed. Different messages are grouped by both decisions and the first differing condition.
    """
    from bridge.app.check.moves import steps
    from bridge.app.composition import load_config
    from bridge.app.rules.diff import Receivers, compare
    from bridge.core.errors import DecodeError

    sides = load_config([old], overlay), load_config([new], overlay)
    receivers = Receivers(*sides, source)
    progress = ProgressCount("message", "compared")
    try:
        found = asyncio.run(compare(*sides, _messages(place, *sides, receivers, limit), limit, progress))
    except DecodeError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    except OSError as error:
        raise click.FileError(error.filename or place, error.strerror or type(error).__name__) from None
    finally:
        progress.close()
    for _, step in steps(sides[0].config, sides[1].config):
        say(f"note: {step}", err=True)
    if found.unread:
        say(f"note: no source reads the topic of {plural(found.unread, 'message')}; name one with --source", err=True)
    if found.limited:
        say(f"note: the limit of {plural(limit, 'message')} was reached; compare more with --limit", err=True)
    if as_json:
        print_json(found.to_dict())
    else:
        print_comparison(found.to_dict())
    if not found.comparison.messages:
        click.echo("error: there was no message to compare", err=True)
        return exit_codes.FAILED
    return exit_codes.FAILED if found.comparison.different else exit_codes.OK


def _messages(
    place: str, old: Loaded, new: Loaded, receivers: Receivers, limit: int
) -> AsyncGenerator[ReceivedMessage]:
    from bridge.app.rules.diff import of_files, of_lines, of_topic

    if place == "-":
        return of_lines(sys.stdin.buffer, "standard input", receivers)
    if Path(place).exists():
        return of_files([Path(place)], old, new, receivers)
    return of_topic(old, new, place, receivers, limit)


def print_comparison(found: Mapping[str, Any]) -> None:
    """Print the groups of a comparison, and its numbers. found: `RulesComparison.to_dict`."""
    for group in found["groups"]:
        _print_group(group)
    if found["ungrouped"]:
        say(f"{plural(found['ungrouped'], 'different message')} beyond these groups\n")
    say(f"{found['different']:,} of {plural(found['messages'], 'message')} would be routed differently")


def _print_group(group: Mapping[str, Any]) -> None:
    members = ", ".join(name.partition(".")[2] for name in group["members"])
    old, new = group["old"]["text"], group["new"]["text"]
    change = f"{old} with another {members}" if members else f"{old} -> {new}"
    say(f"{plural(group['count'], 'message')} of {group['source']}: {change}")
    for line in _condition(group["condition"]):
        say(f"  {line}")
    say(f"  example: {_name(group['example'])}")
    for line in _values(group["example"]) if members else ():
        say(f"    {line}")
    say("")


def _condition(condition: Mapping[str, str | None]) -> Sequence[str]:
    lines = [f"first difference: {', '.join(filter(None, (condition['route'], condition['member'])))}"]
    for side in ("old", "new"):
        text, at = condition[side], condition[f"{side}_at"]
        if text or at:
            lines.append(f"  {side}: {' '.join(filter(None, (text, f'({at})' if at else '')))}")
    return lines


def _name(example: Mapping[str, Any]) -> str:
    id_ = example["id"] or ""
    place = "" if example["topic"] is None else f"{example['topic']}/{example['partition']}@{example['offset']}"
    # The id of a message that has none of its own is its position
    named = [place, f"id {id_}"] if id_ and not (place and id_.endswith(place)) else [place]
    return ", ".join(filter(None, named)) or "a message without an id"


def _values(example: Mapping[str, Any]) -> Sequence[str]:
    from bridge.app.rules.comparison import changes
    from bridge.app.rules.differences import shown

    found = list(islice(changes(example), _VALUES + 1))
    lines = [f"{each.name}: {shown(each.expected)} -> {shown(each.found)}" for each in found[:_VALUES]]
    return [*lines, "..."] if len(found) > _VALUES else lines
