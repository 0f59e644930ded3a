"""Counters of server events, for assertions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DeadLetter:
    """Recorded dead-lettering. entity: path of the queue or subscription that dead-lettered the message."""

    entity: str
    message_id: str
    sequence_number: int
    delivery_count: int
    reason: str | None
    description: str | None


@dataclass
class Counters:
    """Counts since the server was created; keyed counters use paths in lower case."""

    connections: int = 0
    idle_frames: int = 0
    """Empty frames from clients."""
    attaches: Counter[str] = field(default_factory=Counter)
    refused_attaches: Counter[str] = field(default_factory=Counter)
    detaches: Counter[str] = field(default_factory=Counter)
    """Links that the server detached."""
    claims: int = 0
    refused_claims: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    """Stored messages, by the entity to which they were sent."""
    duplicates: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    """Settled messages by `path outcome`: complete, abandon, defer, dead_letter, release."""
    lost_settlements: Counter[str] = field(default_factory=Counter)
    """Settlements of messages whose lock was lost."""
    expired_locks: Counter[str] = field(default_factory=Counter)
    expired_session_locks: Counter[str] = field(default_factory=Counter)
    expired_messages: Counter[str] = field(default_factory=Counter)
    renewed_locks: Counter[str] = field(default_factory=Counter)
    renewed_sessions: Counter[str] = field(default_factory=Counter)
    granted_sessions: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    """Requests at $management, by operation."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    """Reasons for closing connections that sent invalid AMQP."""
    crashes: list[str] = field(default_factory=list)
    """Internal errors of the server; an entry is a bug of the server."""

    def outcome(self, path: str, name: str) -> int:
        """Return the number of messages of `path` with this outcome."""
        return self.settled[f"{path.lower()} {name}"]

    def to_json(self) -> dict[str, Any]:
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        return plain | {"dead_letters": [asdict(dead_letter) for dead_letter in self.dead_letters]}
