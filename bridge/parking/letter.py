"""A message as JSON, with all that its dead letter will tell."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from bridge.message import Message, Position, Unreadable
from bridge.provenance import Cause


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that left its broker and waits on an engine.

    broker: name of its broker in the configuration. dead_letter_topic: where it goes when it cannot be delivered.
    source, config, message_id, executed, replayed: as in `bridge.provenance.Cause`.
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

    def to_json(self) -> dict[str, Any]:
        message, position = self.message, self.position
        told: dict[str, Any] = {
            "at": [position.cluster, position.topic, position.partition, position.offset],
            "broker": self.broker,
            "topic": self.dead_letter_topic,
            "source": self.source,
            "config": self.config,
        }
        if message.body is not None:
            told["body"] = _pack(message.body)
        if message.key is not None:
            told["key"] = _pack(message.key)
        if message.headers:
            told["headers"] = [[name, None if value is None else _pack(value)] for name, value in message.headers]
        if (unreadable := message.unreadable) is not None:
            told["unreadable"] = [unreadable.fault, unreadable.detail, unreadable.key_known, unreadable.last]
        more = {
            "timestamp": message.timestamp,
            "broker_id": message.message_id,
            "content_type": message.content_type,
            "id": self.message_id,
            "executed": list(self.executed) or None,
            "replayed": self.replayed or None,
        }
        return told | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Letter:
        message = Message(
            _unpack(told["body"]) if "body" in told else None,
            _unpack(told["key"]) if "key" in told else None,
            tuple((name, None if value is None else _unpack(value)) for name, value in told.get("headers", ())),
            told.get("timestamp"),
            told.get("broker_id"),
            told.get("content_type"),
            unreadable=Unreadable(*told["unreadable"]) if "unreadable" in told else None,
        )
        return cls(
            message,
            Position(*told["at"]),
            told["broker"],
            told["topic"],
            told["source"],
            told.get("id"),
            told["config"],
            tuple(told.get("executed", ())),
            told.get("replayed", False),
        )

    def cause(self, reason: str, detail: str, error: str, route: str | None, attempts: int) -> Cause:
        """The cause of its dead letter."""
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


def _pack(value: bytes) -> str | list[str]:
    """Text as it is, anything else as base64 in a list of one."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(value).decode()]


def _unpack(value: str | list[str]) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value[0])
