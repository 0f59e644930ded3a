"""Which message a command came from, and the envelope in which it travels through an engine. Pure.

Every start input, event and signal that the bridge gives to an engine is a JSON object with one key:

    {"bridge:message": {"v": 1, "id": "shop/42", "route": "start-order", "data": ...}}

`data` is what the rule made, `id` the message's identity, `route` the rule. `part` (absent: 0) counts the commands that
one rule made of one message, `traceparent` and `tracestate` are W3C trace context, `inbox` is what an inbox carries
from one generation of an orchestration to the next. Readers ignore fields they do not know; `v` grows when a reader of
this version could misread. docs/correlation.md describes the shape for workers in other languages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.envelope import Envelope
from bridge.errors import wire_name
from bridge.tracecontext import TraceContext, trace_context

KEY = "bridge:message"
"""The one key of an envelope. Data that happens to look like one is put into an envelope itself."""

VERSION = 1

_HEAD = f'"{KEY}"'
_WINDOW = len(_HEAD) + 40
"""Engines may write JSON anew, with white space; the key still is among the first characters."""


Key = tuple[str, str, int]
"""What makes two deliveries the same: message id, route, part."""


@dataclass(frozen=True, slots=True)
class MessageOrigin:
    """The message that a command came from.

    message_id: the message's identity, kept by redelivery and by replay of its dead letter. route: the rule that made
    the command. part: position among the commands that this rule made of this message (`for_each`), from 0; `-1 - part`
    for the start that a late event made necessary.
    traceparent, tracestate: W3C trace context of the message, None when it has none that is valid.
    """

    message_id: str
    route: str
    part: int = 0
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def key(self) -> Key:
        return (self.message_id, self.route, self.part)

    @property
    def trace(self) -> TraceContext | None:
        """Where the message stands in a trace; what an envelope brought is checked."""
        return trace_context({"traceparent": self.traceparent, "tracestate": self.tracestate})

    @classmethod
    def of(cls, envelope: Envelope, route: str, part: int = 0) -> MessageOrigin:
        """The header `traceparent` counts, which names the last hop; without it the CloudEvents extension does."""
        trace = trace_context(envelope.headers, envelope.extensions)
        if trace is None:
            return cls(envelope.message_id, route, part)
        return cls(envelope.message_id, route, part, trace.traceparent, trace.tracestate)


_OPENED = re.compile(rf"\s*\{{\s*{_HEAD}\s*:\s*\{{\s*")
_BETWEEN = re.compile(r"\s*[:,]\s*")
_DECODER = json.JSONDecoder()


class Wrapped(dict[str, Any]):
    """An envelope that this process made: never taken for data."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What was in an envelope; bare data has no origin."""

    data: Any
    origin: MessageOrigin | None = None
    inbox: Mapping[str, Any] | None = None


@wire_name("bridge.origin.UnknownEnvelope")
class UnknownEnvelope(ValueError):
    """The envelope is of another version; `check` raises it for a damaged one too."""


def wrap_payload(data: Any, origin: MessageOrigin | None, inbox: Mapping[str, Any] | None = None) -> Wrapped:
    """The envelope around `data`. Without an origin it only keeps data from being taken for an envelope."""
    inside: dict[str, Any] = {"v": VERSION}
    if origin is not None:
        inside["id"] = origin.message_id
        inside["route"] = origin.route
        if origin.part:
            inside["part"] = origin.part
        if origin.traceparent is not None:
            inside["traceparent"] = origin.traceparent
            if origin.tracestate is not None:
                inside["tracestate"] = origin.tracestate
    if inbox is not None:
        inside["inbox"] = inbox
    inside["data"] = data
    return Wrapped({KEY: inside})


def may_be_wrapped(text: str) -> bool:
    """Whether JSON text could be an envelope; never False for one."""
    return text.find(_HEAD, 0, _WINDOW) >= 0


def envelope_body(value: Any) -> dict[str, Any] | None:
    """The inside of an envelope, for `origin_of`, `key_of` and its `data`; None for anything else.

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
    """What a JSON value carries; anything that is no envelope is bare data. Raises: UnknownEnvelope."""
    inside = envelope_body(value)
    return Unwrapped(value) if inside is None else Unwrapped(inside.get("data"), origin_of(inside), inside.get("inbox"))


def check(value: Any) -> None:
    """Raises: UnknownEnvelope for an envelope that is read in another way than whoever wrote it can have meant."""
    inside = envelope_body(value)
    if inside is not None and inside.get("id") is not None and key_of(inside) is None:
        raise UnknownEnvelope("a message envelope whose id and route are not text, or whose part is no whole number")


def key_of(inside: Mapping[str, Any]) -> Key | None:
    """The message's key; None when the envelope has no message, or one that another client has damaged.

    That is no error: an orchestration that met it would fail, and meet it again whenever it is rewound.
    """
    message_id, route, part = inside.get("id"), inside.get("route"), inside.get("part", 0)
    if type(message_id) is not str or type(route) is not str or type(part) is not int:
        return None
    return message_id, route, part


def origin_of(inside: Mapping[str, Any]) -> MessageOrigin | None:
    """The message that an envelope is of, as `key_of` knows it."""
    key = key_of(inside)
    return None if key is None else MessageOrigin(*key, inside.get("traceparent"), inside.get("tracestate"))


def read_origin(text: str | None) -> Unwrapped:
    """The envelope around a JSON text without its data, which may be large and is not read; bare text has no origin.

    Cheaper than `unwrap` where the fields stand before the data, as the bridge writes them.
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
    """The fields that stand before the data; None when that may not be all that matter. Raises: ValueError."""
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
    """Behind a colon or comma and the white space around it."""
    found = _BETWEEN.match(text, position)
    if found is None:
        raise ValueError("not the beginning of an envelope")
    return found.end()
