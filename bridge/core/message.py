"""Message as a broker carries it (raw bytes, headers, key, position), and as rules see it: decoded, an envelope.

An envelope has the attribute names of CloudEvents 1.0 (https://cloudevents.io, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from bridge.core.record import record

EXACT_MS = 2**41
"""Limit in milliseconds (the year 2039) below which a float of seconds is exact to the microsecond."""

Headers = tuple[tuple[str, bytes | None], ...]
"""Headers in the broker's order; a name may occur more than once.

None is a null of the broker: interpretation treats it as an absent header, a copy of the message keeps it.
"""

RESERVED_HEADER_PREFIX = "bridge."
"""Prefix of the bridge's headers. On an incoming message they are ignored unless the source is trusted."""


@record(frozen=True, slots=True)
class Unreadable:
    """Reason why the broker's client library cannot parse a message, and the extent of the damage.

    fault: stable snake_case word (`crc`, `codec`, `inflated_size`, `header_name`, `amqp_value`, ...), for metrics.
    detail: sentence for a person that names the fault and contains no payload.
    key_known: `Message.key` is the message's own key, None meaning that it has none. False: the key cannot be read.
    last: offset of the last record of a damaged batch, which is one delivery; None when one message is damaged.
    """

    fault: str
    detail: str
    key_known: bool = False
    last: int | None = None


@record(frozen=True, slots=True)
class Message:
    """One message, undecoded. Received and published messages have the same form.

    body: None is a tombstone (a Kafka record with a null value), which is not the same as an empty body.
    key: the broker's ordering or compaction key (Kafka key, Service Bus session id); None when there is none.
    timestamp: the broker's time for the message in seconds since the Unix epoch; None when unknown or to be set.
    message_id: the broker's own message id where the broker has one (Service Bus), else None.
    content_type: the broker's content-type property where it has one, else the header `content-type`.
    partition_key: published messages without a key and with the same partition_key stay together (Service Bus).
    enqueue_at: seconds since the Unix epoch before which no receiver gets the published message (Service Bus).
    time_to_live: seconds after which no receiver gets the published message (Service Bus).
    timestamp_ms: the timestamp in milliseconds, where the broker counts these and a float of seconds is not exact.
    unreadable: set when the message cannot be parsed. `body` is the raw bytes of the damaged part then, or None where
    they are not available; key and headers contain what could be read.
    native: the broker's own encoded form of a message that was read without being consumed, for copies, where the
    fields above lack a part of it. Only a broker of the same kind reads it. The fields above take precedence.
    """

    body: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    timestamp: float | None = None
    message_id: str | None = None
    content_type: str | None = None
    partition_key: str | None = None
    enqueue_at: float | None = None
    time_to_live: float | None = None
    unreadable: Unreadable | None = None
    timestamp_ms: int | None = None
    native: bytes | None = None

    @property
    def milliseconds(self) -> int | None:
        """Timestamp in whole milliseconds."""
        if self.timestamp_ms is not None or self.timestamp is None:
            return self.timestamp_ms
        return round(self.timestamp * 1000)

    @property
    def size(self) -> int:
        """Bytes of body, key and headers."""
        size = len(self.body or b"") + len(self.key or b"")
        for name, value in self.headers:
            size += len(name) + len(value or b"")
        return size


@record(frozen=True, slots=True)
class Position:
    """Position of a message in its broker.

    cluster: stable identity of the cluster or namespace: mirrored topics do not collide.
    topic: topic or entity path.
    partition: 0 where the broker has none.
    offset: offset or sequence number.
    """

    cluster: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.cluster}/{self.topic}/{self.partition}@{self.offset}"


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
