"""Which message a command came from, and the envelope in which it travels through an engine. Pure.

Every start input, event and signal that the bridge gives to an engine is a JSON object with one key:

    {"bridge:message": {"v": 1, "id": "shop/42", "route": "start-order", "data": ...}}

`data` is what the rule made, `id` the message's identity, `route` the rule. `part` (absent: 0) counts the commands that
one rule made of one message, `traceparent` and `tracestate` are W3C trace context, `inbox` is what an inbox carries
from one generation of an orchestration to the next. Readers ignore fields they do not know; `v` grows when a reader of
this version could misread. docs/correlation.md describes the shape for workers in other languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.envelope import Envelope
from bridge.tracecontext import TraceContext, trace_context

KEY = "bridge:message"
"""The one key of an envelope. Data that happens to look like one is put into an envelope itself."""

VERSION = 1

_HEAD = f'"{KEY}"'
_WINDOW = len(_HEAD) + 40
"""Engines may write JSON anew, with white space; the key still is among the first characters."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The message that a command came from.

    message_id: the message's identity, kept by redelivery and by replay of its dead letter. route: the rule that made
    the command. part: position among the commands that this rule made of this message (`for_each`), from 0.
    traceparent, tracestate: W3C trace context of the message, None when it has none that is valid.
    """

    message_id: str
    route: str
    part: int = 0
    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two deliveries the same to whoever drops repeats."""
        return (self.message_id, self.route, self.part)

    @property
    def trace(self) -> TraceContext | None:
        """Where the message stands in a trace; what an envelope brought is checked."""
        return trace_context({"traceparent": self.traceparent, "tracestate": self.tracestate})

    @classmethod
    def of(cls, envelope: Envelope, route: str, part: int = 0) -> Origin:
        """The header `traceparent` counts, which names the last hop; without it the CloudEvents extension does."""
        trace = trace_context(envelope.headers, envelope.extensions)
        if trace is None:
            return cls(envelope.message_id, route, part)
        return cls(envelope.message_id, route, part, trace.traceparent, trace.tracestate)


class Wrapped(dict[str, Any]):
    """An envelope that this process made: never taken for data."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """What was in an envelope; bare data has no origin."""

    data: Any
    origin: Origin | None = None
    inbox: Mapping[str, Any] | None = None


class UnknownEnvelope(ValueError):
    """The envelope is of a later version, or damaged."""


def wrap(data: Any, origin: Origin | None, inbox: Mapping[str, Any] | None = None) -> Wrapped:
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


def unwrap(value: Any) -> Parcel:
    """What a JSON value carries; anything that is no envelope is bare data. Raises: UnknownEnvelope."""
    if not isinstance(value, dict) or len(value) != 1:
        return Parcel(value)
    inside = value.get(KEY)
    if not isinstance(inside, dict) or not isinstance(inside.get("v"), int):
        return Parcel(value)
    if inside["v"] != VERSION:
        raise UnknownEnvelope(f"a message envelope of version {inside['v']}; this bridge reads version {VERSION}")
    return Parcel(inside.get("data"), origin_of(inside), inside.get("inbox"))


def origin_of(inside: Mapping[str, Any]) -> Origin | None:
    """The origin that the inside of an envelope names. Raises: UnknownEnvelope."""
    message_id, route = inside.get("id"), inside.get("route")
    if message_id is None:
        return None
    part = inside.get("part", 0)
    if not isinstance(message_id, str) or not isinstance(route, str) or not isinstance(part, int):
        raise UnknownEnvelope("a message envelope without a message id and a route")
    return Origin(message_id, route, part, inside.get("traceparent"), inside.get("tracestate"))
