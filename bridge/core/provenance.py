"""Provenance of a dead letter: cause and origin, as `bridge.*` headers. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b

from bridge.core.bytetext import own_text
from bridge.core.message import RESERVED_HEADER_PREFIX, Message, Position

REASON = RESERVED_HEADER_PREFIX + "reason"
DETAIL = RESERVED_HEADER_PREFIX + "detail"
ERROR = RESERVED_HEADER_PREFIX + "error"
CLUSTER = RESERVED_HEADER_PREFIX + "cluster"
TOPIC = RESERVED_HEADER_PREFIX + "topic"
PARTITION = RESERVED_HEADER_PREFIX + "partition"
OFFSET = RESERVED_HEADER_PREFIX + "offset"
LAST_OFFSET = RESERVED_HEADER_PREFIX + "last-offset"
"""Offset of the last record; only in the dead letter of a damaged batch."""
TIMESTAMP = RESERVED_HEADER_PREFIX + "timestamp"
MESSAGE_ID = RESERVED_HEADER_PREFIX + "message-id"
SOURCE = RESERVED_HEADER_PREFIX + "source"
ROUTE = RESERVED_HEADER_PREFIX + "route"
EXPRESSION = RESERVED_HEADER_PREFIX + "expression"
"""Place of the failed expression, like `route start-order, when`."""
FINGERPRINT = RESERVED_HEADER_PREFIX + "fingerprint"
"""Name of the cause, equal for dead letters that differ only in values."""
FIRST_FAILED_AT = RESERVED_HEADER_PREFIX + "first-failed-at"
"""Time of the first failure, RFC 3339; a replay that fails again keeps it."""
REPLAYS = RESERVED_HEADER_PREFIX + "replays"
"""Number of replays that failed again."""
JOB = RESERVED_HEADER_PREFIX + "job"
"""Id of the job that replayed the message last."""
EDITED_FROM = RESERVED_HEADER_PREFIX + "edited-from"
"""Id of the dead letter with the body before a person edited it."""
EXECUTED = RESERVED_HEADER_PREFIX + "executed"
ATTEMPTS = RESERVED_HEADER_PREFIX + "attempts"
DELIVERIES = RESERVED_HEADER_PREFIX + "deliveries"
CONFIG = RESERVED_HEADER_PREFIX + "config"
TRUNCATED = RESERVED_HEADER_PREFIX + "truncated"
"""Parts left out, separated by commas; only in a dead letter that was too large for its topic."""

TOMBSTONE = "tombstone without a key"
"""Part in TRUNCATED that stands for the missing body of a message without a key."""

ORIGIN = frozenset(
    {CLUSTER, TOPIC, PARTITION, OFFSET, LAST_OFFSET, TIMESTAMP, TRUNCATED, FIRST_FAILED_AT, JOB, EDITED_FROM}
)
ORIGIN_LIMIT = 1024
"""Bytes of the longest value that is kept as part of a first origin. No bridge has written a longer one."""

RENAMED_REASONS = {
    "parking_expired": "early_expired", "parking_full": "early_full", "parking_dropped": "early_dropped",
}  # fmt: skip
"""Reasons in the state of earlier versions, with the reasons that replace them. Headers of old dead letters stay."""


_VALUES = re.compile(
    r"'[^']*'|\"[^\"]*\""  # values; backquotes hold parts of the configuration
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"  # UUIDs
    r"|\b[0-9a-fA-F]{12,}\b"  # digests
    r"|[-+]?\d+(?:\.\d+)?"  # numbers
)
_DIGEST_BYTES = 6
_DIGITS = 6


def current_reason(word: str) -> str:
    """Reason of a stored dead letter, which an earlier version may have written."""
    return RENAMED_REASONS.get(word, word)


@dataclass(frozen=True, slots=True)
class Cause:
    """Cause of a dead letter.

    reason: stable word (`BridgeError.reason`).
    detail: a sentence without payload.
    error: class name.
    source: the source's name in the configuration.
    route: the route whose rule or command failed; None before routing.
    expression: place of the failed expression; empty for other errors.
    at: seconds since the Unix epoch of the failure; None if unknown.
    fingerprint: of the whole detail, if `detail` is a shortened one.
    executed: routes whose commands the engine has executed already; a replay skips them.
    attempts: attempts of the delivery.
    deliveries: number of deliveries of the message by the broker.
    config: version (content hash) of the configuration.
    message_id: the envelope's identity when decoding got that far; a replay keeps it.
    replayed: the message came from a source that trusts `bridge.*` headers, and its first origin is kept.
    """

    reason: str
    detail: str
    error: str
    source: str
    route: str | None = None
    executed: tuple[str, ...] = ()
    attempts: int = 1
    config: str = ""
    message_id: str | None = None
    replayed: bool = False
    deliveries: int = 1
    expression: str = ""
    at: float | None = None
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """Fingerprint of the cause."""
        return self.fingerprint or fingerprint(self.reason, self.route, self.error, self.detail)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Facts that a trusted replay source takes from a dead letter."""

    message_id: str | None
    executed: tuple[str, ...]


def dead_letter(message: Message, position: Position, cause: Cause) -> Message:
    """Make the dead letter of a message: same key, payload and headers, plus the cause.

    Older `bridge.*` headers are replaced: a replayed message that fails again has its last cause and its first origin.
    Headers from an untrusted source may be forged and are ignored.
    """
    kept = tuple((name, value) for name, value in message.headers if not name.startswith(RESERVED_HEADER_PREFIX))
    origin = {
        name: value
        for name, value in message.headers
        if cause.replayed and name in ORIGIN and value is not None and len(value) <= ORIGIN_LIMIT
    }
    texts: dict[str, str] = {
        REASON: cause.reason,
        DETAIL: cause.detail,
        ERROR: cause.error,
        CLUSTER: position.cluster,
        TOPIC: position.topic,
        PARTITION: str(position.partition),
        OFFSET: str(position.offset),
        SOURCE: cause.source,
        ATTEMPTS: str(cause.attempts),
        CONFIG: cause.config,
    }
    if message.unreadable is not None and message.unreadable.last is not None:
        texts[LAST_OFFSET] = str(message.unreadable.last)
    if message.timestamp is not None:
        texts[TIMESTAMP] = f"{message.timestamp:.3f}"
    if cause.message_id is not None:
        texts[MESSAGE_ID] = cause.message_id
    if cause.deliveries > 1:
        texts[DELIVERIES] = str(cause.deliveries)
    if cause.route is not None:
        texts[ROUTE] = cause.route
    if cause.expression:
        texts[EXPRESSION] = cause.expression
    texts[FINGERPRINT] = cause.name
    if cause.at is not None:
        texts[FIRST_FAILED_AT] = datetime.fromtimestamp(cause.at, UTC).isoformat(timespec="milliseconds")
    if replays := _replays(message) if cause.replayed else 0:
        texts[REPLAYS] = str(replays)
    if cause.executed:
        texts[EXECUTED] = ",".join(cause.executed)
    added = {name: text.encode("utf-8", "replace") for name, text in texts.items()} | origin
    # The dead letter is another message: duplicate detection must not mistake it for the original
    headers = kept + tuple(added.items())
    return replace(message, headers=headers, timestamp=None, timestamp_ms=None, message_id=None, unreadable=None)


def fingerprint(reason: str, route: str | None, error: str, detail: str) -> str:
    """Name of a cause: 12 hexadecimal digits, equal for dead letters that differ only in the values of their detail."""
    text = "\x1f".join((reason, route or "", error, general(detail)))
    return blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()


def general(detail: str) -> str:
    """Detail without its values: quoted texts, numbers, UUIDs and digests. Parts in backquotes are configuration."""
    return _VALUES.sub("…", detail)


def _replays(message: Message) -> int:
    """Number of replays of this message, including the present one; 0 for a message that is no dead letter."""
    found = dict(message.headers)
    if found.get(REASON) is None:
        return 0
    before = own_text(found.get(REPLAYS) or b"")
    return 1 + (int(before) if before.isascii() and before.isdigit() and len(before) <= _DIGITS else 0)


def read(message: Message) -> Provenance:
    """Read the provenance of a dead letter that a source marked `trusted: replay` receives."""
    found = {name: own_text(value) for name, value in message.headers if value is not None}
    executed = found.get(EXECUTED, "")
    return Provenance(found.get(MESSAGE_ID), tuple(executed.split(",")) if executed else ())
