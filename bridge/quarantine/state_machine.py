"""State machine of one quarantined key: its messages, and the effect of each operation. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from bridge.config.model.sources import QuarantineConfig
from bridge.core.message import Position
from bridge.core.stored_message import REMEMBERED_REFUSALS, OperationResult, ReplayOf
from bridge.core.words import plural
from bridge.waiting.claim import Claim

FULL, DROPPED = ("quarantine_full", "quarantine_dropped")
"""Reasons for dead-lettering a message of a quarantined key."""

ADDS = frozenset({"hold", "follow"})
"""Operations of the entity that add a message."""


class KeyQuarantine:
    """Messages of one quarantined key, oldest first.

    held: JSON of stored messages, each with its `mark`, `size` and `since`.
    cause: failure of the oldest message.
    until: time of the automatic release; None: a person releases the key; 0: released.
    refused: marks of messages that were not accepted or dropped, the latest last. They show the process that has stored
    a message that the queue has processed it.
    """

    def __init__(self, limits: QuarantineConfig, document: dict[str, Any] | None = None) -> None:
        document = document or {}
        self._limits = limits
        self.source: str = document.get("source", "")
        self.key: str = document.get("key", "")
        self.held: list[dict[str, Any]] = list(document.get("held", ()))
        self.cause: dict[str, Any] = document.get("cause", {})
        self.until: float | None = document.get("until")
        self.refused: list[str] = list(document.get("refused", ()))
        self._claim = Claim.of(document)
        self.size: int = document.get("size", 0)

    def to_json(self) -> dict[str, Any] | None:
        """State as JSON; None when there are no messages."""
        if not self.held:
            return None
        return {
            "v": 1,
            "source": self.source,
            "key": self.key,
            "held": self.held,
            "cause": self.cause,
            "until": self.until,
            **self._claim.to_json(),
            "size": self.size,
            **({"refused": self.refused} if self.refused else {}),
        }

    def hold(self, value: dict[str, Any]) -> OperationResult:
        """Quarantine a failed message of the key. value: `source`, `key`, `item`, `cause`, `until`."""
        result = OperationResult()
        first = not self.held
        if self._append(result, value) and first:
            self.cause, self.until = value["cause"], value.get("until")
            self._claim.end()
        return result

    def append(self, value: dict[str, Any]) -> OperationResult:
        """Add a later message of the key. It is released at once when the last earlier message has just left."""
        result = OperationResult()
        first = not self.held
        if self._append(result, value) and first:
            self.cause, self.until = {}, 0.0
        return result

    def done(self, mark: str) -> OperationResult:
        """Remove a settled message."""
        self._remove([each for each in self.held if each["mark"] == mark])
        return OperationResult(["resumed"])

    def requeue(
        self, mark: str, cause: dict[str, Any], until: float | None, attempts: int, executed: Sequence[str] = ()
    ) -> OperationResult:
        """Quarantine a released message that failed again. executed: routes executed so far."""
        if self.held and self.held[0]["mark"] == mark:
            document = self.held[0].get("letter", {}) | ({"executed": list(executed)} if executed else {})
            self.held[0] = self.held[0] | {"attempts": attempts, "letter": document}
            self.cause, self.until = cause, until
            self._claim.end()
        return OperationResult()

    def release(self) -> OperationResult:
        """Release the messages, on request of a person."""
        if self.held:
            self.until = 0.0
        return OperationResult()

    def drop(self, marks: Sequence[str] | None, forget: bool, now: float) -> OperationResult:
        """Drop messages on request of a person.

        marks: their delivery ids; None: all.
        forget: write no dead letters.

        A claimed key drops nothing: its process may be executing this very message.
        """
        result = OperationResult()
        if self.is_claimed(now):
            return result
        head = self.held[:1]
        gone = [each for each in self.held if marks is None or each["mark"] in marks]
        self._remove(gone)
        for item in gone:
            result.events.append("dropped")
            self._remember_refused(item)
            if not forget:
                cause = self.cause if item in head else {}
                detail = f"it was dropped from the quarantine of its key ({cause.get('reason', 'follows another')})"
                result.refuse(item, DROPPED, detail, cause.get("error", ""))
            else:
                result.end(item, "failed", DROPPED)
        if self.held[:1] != head:
            self.cause = {}  # it belonged to the dropped head
        return result

    def is_claimed(self, now: float) -> bool:
        """True when a process holds a claim on the key."""
        return self._claim.is_held(now)

    def claim(self, owner: str, now: float) -> OperationResult:
        """Claim the key for a process, or renew its claim."""
        if self.held:
            self._claim.take(owner, now)
        return OperationResult()

    def unclaim(self, owner: str) -> OperationResult:
        """End the claim of a process."""
        self._claim.end(owner)
        return OperationResult()

    def _append(self, result: OperationResult, value: dict[str, Any]) -> bool:
        item = value["item"]
        if any(each["mark"] == item["mark"] for each in self.held):
            result.events.append("repeated")
            return False
        if len(self.held) >= self._limits.max_messages or self.size + item["size"] > self._limits.max_bytes:
            result.events.append("full")
            self._remember_refused(item)
            detail = f"{plural(len(self.held), 'message')} of the same key in quarantine already"
            result.refuse(item, FULL, detail, self.cause.get("error", ""))
            return False
        self.source, self.key = value["source"], value["key"]
        self.held.append(item)
        self.size += item["size"]
        result.events.append("stored")
        return True

    def _remember_refused(self, item: dict[str, Any]) -> None:
        self.refused.append(item["mark"])
        del self.refused[:-REMEMBERED_REFUSALS]

    def _remove(self, gone: list[dict[str, Any]]) -> None:
        for item in gone:
            self.held.remove(item)
            self.size -= item["size"]


def delivery_id(position: Position, replay: ReplayOf | None = None) -> str:
    """Identity of a message in the quarantine: a digest of its position, common to its deliveries.

    replay: dead letter that is replayed as this message. The message may have been in the quarantine before.
    """
    text = str(position) if replay is None else f"{position}\n{replay.job}\n{replay.item}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
