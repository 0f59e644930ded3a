"""Facts of a dead letter, whichever program has written it. Pure.

| Format | Headers |
|---|---|
| `bridge` | `bridge.*`; on Service Bus the description of the dead letter, which its broker turns into these headers |
| `spring` | `kafka_dlt-*` (Spring for Apache Kafka, `KafkaHeaders`) |
| `connect` | `__connect.errors.*` (Kafka Connect, KIP-298) |
| `streams` | `__streams.errors.*` (Kafka Streams, KIP-1034) |
| `share_group` | `__dlq.errors.*` (share groups of Kafka, KIP-1191) |
| `servicebus` | `DeadLetterReason`, `DeadLetterErrorDescription` (Azure Service Bus) |
| `unknown` | none of these |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bridge.core import provenance
from bridge.core.bytetext import own_text
from bridge.core.message import Message, Position
from bridge.core.provenance import fingerprint

DeadLetterFormat = Literal["bridge", "spring", "connect", "streams", "share_group", "servicebus", "unknown"]

_SPRING = "kafka_dlt-"
_CONNECT = "__connect.errors."
_STREAMS = "__streams.errors."
_SHARE_GROUP = "__dlq.errors."
_REASON = "DeadLetterReason"
_DESCRIPTION = "DeadLetterErrorDescription"


_Given = tuple[Mapping[str, str], Message, Position]


@dataclass(frozen=True, slots=True)
class FailedPosition:
    """Place of the message that failed. Parts that the writer of the dead letter did not state are None."""

    topic: str | None = None
    partition: int | None = None
    offset: int | None = None

    def __str__(self) -> str:
        if self.topic is None:
            return ""
        return f"{self.topic}/{self.partition or 0}@{self.offset}" if self.offset is not None else self.topic


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    position: its own position in the dead-letter topic or sub-queue.
    reason: stable word of the bridge, or the foreign writer's class or reason.
    detail: sentence of the bridge without payload; empty for foreign formats, whose texts may contain payload.
    foreign_detail: text of a foreign format.
    failed_at: seconds since the Unix epoch at which the dead letter was written.
    expression: place of the failed expression; empty for other errors.
    replays: number of replays that failed again.
    stated_fingerprint: fingerprint in the headers; empty in dead letters of earlier versions.
    """

    position: Position
    format: DeadLetterFormat
    reason: str
    detail: str = ""
    error: str = ""
    source: str | None = None
    route: str | None = None
    executed: tuple[str, ...] = ()
    attempts: int | None = None
    config: str = ""
    message_id: str | None = None
    origin: FailedPosition = FailedPosition()
    failed_at: float | None = None
    foreign_detail: str = ""
    expression: str = ""
    replays: int = 0
    stated_fingerprint: str = ""

    @property
    def id(self) -> str:
        """Name of the dead letter for a person: its own position."""
        return f"{self.position.topic}/{self.position.partition}@{self.position.offset}"

    @property
    def fingerprint(self) -> str:
        """Name of the cause; see `bridge.core.provenance.fingerprint`."""
        return self.stated_fingerprint or fingerprint(self.reason, self.route, self.error, self.detail)


def read(message: Message, position: Position) -> DeadLetter:
    """Read the facts of a dead letter from its headers."""
    headers = {name: value for name, value in message.headers if value is not None}
    texts = {name: own_text(value) for name, value in headers.items()}
    given: _Given = (texts, message, position)
    if provenance.REASON in texts:
        return _own(texts, message, position)
    for name in headers:
        if name.startswith(_SPRING):
            return _spring(headers, texts, message, position)
        if name.startswith(_CONNECT):
            error, detail = (texts.get(_CONNECT + part, "") for part in ("exception.class.name", "exception.message"))
            return _kafka("connect", _CONNECT, error, texts.get(_CONNECT + "connector.name"), detail, given)
        if name.startswith(_STREAMS):
            error, detail = (texts.get(_STREAMS + part, "") for part in ("exception", "message"))
            return _kafka("streams", _STREAMS, error, None, detail, given)
        if name.startswith(_SHARE_GROUP):
            # The message is one of two sentences of the broker, without payload
            cause = texts.get(_SHARE_GROUP + "message", "").rstrip(".")
            found = _kafka("share_group", _SHARE_GROUP, cause, texts.get(_SHARE_GROUP + "group"), "", given)
            return replace(found, attempts=_number(texts.get(_SHARE_GROUP + "delivery.count")))
    if _REASON in texts or _DESCRIPTION in texts:
        reason = texts.get(_REASON) or "unknown"
        description = texts.get(_DESCRIPTION, "")
        return DeadLetter(position, "servicebus", reason, foreign_detail=description, failed_at=message.timestamp)
    return DeadLetter(position, "unknown", "unknown", failed_at=message.timestamp)


def _own(texts: Mapping[str, str], message: Message, position: Position) -> DeadLetter:
    executed, stated = texts.get(provenance.EXECUTED, ""), texts.get(provenance.FINGERPRINT, "")
    return DeadLetter(
        position,
        "bridge",
        provenance.current_reason(texts[provenance.REASON]),
        texts.get(provenance.DETAIL, ""),
        texts.get(provenance.ERROR, ""),
        texts.get(provenance.SOURCE),
        texts.get(provenance.ROUTE),
        tuple(executed.split(",")) if executed else (),
        _number(texts.get(provenance.ATTEMPTS)),
        texts.get(provenance.CONFIG, ""),
        texts.get(provenance.MESSAGE_ID),
        FailedPosition(
            texts.get(provenance.TOPIC),
            _number(texts.get(provenance.PARTITION)),
            _number(texts.get(provenance.OFFSET)),
        ),
        message.timestamp,
        expression=texts.get(provenance.EXPRESSION, ""),
        replays=_number(texts.get(provenance.REPLAYS)) or 0,
        stated_fingerprint=stated if re.fullmatch("[0-9a-f]{12}", stated) else "",
    )


def _spring(headers: Mapping[str, bytes], texts: Mapping[str, str], message: Message, position: Position) -> DeadLetter:
    # Spring writes partition and offset as big-endian integers of 4 and 8 bytes
    whole = {
        name: int.from_bytes(headers[_SPRING + name], "big")
        for name in ("original-partition", "original-offset")
        if len(headers.get(_SPRING + name, b"")) in (4, 8)
    }
    error = texts.get(_SPRING + "exception-cause-fqcn") or texts.get(_SPRING + "exception-fqcn", "")
    return DeadLetter(
        position,
        "spring",
        error.rpartition(".")[2] or "unknown",
        error=error,
        origin=FailedPosition(
            texts.get(_SPRING + "original-topic"), whole.get("original-partition"), whole.get("original-offset")
        ),
        failed_at=message.timestamp,
        foreign_detail=texts.get(_SPRING + "exception-message", ""),
    )


def _kafka(
    format_: DeadLetterFormat, prefix: str, error: str, route: str | None, detail: str, given: _Given
) -> DeadLetter:
    texts, message, position = given
    return DeadLetter(
        position,
        format_,
        error.rpartition(".")[2] or "unknown",
        error=error,
        route=route,
        origin=FailedPosition(
            texts.get(prefix + "topic"), _number(texts.get(prefix + "partition")), _number(texts.get(prefix + "offset"))
        ),
        failed_at=message.timestamp,
        foreign_detail=detail,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and len(text) <= 19 and re.fullmatch(r"-?[0-9]+", text) else None
