"""`bridge publish`."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from bridge.cli.shared import failure
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, message_options, output_option, reason_option
from bridge.cli.shared.output import ProgressCount, say
from bridge.cli.shared.parameters import BODY, read_input
from bridge.core.errors import BridgeError, DecodeError
from bridge.core.words import plural
from bridge.system.files import FileTooLarge

if TYPE_CHECKING:
    from bridge.app.messages.publish import Destination
    from bridge.app.messages.reading import MessageOptions
    from bridge.core.message import Message, Position


_GIVE = "use one of --file, --data and --jsonl"


@make(
    "publish",
    effect="changes",
    examples="""
        bridge publish orders --file order.json                       # a CloudEvent is sent unchanged
        bridge publish orders --type order.created --key 1001 --data '{"id": "1001", "total": 25}'
        bridge publish local/orders --raw --data 'not even JSON'      # any topic of a broker
        bridge publish orders --jsonl events.jsonl                    # many
        generate | bridge publish local/                              # each line names its "topic"

        A line of JSON Lines is a CloudEvent, or
        {"body": {"id": "1001"}, "key": "1001", "headers": {"source": "shop"}, "topic": "orders"}
        Only the body is required: text and JSON are sent as they are, null is a tombstone. Lines of
        bridge topic read --json are published unchanged.
    """,
    exits={0: "the broker has stored all messages durably", 1: "not all messages could be published"},
)
@click.argument("destination", metavar="SOURCE|BROKER/TOPIC")
@click.option(
    "--file", "files", multiple=True, metavar="FILE", help="File with one message; repeatable; - is standard input."
)
@click.option("--data", type=BODY, metavar="TEXT|@FILE", help="Text of one message; @@ begins a text with @.")
@click.option("--jsonl", metavar="FILE", help="File with one message per line.  [default: standard input]")
@message_options
@click.option("--raw", is_flag=True, help="Send the data unchanged, even if the source cannot decode it.")
@output_option(": json is one JSON object per message")
@reason_option
@config_options
def command(
    destination: str,
    files: tuple[str, ...],
    data: bytes | None,
    jsonl: str | None,
    type_: str | None,
    key: str | None,
    headers: tuple[tuple[str, str], ...],
    id_: str | None,
    raw: bool,
    output: Literal["table", "json"],
    reason: str | None,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Publish messages to a broker of the configuration.

    The name of a source means its broker and its first topic. With --type, the command wraps data for a source that
    reads CloudEvents as a CloudEvent. It sends data that is already a CloudEvent unchanged.

    When the broker has stored a message, the command prints its id, and its position if the broker returns one. `bridge
    trace` with one of them shows the outcome.
    """
    piped = not files and data is None and jsonl is None and not sys.stdin.isatty()
    if piped:
        jsonl = "-"
    _check(files, data, jsonl, type_, id_, raw)
    from bridge.app.composition import load_config
    from bridge.app.messages.publish import destination as resolve
    from bridge.app.messages.publish import publish
    from bridge.app.messages.reading import MessageOptions
    from bridge.app.messages.topic import near_topic

    loaded = load_config(config, overlay)
    to = resolve(loaded, destination)
    if to.topic is not None and (near := near_topic(loaded.config, to.broker, to.topic)) is not None:
        say(f"note: no source or target has the topic {to.topic}; did you mean {to.broker}/{near}?", err=True)
    options = MessageOptions(type_, id_, key, headers, raw)
    batches = _lines(jsonl, to, options) if jsonl else _singles(files, data, to, options)
    shown = _Published(to.broker, as_json=output == "json")
    try:
        publish(loaded, to, shown.noted(batches), shown.count, reason)
    except BridgeError as error:
        shown.progress.close()
        code = failure.report(error)
        click.echo(f"{plural(shown.number, 'message')} published before that", err=True)
        return code
    finally:
        shown.progress.close()
    if piped and not shown.number:
        raise click.UsageError(f"{_GIVE}; standard input is empty", click.get_current_context())
    if output == "table":
        click.echo(f"{plural(shown.number, 'message')} published to {to.broker}/{to.topic or ''}")
    return 0


class _Published:
    """Display of the published messages: id and position of each. number: of those so far."""

    def __init__(self, broker: str, *, as_json: bool) -> None:
        self.number = 0
        self.progress = ProgressCount("message", "published")
        self._broker = broker
        self._as_json = as_json
        self._sent: deque[tuple[str, str | None]] = deque()

    def noted(self, batches: Iterator[list[tuple[str, Message]]]) -> Iterator[list[tuple[str, Message]]]:
        """Pass the messages on, and note their ids."""
        from bridge.app.messages.reading import id_of

        for batch in batches:
            self._sent.extend((topic, id_of(message)) for topic, message in batch)
            yield batch

    def count(self, positions: Sequence[Position | None]) -> None:
        """Show the next messages, which the broker has stored. positions: None where it does not return them."""
        for position in positions:
            topic, id_ = self._sent.popleft()
            # `bridge trace` takes a position without its cluster
            place = None if position is None else str(position).partition("/")[2]
            if self._as_json:
                say(json.dumps({"id": id_, "destination": f"{self._broker}/{topic}", "position": place}))
            elif found := "  ".join(filter(None, (id_, place))):
                say(found)
        self.number += len(positions)
        self.progress(self.number)


def _check(
    files: tuple[str, ...], data: bytes | None, jsonl: str | None, type_: str | None, id_: str | None, raw: bool
) -> None:
    given = bool(files) + (data is not None) + (jsonl is not None)
    if given != 1:
        raise click.UsageError(_GIVE, click.get_current_context())
    if files.count("-") > 1:
        raise click.UsageError("standard input can be read only once", click.get_current_context())
    if jsonl and (type_ or id_ or raw):
        raise click.UsageError(
            "--type, --id and --raw are for single messages; lines of --jsonl are sent unchanged",
            click.get_current_context(),
        )
    if raw and (type_ or id_):
        raise click.UsageError("--raw sends the data unchanged, without --type and --id", click.get_current_context())
    if id_ and not type_:
        raise click.UsageError("--id needs --type, which makes a CloudEvent", click.get_current_context())
    if id_ and len(files) > 1:
        raise click.UsageError("--id is for one message; ids must differ", click.get_current_context())


def _singles(
    files: tuple[str, ...], data: bytes | None, to: Destination, options: MessageOptions
) -> Iterator[list[tuple[str, Message]]]:
    from bridge.app.messages.reading import JSON_CODECS, build, is_published_line, several

    if to.topic is None:
        raise LookupError("add the topic, like BROKER/TOPIC; only lines of --jsonl can name their own")
    bodies = [("--data", data)] if data is not None else [(name, _read(name)) for name in files]
    for label, body in () if options.raw or to.codec not in (*JSON_CODECS, None) else bodies:
        if count := several(body):
            many = "without --file" if label == "-" else f"with `--jsonl {'FILE' if label == '--data' else label}`"
            name = "standard input" if label == "-" else label
            raise DecodeError(
                f"{name}:2: another message begins; publish these {count:,} lines {many}, or as one message with --raw"
            )
        if is_published_line(body):
            say(f"note: {label} looks like a line of --jsonl; without this option all of it is the body", err=True)
    yield [(to.topic, build(body, to.codec, options, label)) for label, body in bodies]


def _read(name: str) -> bytes:
    with _open(name) as stream:
        try:
            return read_input(stream)
        except FileTooLarge as error:
            raise click.FileError(name, error.strerror) from None


def _lines(name: str, to: Destination, options: MessageOptions) -> Iterator[list[tuple[str, Message]]]:
    from bridge.app.messages.reading import lines

    with _open(name) as stream:
        try:
            yield from lines(stream, to.topic, options, "stdin" if name == "-" else name)
        except DecodeError as error:
            if name != "-" or not str(error).startswith("stdin:1: "):
                raise
            what = f"{error}; each line of standard input is a message, and `--file -` reads one message from it"
            raise DecodeError(what) from None


def _open(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise click.FileError(name, error.strerror or "") from None
