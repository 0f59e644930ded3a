"""Messages given by a person or a script: a file, a text, or lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO
from uuid import uuid4

from bridge.app.messages import jsonlines
from bridge.app.messages.jsonlines import LIMITS, LINE_LIMIT
from bridge.codecs import registry as codecs
from bridge.codecs.cloudevents.structured import MEDIA
from bridge.codecs.limits import parse_json, without_mark
from bridge.config.model.codecs import SCHEMA_CODECS
from bridge.config.model.types import check_topic
from bridge.core.errors import DecodeError
from bridge.core.message import Event, Message

CLI_SOURCE = "bridge-cli"
"""CloudEvents `source` of bodies that the CLI wraps."""

_CLOUDEVENTS = ("cloudevents", "cloudevents-binary")
JSON_CODECS = ("json", *_CLOUDEVENTS)
"""Codecs of sources whose messages are usually JSON."""

_ID_HEADERS = frozenset(("ce_id", "ce-id", "cloudevents:id", "cloudevents_id"))
_READ = 256 * 1024


@dataclass(frozen=True, slots=True)
class MessageOptions:
    """Options of a message beside its body.

    type: wrap the data as a CloudEvent of this type.
    id: id of that CloudEvent; None: random.
    raw: send the body as it is, even where the receiving source will refuse it.
    """

    type: str | None = None
    id: str | None = None
    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw: bool = False

    def message(self, body: bytes | None) -> Message:
        """Message of the unchanged body, with the key and the headers."""
        return Message(body, key=_key(self.key), headers=_headers(self.headers))


def build(body: bytes, codec: str | None, options: MessageOptions, label: str) -> Message:
    """Make one message of a body.

    codec: codec of the receiving source; None when unknown.
    label: name of the body in errors.
    Raises: DecodeError.
    """
    if options.raw:
        return options.message(body)
    if codec in ("json", "text", *_CLOUDEVENTS) or (codec is None and without_mark(body).lstrip()[:1] in (b"{", b"[")):
        body = without_mark(body)
    if codec in SCHEMA_CODECS and not body.startswith((b"\0", b"\1")):
        raise DecodeError(
            f"this source reads {codec}, but {label} does not begin with the id of a schema: send the output of a "
            "schema registry's serializer, or send the data unchanged with --raw"
        )
    event = _cloud_event(body)
    if event is not None:
        if options.type is not None or options.id is not None:
            raise DecodeError(f"{label} is a CloudEvent already: remove --type and --id, or change its members")
        return _marked(options.message(body), event)
    if options.type is not None:
        if codec is not None and codec not in _CLOUDEVENTS:
            raise DecodeError(
                f"--type makes a CloudEvent, but this source reads {codec} and takes the type from its `attributes`: "
                "set the values that they read, with --header or in the data"
            )
        return _wrapped(body, options, options.type, label)
    if codec in _CLOUDEVENTS and not any(name.startswith(("ce_", "ce-")) for name, _ in options.headers):
        raise DecodeError(
            f"{label} is not a CloudEvent, but this source reads only CloudEvents: wrap it with --type, or send it "
            "unchanged with --raw"
        )
    return options.message(body)


def lines(
    stream: BinaryIO, topic: str | None, options: MessageOptions, label: str
) -> Iterator[list[tuple[str, Message]]]:
    """Yield batches of (topic, message) of JSON Lines, in order. A batch is read without waiting for more input.

    A line is a CloudEvent, or an object as `bridge.app.messages.jsonlines` describes it, which must have a body. Blank
    lines are skipped.
    topic: topic of every line; None: each line names its own.
    options: defaults for lines that give no value of their own.
    Raises: DecodeError with label and line, after all earlier messages were yielded.
    """
    read = getattr(stream, "read1", stream.read)
    rest, number = bytearray(), 0
    while True:
        chunk = read(_READ)
        whole: list[bytes] = []
        if not chunk:
            whole.append(bytes(rest))
        elif b"\n" in chunk:
            first, *whole, last = chunk.split(b"\n")
            whole.insert(0, bytes(rest) + first)
            rest = bytearray(last)
        else:
            rest += chunk
        batch: list[tuple[str, Message]] = []
        for line in whole:
            number += 1
            if number == 1:
                line = without_mark(line)
            if not line.strip():
                continue
            try:
                own, message = _line(line, options, by_line=topic is None)
                batch.append((_topic(topic, own), message))
            except DecodeError as error:
                if batch:
                    yield batch
                raise DecodeError(f"{label}:{number}: {error}") from None
        if batch:
            yield batch
        if not chunk:
            return
        if len(rest) > LINE_LIMIT:
            raise DecodeError(f"{label}:{number + 1}: the line is longer than {LINE_LIMIT // 1024**2} MiB")


def read_back(body: bytes, label: str) -> Message | None:
    """Message of a line of `bridge topic read --json` or `bridge dlq export`; None for any other body.

    Raises: DecodeError for several such lines, and for a message that cannot be parsed.
    """
    if b'"offset"' not in body:
        return None
    lines = [line for line in body.splitlines() if line.strip()]
    try:
        value = _parse(body if len(lines) == 1 else lines[0], label)
    except DecodeError:
        return None
    if not isinstance(value, dict) or not jsonlines.is_line(value):
        return None
    if len(lines) > 1:
        raise DecodeError(f"{label} holds {len(lines)} messages, and one is expected; take one with `head -n 1`")
    try:
        return jsonlines.message_of(value, body.strip())
    except DecodeError as error:
        raise DecodeError(f"{label}: {error}") from None


def several(body: bytes) -> int:
    """Number of the messages of a body that is JSON Lines; 0 for one that is a single JSON text, or no JSON."""
    lines = [line for line in without_mark(body).splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].lstrip().startswith(b"{"):
        return 0
    try:
        _parse(lines[0], "")
        _parse(lines[1], "")
    except DecodeError:
        return 0
    return len(lines)


def is_published_line(body: bytes) -> bool:
    """True for a body with the form of a line of `bridge publish --jsonl`: `{"body": ..., "key": ...}`."""
    if b'"body' not in body:
        return False
    try:
        value = _parse(without_mark(body), "")
    except DecodeError:
        return False
    return isinstance(value, dict) and len(value) > 1 and value.keys() <= jsonlines.MEMBERS


def parse_line(line: bytes) -> Any:
    """JSON value of a line. Raises: DecodeError."""
    try:
        return _parse(line, "the line")
    except DecodeError as error:
        raise DecodeError(
            f"{error}; each line is one message, as of `bridge topic read --json` (`jq -c .` makes lines of JSON texts)"
        ) from None


def sample_line(line: bytes) -> tuple[str | None, tuple[int, int] | None, Message]:
    """Topic that a line of JSON Lines names, its partition and offset, if any, and its message. Raises: DecodeError."""
    value = parse_line(line)
    topic, message = _message(value, line, MessageOptions(), by_line=True)
    return (topic if isinstance(topic, str) else None), jsonlines.place_of(value), message


def id_of(message: Message) -> str | None:
    """Id of a message: that of a CloudEvent, or the broker's own; None for a message that has none of its own."""
    for name, value in message.headers:
        if name.lower() in _ID_HEADERS and value is not None:
            return value.decode("utf-8", "replace")
    event = None if message.body is None else _cloud_event(message.body)
    if event is not None and isinstance(event.get("id"), str):
        return str(event["id"])
    return message.message_id


def _line(line: bytes, options: MessageOptions, *, by_line: bool) -> tuple[Any, Message]:
    """Topic named by a line, and its message. by_line: each line must name its topic."""
    return _message(_parse(line, "the line"), line, options, by_line=by_line)


def _message(value: Any, line: bytes, options: MessageOptions, *, by_line: bool) -> tuple[Any, Message]:
    if not isinstance(value, dict):
        raise DecodeError('expected a CloudEvent or {"body": ...}')
    if "specversion" in value:
        return None, _marked(options.message(line.strip()), value)
    message = jsonlines.message_of(value, line)
    topic = None if jsonlines.was_read(value) and not by_line else value.get("topic")
    own = tuple(header for header in _headers(options.headers) if header[0] not in value.get("headers", {}))
    key = _key(options.key) if message.key is None else message.key
    return topic, replace(message, key=key, headers=own + message.headers)


def _topic(topic: str | None, own: Any) -> str:
    if own is None or own == topic:
        if topic is None:
            raise DecodeError('the line needs a "topic", because the command names only a broker')
        return topic
    if topic is not None:
        raise DecodeError(
            f"the line names another topic than {topic}; use BROKER/ without a topic to take the topics of the lines"
        )
    if not isinstance(own, str):
        raise DecodeError("topic must be text")
    try:
        return check_topic(own)
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _wrapped(body: bytes, options: MessageOptions, type_: str, label: str) -> Message:
    event = Event(
        id=options.id or str(uuid4()),
        source=CLI_SOURCE,
        type=type_,
        data=_data(body, label),
        time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )
    message = options.message(codecs.get("cloudevents").encode(event).body)
    return _marked(message, {})


def _data(body: bytes, label: str) -> Any:
    """Data of a body: JSON where it is JSON, else text where it is text, else bytes."""
    try:
        return _parse(body, label)
    except DecodeError:
        if body.lstrip()[:1] in (b"{", b"["):
            raise
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _parse(body: bytes, label: str) -> Any:
    try:
        return parse_json(body, LIMITS)
    except DecodeError as error:
        raise DecodeError(str(error).replace("the body", label, 1)) from None


def _cloud_event(body: bytes) -> dict[str, Any] | None:
    if b'"specversion"' not in body:
        return None
    try:
        value = parse_json(body, LIMITS)
    except DecodeError:
        return None
    return value if isinstance(value, dict) and "specversion" in value else None


def _marked(message: Message, event: dict[str, Any]) -> Message:
    """Message with the content type of a CloudEvent, and with its partition key where no key is given."""
    headers = message.headers
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = (*headers, ("content-type", MEDIA.encode()))
    key = event.get("partitionkey") if message.key is None else None
    return replace(message, headers=headers, key=_key(key) if isinstance(key, str) else message.key)


def _key(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _headers(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, text.encode()) for name, text in pairs)
