"""Number and size of all messages that wait on one engine, early and quarantined, and their limit."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineError, WaitingFull
from bridge.core.system_names import EARLY_MESSAGES, QUARANTINE, source_of_key
from bridge.engines.base import Engine

_QUARANTINED = f"@{QUARANTINE}@"


@dataclass(slots=True)
class QuarantinedCount:
    """Quarantined keys of one source.

    since: start of the longest quarantine, seconds since the Unix epoch.
    manual: starts of the quarantines that only a person ends, one for each key.
    """

    keys: int = 0
    messages: int = 0
    since: float = math.inf
    manual: list[float] = field(default_factory=list)

    def add(self, messages: int, since: float, *, manual: bool) -> None:
        """Add a key. since: start of its quarantine. manual: only a person ends it."""
        self.keys += 1
        self.messages += messages
        self.since = min(self.since, since)
        if manual:
            self.manual.append(since)


@dataclass(frozen=True, slots=True)
class WaitingCount:
    """Number of messages that wait on an engine, and bytes of their JSON.

    early: number of early messages.
    early_since: start of the longest wait of one, seconds since the Unix epoch; None without one.
    early_expiring: number of early messages with less than a quarter of their wait left.
    quarantined: quarantined keys by source.
    at: time of the count, seconds since the Unix epoch; 0 before the first one.
    """

    early: int = 0
    messages: int = 0
    bytes: int = 0
    early_since: float | None = None
    early_expiring: int = 0
    quarantined: Mapping[str, QuarantinedCount] = field(default_factory=dict)
    at: float = 0.0


class WaitingTotals:
    """Waiting messages of one engine as known to this process: the last count, and its own changes since.

    Each process knows the changes of other processes only up to its last count. Together they may exceed the limit by
    the messages that they add between two counts. Methods may be called from any thread.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._counted = WaitingCount()
        self._since = [0, 0]
        """Messages and bytes added since the last count began."""
        self._during: list[int] | None = None
        """Messages and bytes added since the current count began; None while none runs."""
        self._admitted = [0, 0]
        self.refused = 0

    def limit(self, max_messages: int, max_bytes: int) -> None:
        """Change the limits."""
        self._max_messages, self._max_bytes = max_messages, max_bytes

    @property
    def messages(self) -> int:
        return max(0, self._counted.messages + self._since[0])

    @property
    def bytes(self) -> int:
        return max(0, self._counted.bytes + self._since[1])

    @property
    def counted(self) -> WaitingCount:
        """Last count."""
        return self._counted

    def admit(self, size: int) -> None:
        """Reserve room for one more message. Raises: WaitingFull."""
        with self._lock:
            if self.messages >= self._max_messages or self.bytes + size > self._max_bytes:
                self.refused += 1
                raise WaitingFull(
                    f"{self.messages} messages of {self.bytes} bytes wait on the engine; at most "
                    f"{self._max_messages} messages and {self._max_bytes} bytes may"
                )
            self._admitted[0] += 1
            self._admitted[1] += size
            self._add(1, size)

    def changed(self, messages: int, size: int) -> None:
        """Record messages that were added to the waiting ones, or have left them."""
        with self._lock:
            self._add(messages, size)

    async def count(self, engine: Engine, now: float | None = None) -> None:
        """Count the waiting messages again.

        now: seconds since the Unix epoch; None for the current time. Raises: EngineError.
        """
        now = time.time() if now is None else now
        with self._lock:
            self._during = [0, 0]
        early, quarantined = _Count("items", now), _Count("held", now)
        for name, found in ((EARLY_MESSAGES, early), (QUARANTINE, quarantined)):
            await engine.client.visit_entities(name, found.add, what="count waiting messages")
        messages, size = early.messages + quarantined.messages, early.size + quarantined.size
        backlog = early.backlog + quarantined.backlog
        with self._lock:
            # Each unprocessed operation may add a message of average size
            usual = self._admitted[1] // max(1, self._admitted[0])
            self._counted = WaitingCount(
                early.messages,
                messages + backlog,
                size + backlog * usual,
                early.since if early.messages else None,
                early.expiring,
                quarantined.sources,
                now,
            )
            self._since = self._during
            self._during = None

    def _add(self, messages: int, size: int) -> None:
        for sums in (self._since, self._during):
            if sums is not None:
                sums[0] += messages
                sums[1] += size


class _Count:
    """Count of the waiting messages in entities.

    part: member of their states that lists the messages.
    now: seconds since the Unix epoch.
    """

    def __init__(self, part: str, now: float) -> None:
        self._part = part
        self._now = now
        self.messages = self.size = self.backlog = self.expiring = 0
        self.since = math.inf
        self.sources: dict[str, QuarantinedCount] = {}

    def add(self, entity: pb.EntityMetadata) -> None:
        """Add an entity. Raises: EngineError when its state cannot be read."""
        try:
            found = json.loads(entity.serializedState.value or "null") or {}
            items = found.get(self._part, ())
            self.messages += len(items)
            self.size += int(found.get("size", 0))
            since = min((float(item.get("since", math.inf)) for item in items), default=math.inf)
            self.expiring += sum(map(self._expires_soon, items))
        except (ValueError, TypeError, AttributeError) as error:
            raise EngineError("count waiting messages: the state of an entity cannot be read") from error
        self.backlog += entity.backlogQueueSize
        self.since = min(self.since, since)
        if items and entity.instanceId.startswith(_QUARANTINED):
            source = source_of_key(entity.instanceId.removeprefix(_QUARANTINED))
            count = self.sources.setdefault(source, QuarantinedCount())
            count.add(len(items), since, manual=found.get("until") is None)

    def _expires_soon(self, item: Mapping[str, Any]) -> bool:
        """Return whether less than a quarter of the wait of an early message is left."""
        since, until = float(item.get("since", 0.0)), float(item.get("until", math.inf))
        return until - self._now < (until - since) / 4
