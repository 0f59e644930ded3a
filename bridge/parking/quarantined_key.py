"""Read form of a quarantined key."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from bridge.parking.stored_message import StoredMessage


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """One quarantined message.

    mark: its delivery id.
    since: time of its quarantine, seconds since the Unix epoch.
    attempts: number of attempts.
    failed: seconds from its first failure to its quarantine.
    """

    mark: str
    letter: StoredMessage
    since: float
    attempts: int
    failed: float

    @classmethod
    def of(cls, document: dict[str, Any]) -> QuarantinedMessage:
        return cls(
            document["mark"],
            StoredMessage.from_json(document["letter"]),
            document["since"],
            document.get("attempts", 1),
            document.get("failed", 0.0),
        )


@dataclass(frozen=True, slots=True)
class QuarantinedKey:
    """Quarantined key with its messages.

    key: bytes as of `bridge.parking.key`.
    until, owner, lease: as in `bridge.parking.key_quarantine.KeyQuarantine`.
    unsettled: pending operations may change the key.
    """

    source: str
    key: bytes
    messages: tuple[QuarantinedMessage, ...]
    cause: dict[str, Any]
    until: float | None
    owner: str | None
    lease: float
    unsettled: bool = False

    @classmethod
    def of(cls, document: dict[str, Any], unsettled: bool) -> QuarantinedKey:
        return cls(
            document["source"],
            base64.b64decode(document["key"]),
            tuple(QuarantinedMessage.of(each) for each in document["held"]),
            document["cause"],
            document["until"],
            document["owner"],
            document["lease"],
            unsettled,
        )
