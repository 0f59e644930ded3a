"""Origin of a command (its message), and the envelope that carries it through an engine. Pure.

Every start input, event and signal that the bridge gives to an engine is a JSON object with one key:

    {"bridge:message": {"v": 1, "id": "shop/42", "route": "start-order", "data": ...}}

`data` is the rule's result, `id` the message's identity, `route` the rule. `part` (absent: 0) counts the commands that
one rule made of one message. `position` (optional) is the message's place in its broker. `traceparent` and `tracestate`
are W3C trace context. `inbox` is the state of an inbox, carried from one execution of an orchestration to the next.
Readers ignore fields they do not know; `v` grows when a reader of this version could misread. docs/correlation.md
describes the shape for workers in other languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.core.errors import wire_name
from bridge.core.message import Envelope
from bridge.core.trace_context import TraceContext, trace_context

KEY = "bridge:message"
"""Only key of an envelope. Data of the same shape is itself put into an envelope."""

VERSION = 1

_HEAD = f'"{KEY}"'
_WINDOW = len(_HEAD) + 40
"""Number of first characters that are searched for the key: engines may reformat JSON with white space."""


CommandKey = tuple[str, str, int]
"""Identity of a command: message id, route, part. Deliveries with the same key are duplicates."""


@dataclass(frozen=True, slots=True)
class MessageOrigin:
    """Origin of a command: the message that a rule made it of.

    message_id: the message's identity, kept by redelivery and by replay of its dead letter.
    route: the rule that made the command.
    part: position among the commands that this rule made of this message (`for_each`), from 0; `-1 - part` for the
    start that a late event made necessary.
    traceparent, tracestate: W3C trace context of the message; None when it has no valid one.
    position: text of the message's `Position`; None when no broker has it. A redelivery may have another one.
    """

    message_id: str
    route: str
    part: int = 0
    traceparent: str | None = None
    tracestate: str | None = None
    position: str | None = field(default=None, compare=False)

    @property
    def key(self) -> CommandKey:
        return (self.message_id, self.route, self.part)

    @property
    def trace(self) -> TraceContext | None:
        """Validated trace context of the message; None when it has no valid one."""
        return trace_context({"traceparent": self.traceparent, "tracestate": self.tracestate})

    @classmethod
    def of(cls, envelope: Envelope, route: str, part: int = 0) -> MessageOrigin:
        """Origin of a message. The header `traceparent` names the last hop and wins over the CloudEvents extension."""
        trace = trace_context(envelope.headers, envelope.extensions)
        position = str(envelope.position)
        if trace is None:
            return cls(envelope.message_id, route, part, position=position)
        return cls(envelope.message_id, route, part, trace.traceparent, trace.tracestate, position)


_OPENED = re.compile(rf"\s*\{{\s*{_HEAD}\s*:\s*\{{\s*")
_MEMBER = r'"{}"\s*:\s*"([^"\\]*)"\s*,\s*'
_IDS = re.compile(
    rf'{_OPENED.pattern}"v"\s*:\s*{VERSION}\s*,\s*{_MEMBER.format("id")}{_MEMBER.format("route")}'
    rf'(?:"part"\s*:\s*-?[0-9]+\s*,\s*)?(?:{_MEMBER.format("position")})?'
)
"""Beginning of an envelope as the bridge writes it: its id, route and position."""

_PARTS = 8
"""Most slashes of an identity or position after which a search begins."""
_BETWEEN = re.compile(r"\s*[:,]\s*")
_DECODER = json.JSONDecoder()


class Wrapped(dict[str, Any]):
    """Envelope made by this process: never mistaken for data."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """Content of an envelope. Bare data has no origin."""

    data: Any
    origin: MessageOrigin | None = None
    inbox: Mapping[str, Any] | None = None


@wire_name("bridge.origin.UnknownEnvelope")
class UnknownEnvelope(ValueError):
    """Raised for an envelope of another version; by `check` also for a damaged one."""


def wrap_payload(data: Any, origin: MessageOrigin | None, inbox: Mapping[str, Any] | None = None) -> Wrapped:
    """Put `data` into an envelope. Without an origin, the envelope only keeps data from being read as an envelope."""
    inside: dict[str, Any] = {"v": VERSION}
    if origin is not None:
        inside["id"] = origin.message_id
        inside["route"] = origin.route
        if origin.part:
            inside["part"] = origin.part
        if origin.position is not None:
            inside["position"] = origin.position
        if origin.traceparent is not None:
            inside["traceparent"] = origin.traceparent
            if origin.tracestate is not None:
                inside["tracestate"] = origin.tracestate
    if inbox is not None:
        inside["inbox"] = inbox
    inside["data"] = data
    return Wrapped({KEY: inside})


def may_be_wrapped(text: str) -> bool:
    """True when JSON text could be an envelope. Never False for an envelope."""
    return text.find(_HEAD, 0, _WINDOW) >= 0


def envelope_body(value: Any) -> dict[str, Any] | None:
    """Body of an envelope, for `origin_of`, `key_of` and its `data`; None for any other value.

    Raises: UnknownEnvelope.
    """
    if not isinstance(value, dict) or len(value) != 1:
        return None
    inside = value.get(KEY)
    if not isinstance(inside, dict) or not isinstance(inside.get("v"), int):
        return None
    if inside["v"] != VERSION:
        raise UnknownEnvelope(f"a message envelope of version {inside['v']}; this bridge reads version {VERSION}")
    return inside


def unwrap(value: Any) -> Unwrapped:
    """Content of a JSON value. A value that is no envelope is bare data. Raises: UnknownEnvelope."""
    inside = envelope_body(value)
    return Unwrapped(value) if inside is None else Unwrapped(inside.get("data"), origin_of(inside), inside.get("inbox"))


def check(value: Any) -> None:
    """Refuse an envelope whose id, route or part has the wrong type. Raises: UnknownEnvelope."""
    inside = envelope_body(value)
    if inside is not None and inside.get("id") is not None and key_of(inside) is None:
        raise UnknownEnvelope(
            "a message envelope with an id or route that is not text, or a part that is not a whole number"
        )


def key_of(inside: Mapping[str, Any]) -> CommandKey | None:
    """Key of the message in an envelope; None when the envelope has no message, or was damaged by another client.

    A damaged envelope is no error: an orchestration would fail on it, and again after every rewind.
    """
    message_id, route, part = inside.get("id"), inside.get("route"), inside.get("part", 0)
    if type(message_id) is not str or type(route) is not str or type(part) is not int:
        return None
    return message_id, route, part


def origin_of(inside: Mapping[str, Any]) -> MessageOrigin | None:
    """Origin in an envelope; None where `key_of` is None."""
    key = key_of(inside)
    if key is None:
        return None
    position = inside.get("position")
    return MessageOrigin(
        *key, inside.get("traceparent"), inside.get("tracestate"), position if type(position) is str else None
    )


def read_origin(text: str | None) -> Unwrapped:
    """Origin and inbox of the envelope in a JSON text, without its data. Text without an envelope has no origin.

    Large data is not parsed where the fields precede it, as the bridge writes them: cheaper than `unwrap`.
    """
    if not text or not may_be_wrapped(text):
        return Unwrapped(None)
    try:
        inside = _fields(text)
        if inside is None:
            inside = envelope_body(json.loads(text))
        return Unwrapped(None) if inside is None else Unwrapped(None, origin_of(inside), inside.get("inbox"))
    except (ValueError, RecursionError):
        return Unwrapped(None)


def _fields(text: str) -> dict[str, Any] | None:
    """Fields before the data; None when these may be incomplete. Raises: ValueError."""
    opened = _OPENED.match(text)
    if opened is None:
        return None
    inside: dict[str, Any] = {}
    position = opened.end()
    while True:
        name, position = _DECODER.raw_decode(text, position)
        position = _past(text, position)
        if name == "data":
            return inside if inside.get("v") == VERSION and "id" in inside else None
        inside[name], position = _DECODER.raw_decode(text, position)
        position = _past(text, position)


def _past(text: str, position: int) -> int:
    """Position behind a colon or comma and its surrounding white space. Raises: ValueError."""
    found = _BETWEEN.match(text, position)
    if found is None:
        raise ValueError("not the beginning of an envelope")
    return found.end()


def ids_of(text: str) -> tuple[str, str | None] | None:
    """Message id and position in the envelope of a JSON text; None for text without an envelope.

    Faster than `read_origin`.
    """
    if not may_be_wrapped(text):
        return None
    found = _IDS.match(text)
    if found is not None:
        return found[1], found[3]
    origin = read_origin(text).origin
    return None if origin is None else (origin.message_id, origin.position)


def index_ids(message_id: str | None, position: str | None) -> tuple[str, ...]:
    """Texts under which an index lists a message: its event id, and its position without the cluster.

    `search_ids` makes them from the text of a person.
    """
    if position is None:
        return () if message_id is None else (event_id(message_id, None),)
    place = position[position.find("/") + 1 :]
    if message_id is None or message_id == position:
        return (place,)
    return place, event_id(message_id, position)


def event_id(message_id: str, position: str | None) -> str:
    """Id in an identity: that of the CloudEvent (`SOURCE ID`), or the broker's own (`CLUSTER/TOPIC/ID`)."""
    if position is not None:
        place = position[: position.rfind("/") + 1]
        if message_id.startswith(place):
            return message_id[len(place) :]
    return message_id.rpartition(" ")[2]


def search_ids(wanted: str) -> set[str]:
    """Texts under which an index may list what a person names: an identity, an event id, or a position."""
    found = {wanted, wanted.rpartition(" ")[2]}
    rest = wanted
    for _ in range(_PARTS):
        _, slash, rest = rest.partition("/")
        if slash:
            found.add(rest)
    return found - {""}


def is_named(message_id: str | None, position: str | None, wanted: str) -> bool:
    """True when a person who names `wanted` means this message: by its identity, its event id, or its position."""
    if position is not None and wanted in (position, position.partition("/")[2]):
        return True
    return message_id is not None and wanted in (message_id, event_id(message_id, position))


class MessageTrace:
    """Span of one delivery. It exists even if it is not sampled: later spans keep the decision.

    traceparent, tracestate: context for the commands of the message.
    parent: the span's parent. linked: message whose trace it does not continue.
    """

    __slots__ = ("is_sampled", "linked", "parent", "span_id", "trace_id", "traceparent", "tracestate")

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        is_sampled: bool,
        parent: TraceContext | None = None,
        linked: TraceContext | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled
        self.parent = parent
        self.linked = linked
        self.traceparent = f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}"
        self.tracestate = None if parent is None else parent.tracestate

    def origin(self, envelope: Envelope, route: str, part: int) -> MessageOrigin:
        """Origin of a command of the message: within the span."""
        position = str(envelope.position)
        return MessageOrigin(envelope.message_id, route, part, self.traceparent, self.tracestate, position)
