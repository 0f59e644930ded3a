"""Message outside its broker, as JSON with the facts of its dead letter, and results of operations on such messages."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.core.commands import Command
from bridge.core.message import Envelope, Message, Position, Unreadable
from bridge.core.origin import MessageOrigin
from bridge.core.provenance import Cause

REMEMBERED_REFUSALS = 100
"""Messages that left a queue of stored messages undelivered, and that its state still shows: the latest ones."""


@dataclass(frozen=True, slots=True)
class ReplayOf:
    """Dead letter that a job replays as a message.

    engine: name of the engine that runs the job.
    job, page, item: its place in the job. The item is the id of the dead letter in the job.
    broker: name of the broker that has the dead letter.
    place: position of the dead letter: topic, partition, offset.
    cause: fingerprint of the dead letter.
    """

    engine: str
    job: str
    page: int
    item: str
    broker: str
    place: tuple[str, int, int]
    cause: str = ""

    def to_json(self) -> list[Any]:
        return [self.engine, self.job, self.page, self.item, self.broker, *self.place, self.cause]

    @classmethod
    def of(cls, stored: Sequence[Any]) -> ReplayOf:
        engine, job, page, item, broker, topic, partition, offset, cause = stored
        return cls(engine, job, page, item, broker, (topic, partition, offset), cause)

    @classmethod
    def of_item(cls, item: Mapping[str, Any]) -> ReplayOf | None:
        """Dead letter behind a waiting message, also an encrypted one; None for an ordinary message."""
        document = item.get("letter", {})
        stored = document.get("of", document).get("replay")
        return None if stored is None else cls.of(stored)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """Message that left its broker and waits on an engine.

    broker: name of its broker in the configuration.
    dead_letter_topic: topic of its dead letter when it cannot be delivered.
    source, config, message_id, executed, replayed: as in `bridge.core.provenance.Cause`.
    replay: dead letter that a job replays as this message.
    """

    message: Message
    position: Position
    broker: str
    dead_letter_topic: str
    source: str
    message_id: str | None = None
    config: str = ""
    executed: tuple[str, ...] = ()
    replayed: bool = False
    replay: ReplayOf | None = None

    def to_json(self) -> dict[str, Any]:
        message, position = self.message, self.position
        document: dict[str, Any] = {
            "at": [position.cluster, position.topic, position.partition, position.offset],
            "broker": self.broker,
            "topic": self.dead_letter_topic,
            "source": self.source,
            "config": self.config,
        }
        if message.body is not None:
            document["body"] = _pack(message.body)
        if message.key is not None:
            document["key"] = _pack(message.key)
        if message.headers:
            document["headers"] = [[name, None if value is None else _pack(value)] for name, value in message.headers]
        if (unreadable := message.unreadable) is not None:
            document["unreadable"] = [unreadable.fault, unreadable.detail, unreadable.key_known, unreadable.last]
        more = {
            "timestamp": message.timestamp,
            "broker_id": message.message_id,
            "content_type": message.content_type,
            "id": self.message_id,
            "executed": list(self.executed) or None,
            "replayed": self.replayed or None,
            "replay": self.replay and self.replay.to_json(),
        }
        return document | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> StoredMessage:
        message = Message(
            _unpack(document["body"]) if "body" in document else None,
            _unpack(document["key"]) if "key" in document else None,
            tuple((name, None if value is None else _unpack(value)) for name, value in document.get("headers", ())),
            document.get("timestamp"),
            document.get("broker_id"),
            document.get("content_type"),
            unreadable=Unreadable(*document["unreadable"]) if "unreadable" in document else None,
        )
        return cls(
            message,
            Position(*document["at"]),
            document["broker"],
            document["topic"],
            document["source"],
            document.get("id"),
            document["config"],
            tuple(document.get("executed", ())),
            document.get("replayed", False),
            ReplayOf.of(document["replay"]) if "replay" in document else None,
        )

    def identified(self, envelope: Envelope) -> Envelope:
        """Envelope of this message, with the identity that it had before it became a dead letter."""
        if not self.replayed or self.message_id is None:
            return envelope
        return replace(envelope, message_id=self.message_id)

    def with_executed(self, routes: tuple[str, ...]) -> StoredMessage:
        """Copy with the routes executed so far."""
        return replace(self, executed=routes)

    def cause(self, reason: str, detail: str, error: str, route: str | None, attempts: int) -> Cause:
        """Cause of the message's dead letter."""
        return Cause(
            reason,
            detail,
            error,
            self.source,
            route,
            self.executed,
            attempts,
            self.config,
            self.message_id,
            self.replayed,
        )


StoreEarly = Callable[[Command, MessageOrigin, StoredMessage, float], Awaitable[None]]
"""Callback that keeps a command durably on its engine until its instance starts, for at most the given seconds.

Raises: EngineError, InvalidCommand.
"""


@dataclass(frozen=True, slots=True)
class UndeliveredMessage:
    """Stored message that could not be delivered, with the cause of the dead letter that is to be written.

    item: JSON that has the message as its member `letter`.
    """

    item: dict[str, Any]
    reason: str
    detail: str
    error: str
    attempts: int = 1


@dataclass
class OperationResult:
    """Result of an operation on stored messages, beside their new state.

    events: events to count.
    undelivered: dead letters to be written.
    ended: items that left without a dead letter, each with a result of `bridge.jobs.kind` and its detail.
    wake: time of the next timer, seconds since the Unix epoch; None when an earlier one is planned.
    """

    events: list[str] = field(default_factory=list)
    undelivered: list[UndeliveredMessage] = field(default_factory=list)
    ended: list[tuple[dict[str, Any], str, str]] = field(default_factory=list)
    wake: float | None = None

    def refuse(self, item: dict[str, Any], reason: str, detail: str, error: str, attempts: int = 1) -> None:
        """Dead-letter a message."""
        self.undelivered.append(UndeliveredMessage(item, reason, detail, error, attempts))

    def end(self, item: dict[str, Any], result: str, detail: str = "") -> None:
        """Report the result of a message to the job that replays it, if there is one."""
        self.ended.append((item, result, detail))

    def wake_at(self, at: float) -> None:
        """Plan a timer."""
        self.wake = at


def _pack(value: bytes) -> str | list[str]:
    """Text as it is; other bytes as base64 in a list of one."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(value).decode()]


def _unpack(value: str | list[str]) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value[0])
