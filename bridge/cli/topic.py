"""`bridge topic`: messages of a topic or queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bridge.cli.shared.command import BridgeGroup
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, json_option
from bridge.cli.shared.output import clean, local_time, say

if TYPE_CHECKING:
    from bridge.core.message import Message, Position


@click.group(
    "topic",
    cls=BridgeGroup,
    members={"read": "Show the messages of a topic or queue."},
    examples="""
        bridge topic read orders
        bridge topic read local/orders.dlq --json
    """,
)
def command() -> None:
    """Show the messages on the brokers of the configuration. `bridge publish` writes messages."""


class StartType(click.ParamType[Any]):
    """Start position: `earliest`, `latest` or an offset."""

    name = "start"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if text in ("earliest", "latest"):
            return text
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            self.fail(f"{text!r} is not one of earliest, latest or an offset like 42", param, ctx)
        return int(text)


@make(
    "read",
    effect="reads",
    examples="""
        bridge topic read orders                                # the topic of the source
        bridge topic read local/orders.dlq --limit 10           # any topic of a broker
        bridge topic read kafka/orders --from 42 --partition 3 --limit 1
        bridge topic read orders --from latest --follow         # new messages, until Ctrl-C
        bridge topic read 'bus/billing/$DeadLetterQueue' --json | jq .headers

        bridge topic read orders --json | bridge publish kafka/copies

        With --json each message is a line: topic, partition, offset, timestamp, key, headers and body. Lines can be
        published unchanged: bytes that are not UTF-8 are base64 below key_base64, body_base64 or {"base64": ...}.
    """,
    exits={0: "all messages were shown", 1: "the topic or partition does not exist"},
)
@click.argument("place", metavar="SOURCE|BROKER/TOPIC")
@click.option(
    "--from",
    "start",
    type=StartType(),
    default="earliest",
    show_default=True,
    metavar="earliest|latest|OFFSET",
    help="Start position, in every partition.",
)
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="Only this partition.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Maximum number of messages.")
@click.option("--follow", is_flag=True, help="Continue with new messages, until Ctrl-C or --limit.")
@json_option
@config_options
def read(
    place: str,
    start: Literal["earliest", "latest"] | int,
    partition: int | None,
    limit: int | None,
    follow: bool,
    as_json: bool,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> None:
    """Show the messages of a topic, queue or subscription without removing them.

    The command joins no group, commits no position and only peeks at queues. Consumers are not affected. Messages of
    one partition come in order. Without --follow the command ends after the messages that existed at its start.
    """
    if start == "latest" and not follow:
        raise click.UsageError("--from latest shows only new messages: add --follow", click.get_current_context())
    from bridge.app.composition import load_config
    from bridge.app.messages.topic import near_topic, read, resolve
    from bridge.brokers.base import ReadOptions

    loaded = load_config(config, overlay)
    broker, topic = resolve(loaded, place)
    if (near := near_topic(loaded.config, broker, topic)) is not None:
        say(f"note: no source or target has the topic {topic}; did you mean {broker}/{near}?", err=True)
    count = read(loaded, broker, ReadOptions(topic, start, partition, follow), limit, _line if as_json else _print)
    if not count and not as_json:
        click.echo("no messages", err=True)


def _line(position: Position, message: Message) -> None:
    from bridge.app.messages.jsonlines import line_of

    # JSON is UTF-8 regardless of the locale; a terminal with another encoding gets only ASCII
    ascii_only = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
    click.echo(line_of(position, message, ascii_only=ascii_only).encode())


def _print(position: Position, message: Message) -> None:
    from bridge.app.messages.jsonlines import timestamp_of

    time = timestamp_of(message)
    stamp = f"{time}ms" if isinstance(time, int) else local_time(time)
    key = "" if message.key is None else f"  key {_text(message.key)}"
    click.echo(f"{position.topic}/{position.partition}@{position.offset}  {stamp}{key}".rstrip())
    for name, value in message.headers:
        click.echo(f"  {clean(name)}: {'(null)' if value is None else _text(value)}")
    if (unreadable := message.unreadable) is not None:
        last = "" if unreadable.last is None else f", up to offset {unreadable.last}"
        click.echo(f"  (unreadable{last}: {unreadable.fault}: {clean(unreadable.detail)}; --json has the raw bytes)")
        return
    body = "(no body)" if message.body is None else message.body.decode(errors="backslashreplace")
    for line in body.split("\n"):
        click.echo(f"  {clean(line)}".rstrip())


def _text(value: bytes) -> str:
    return clean(value.decode(errors="backslashreplace"))


for each in (read,):
    command.add_command(each)
