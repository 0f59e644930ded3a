"""Decoded message, with the attribute names of CloudEvents 1.0 (https://cloudevents.io, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from bridge.core.message import Message, Position
from bridge.core.record import record


@record(frozen=True, slots=True)
class Envelope:
    """Decoded message, as rules see it.

    message_id: identity by which effects are deduplicated: the source's `identity:` when it has one, else CloudEvents
    `source` + `id`, else cluster/topic/the broker's message id, else cluster/topic/partition/offset.
    data: decoded payload: JSON types for JSON codecs, `bytes` or `str` for raw ones, None for a tombstone.
    headers, key: text, as `bridge.core.bytetext` makes it; the last value of a repeated header name wins.
    message: the message itself, for its raw bytes; None in tests that need none.
    """

    message_id: str
    id: str
    source: str
    type: str
    data: Any
    position: Position
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    timestamp: float | None = None
    message: Message | None = field(default=None, compare=False, repr=False)


@record(frozen=True, slots=True)
class Event:
    """Publication of a workflow, before a codec turns it into a message.

    id: made in the orchestrator (`ctx.new_uuid()`), which gives a repeated publish the same id.
    key: ordering key for the broker; None: the broker chooses the partition.
    extensions: CloudEvents extension attributes.
    """

    id: str
    source: str
    type: str
    data: Any = None
    subject: str | None = None
    time: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
