"""Messages as lines of JSON: the output of `bridge topic read --json`, accepted unchanged by `bridge publish --jsonl`.

| Member | Value |
|---|---|
| `topic`, `partition`, `offset` | position of the message; a line with an offset may be published to another topic |
| `timestamp` | RFC 3339, or milliseconds since 1970 of a time outside of the years 1 to 9999; null when there is none |
| `message_id`, `partition_key` | only where the broker has them (Service Bus) |
| `amqp_base64` | only on Service Bus, where the other members lack a part of the message: its encoded form |
| `key` | text or null; `key_base64` instead for bytes that are not UTF-8 |
| `headers` | by name: text, null, `{"base64": ...}`, or a list of these for a repeated name |
| `header_order` | the names in order, only where the order of the members of `headers` is another |
| `body` | JSON as in the message, text, or null for a tombstone; `body_base64` instead for other bytes |
| `unreadable` | only of a message that cannot be parsed: `fault`, `detail`, `last_offset`; its bytes are `raw_base64` |
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import groupby
from typing import Any

from bridge.codecs.limits import parse_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import EXACT_MS, Headers, Message, Position

_MOST = 64 * 1024 * 1024
LIMITS = LimitsConfig(max_payload=_MOST, max_depth=500, max_values=_MOST)
"""Limits of the JSON that is parsed here. Unparsed bodies are subject only to the receiving source's own limits."""

LINE_LIMIT = 256 * 1024 * 1024
"""Most bytes of a line: base64 makes a body a third longer."""

_INSIDE = LimitsConfig(max_payload=_MOST, max_depth=LIMITS.max_depth - 1, max_values=_MOST)
_ORIGIN = ("partition", "offset")
_TAKEN = ("topic", "key", "headers", "body")
MEMBERS = frozenset(
    {
        *_TAKEN,
        *_ORIGIN,
        "key_base64",
        "header_order",
        "body_base64",
        "timestamp",
        "message_id",
        "partition_key",
        "amqp_base64",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONG = 2**63
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that are escaped: some readers end a line at them, they control a terminal, or they are not UTF-8."""
_BREAKS = re.compile(rf"[\x00-\x1f]|{_ESCAPED.pattern}")
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t\r\n]*")
_NAMED = ("key", "body")


def line_of(position: Position, message: Message, *, ascii_only: bool = False) -> str:
    """Line of a message, without its end. ascii_only: for an output that is not UTF-8."""
    document: dict[str, Any] = {
        "topic": position.topic,
        "partition": position.partition,
        "offset": position.offset,
        "timestamp": timestamp_of(message),
    }
    if message.message_id is not None:
        document["message_id"] = message.message_id
    if message.partition_key is not None:
        document["partition_key"] = message.partition_key
    if message.native is not None:
        document["amqp_base64"] = b64encode(message.native).decode()
    document |= _named("key", message.key)
    document["headers"] = _headers_of(message.headers)
    names = [name for name, _ in message.headers]
    if sum(1 for _ in groupby(names)) > len(document["headers"]):
        document["header_order"] = names
    if (unreadable := message.unreadable) is not None:
        document["unreadable"] = {
            "fault": unreadable.fault,
            "detail": unreadable.detail,
            "last_offset": unreadable.last,
        }
        document["raw_base64"] = None if message.body is None else b64encode(message.body).decode()
        return _json(document, ascii_only)
    fragment = _fragment(message.body, ascii_only)
    if fragment is None:
        return _json(document | _named("body", message.body), ascii_only)
    return f'{_json(document, ascii_only)[:-1]}, "body": {fragment}}}'


def timestamp_of(message: Message) -> str | int | None:
    """Broker's time of the message: RFC 3339 in UTC, milliseconds for a time beyond dates, None for none."""
    milliseconds = message.milliseconds
    if milliseconds is None:
        return None
    try:
        if message.timestamp_ms is None and message.timestamp is not None:
            time = _EPOCH + timedelta(microseconds=round(Fraction(message.timestamp) * 1_000_000))
        else:
            time = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return milliseconds
    precision = "microseconds" if time.microsecond % 1000 else "milliseconds"
    return time.isoformat(timespec=precision).replace("+00:00", "Z")


def was_read(value: dict[str, Any]) -> bool:
    """True for a line with the position of its message. Its topic is not a destination then."""
    return "offset" in value


def place_of(value: dict[str, Any]) -> tuple[int, int] | None:
    """Partition and offset of a line that has both."""
    partition, offset = (value.get(name) for name in _ORIGIN)
    return (partition, offset) if type(partition) is int and type(offset) is int else None


def is_line(value: dict[str, Any]) -> bool:
    """True for a line that `line_of` wrote, and not for a payload that has some of its members."""
    return {"topic", *_ORIGIN, "timestamp", "headers"} <= value.keys() and not isinstance(value["headers"], list | str)


def message_of(value: dict[str, Any], line: bytes) -> Message:
    """Message of a parsed line. line: its text, for a body that is JSON. Raises: DecodeError."""
    if "unreadable" in value:
        raise DecodeError(
            "the message of this line cannot be parsed; remove it with `jq -c 'select(.unreadable == null)'`"
        )
    if "body" not in value and "body_base64" not in value:
        raise DecodeError('expected a CloudEvent (with `specversion`) or {"body": ...}')
    if unknown := value.keys() - MEMBERS:
        raise DecodeError(f"unknown member {sorted(unknown)[0]!r}; known: {', '.join(sorted(_TAKEN))}")
    for name in _NAMED:
        if name in value and f"{name}_base64" in value:
            raise DecodeError(f"the line has both {name} and {name}_base64")
    key = value.get("key")
    if not isinstance(key, str | None):
        raise DecodeError("key must be text")
    timestamp, milliseconds = _timestamp(value.get("timestamp"))
    return Message(
        _body(value, line),
        _bytes(value["key_base64"], "key_base64") if "key_base64" in value else _encoded(key),
        _headers(value),
        timestamp,
        _text(value, "message_id"),
        partition_key=_text(value, "partition_key"),
        timestamp_ms=milliseconds,
        native=_bytes(value["amqp_base64"], "amqp_base64") if "amqp_base64" in value else None,
    )


def _json(value: Any, ascii_only: bool) -> str:
    text = json.dumps(value, ensure_ascii=ascii_only)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _named(name: str, data: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(data or b"").decode()}


def _fragment(body: bytes | None, ascii_only: bool) -> str | None:
    """Body text, unchanged, where it is a JSON object or array that fits into a line. Its numbers are not converted."""
    if body is None or not body.startswith((b"{", b"[")) or not body.endswith((b"}", b"]")):
        return None
    try:
        text = body.decode("ascii" if ascii_only else "utf-8")
        parse_json(body, _INSIDE)
    except (UnicodeDecodeError, DecodeError):
        return None
    return None if _BREAKS.search(text) else text


def _headers_of(headers: Headers) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for name, value in headers:
        shown: Any = None
        if value is not None:
            try:
                shown = value.decode()
            except UnicodeDecodeError:
                shown = {"base64": b64encode(value).decode()}
        found.setdefault(name, []).append(shown)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _headers(value: dict[str, Any]) -> Headers:
    given = value.get("headers", {})
    if not isinstance(given, dict):
        raise DecodeError("headers must be an object")
    found = {
        name: [_header(each) for each in (values if isinstance(values, list) else [values])]
        for name, values in given.items()
    }
    order = value.get("header_order")
    if order is None:
        return tuple((name, each) for name, values in found.items() for each in values)
    names = sorted(name for name, values in found.items() for _ in values)
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order) or sorted(order) != names:
        raise DecodeError("header_order must be a list of the names in headers, each as often as it has values")
    following = {name: iter(values) for name, values in found.items()}
    return tuple((name, next(following[name])) for name in order)


def _header(value: Any) -> bytes | None:
    match value:
        case None:
            return None
        case str():
            return value.encode()
        case {"base64": text} if len(value) == 1:
            return _bytes(text, "base64 of a header")
    raise DecodeError('headers must be an object of texts, nulls, {"base64": ...}, or lists of these')


def _body(value: dict[str, Any], line: bytes) -> bytes | None:
    if "body_base64" in value:
        return _bytes(value["body_base64"], "body_base64")
    body = value["body"]
    return _encoded(body) if isinstance(body, str | None) else _member(line.decode(), "body").encode()


def _member(text: str, name: str) -> str:
    """Text of an object's member, as written; the last one of a repeated name. The object must be well-formed."""
    at = _past(text, text.index("{") + 1)
    found = ""
    while True:
        member, at = _DECODER.raw_decode(text, at)
        start = _past(text, _past(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        if member == name:
            found = text[start:at]
        at = _past(text, at)
        if text[at] == "}":
            return found
        at = _past(text, at + 1)


def _past(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _timestamp(value: Any) -> tuple[float | None, int | None]:
    """Timestamp in seconds since 1970, and in milliseconds where only these are exact."""
    if type(value) is int and -_LONG <= value < _LONG:
        return value / 1000, value
    if value is None:
        return None, None
    try:
        since = datetime.fromisoformat(value) - _EPOCH
        milliseconds, rest = divmod(since, timedelta(milliseconds=1))
        exact = rest or -EXACT_MS < milliseconds < EXACT_MS
        return since / timedelta(seconds=1), None if exact else milliseconds
    except (TypeError, ValueError, OverflowError):
        raise DecodeError("timestamp must be RFC 3339, or whole milliseconds since 1970 in 64 bits") from None


def _text(value: dict[str, Any], name: str) -> str | None:
    found = value.get(name)
    if not isinstance(found, str | None):
        raise DecodeError(f"{name} must be text")
    return found


def _bytes(value: Any, name: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise DecodeError(f"{name} is not valid base64") from None


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
