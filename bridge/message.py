"""A message as a broker carries it: raw bytes, headers, key, and where it stood."""

from __future__ import annotations

from bridge.record import record

EXACT_MS = 2**41
"""Milliseconds up to here (the year 2039) survive as seconds in a float, to the microsecond."""

Headers = tuple[tuple[str, bytes | None], ...]
"""Headers in the broker's order; a name may occur more than once. A value of None is a null of the broker: whoever
interprets headers treats it as an absent header, whoever copies a message keeps it."""

RESERVED_HEADER_PREFIX = "bridge."
"""Headers below this prefix are ours; on an incoming message they are ignored unless the source is trusted."""


@record(frozen=True, slots=True)
class Unreadable:
    """Why the broker's client library cannot parse a message, and how far the damage reaches.

    fault: stable snake_case word (`crc`, `codec`, `inflated_size`, `header_name`, `amqp_value`, ...), for metrics.
    detail: sentence for a person that names the fault and holds no payload.
    key_known: `Message.key` is the message's own key, None meaning that it has none. False: the key cannot be read.
    last: offset of the last record of a damaged batch, which is one delivery; None when one message is damaged.
    """

    fault: str
    detail: str
    key_known: bool = False
    last: int | None = None


@record(frozen=True, slots=True)
class Message:
    """One message, undecoded. The same shape is received and published.

    body: None is a tombstone (a Kafka record with a null value), which is not the same as an empty body.
    key: the broker's ordering or compaction key (Kafka key, Service Bus session id), None when there is none.
    timestamp: the broker's time for the message in seconds since the epoch, None when unknown or to be set.
    message_id: the broker's own message id where the broker has one (Service Bus), else None.
    content_type: the broker's content-type property where it has one; else taken from the header `content-type`.
    What follows is for publishing, on brokers that can do it (Service Bus): partition_key: keeps messages without a key
    together. enqueue_at: seconds since the epoch before which nobody receives it. time_to_live: seconds after which
    nobody does.
    timestamp_ms: the same time in milliseconds, where the broker counts those and seconds as a float are not exact.
    unreadable: set when the message cannot be parsed. `body` then holds the raw bytes of the damaged part, or None
    where they cannot be had; key and headers hold what could be read.
    native: for copies, of a message that was read without being consumed: the broker's own encoded form, where the
    fields above do not tell all of it. Only a broker of the same kind reads it; the fields above go before it.
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
        """The timestamp in whole milliseconds."""
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
    """Where a message stands in its broker.

    cluster: stable identity of the cluster or namespace, so that a mirrored topic does not collide.
    topic: topic or entity path. partition: 0 where the broker has none. offset: offset or sequence number.
    """

    cluster: str
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.cluster}/{self.topic}/{self.partition}@{self.offset}"
