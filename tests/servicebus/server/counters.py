"""What happened, for assertions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class DeadLetter:
    """entity: the path of the queue or subscription whose dead letter it became."""

    entity: str
    message_id: str
    sequence_number: int
    delivery_count: int
    reason: str | None
    description: str | None


@dataclass
class Counters:
    """Counted since the server was made; keys of the counters that have some are paths in lower case."""

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
    """Messages stored, by the entity they were sent to."""
    duplicates: Counter[str] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    """Keys are `path outcome`: complete, abandon, defer, dead_letter, release."""
    lost_settlements: Counter[str] = field(default_factory=Counter)
    """Settlements of messages whose lock was gone."""
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
    """Why connections were closed for bytes that were not AMQP."""
    crashes: list[str] = field(default_factory=list)
    """Errors in the server itself: always empty, or the server has a bug."""

    def outcome(self, path: str, name: str) -> int:
        """How many messages of `path` were settled so."""
        return self.settled[f"{path.lower()} {name}"]

    def to_json(self) -> dict[str, Any]:
        plain = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        return plain | {"dead_letters": [asdict(letter) for letter in self.dead_letters]}
