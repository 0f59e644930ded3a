"""One partition for as long as it is ours: what is handed out, what is done, what may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import TopicPartition

from bridge.brokers.epoch import Epoch
from bridge.brokers.kafka import progress
from bridge.brokers.kafka.dead_letters import DeadLetters
from bridge.brokers.kafka.delivery import KafkaDelivery
from bridge.brokers.offsets import OffsetTracker
from bridge.message import EXACT_MS, Message

NO_TIMESTAMP = -1
"""Written by a producer that gives no time."""


class KafkaPartition(Epoch):
    """Implements `bridge.brokers.base.Partition`."""

    __slots__ = ("_next", "_waiting", "committed", "dead_letters", "stopped", "tp")

    def __init__(
        self,
        tp: TopicPartition,
        *,
        cluster: str,
        start: int,
        done: Iterable[int],
        committed: tuple[int, str] | None,
        dead_letters: DeadLetters,
        changed: Callable[[], None],
    ) -> None:
        """start, done, changed: see `Epoch`. committed: what the group's position is now."""
        super().__init__(cluster=cluster, topic=tp.topic, number=tp.partition, start=start, done=done, changed=changed)
        self.tp = tp
        self.committed = committed
        self.dead_letters = dead_letters
        self.stopped = ""
        """Why nothing is read from it any more; empty while it is."""
        self._next = start
        self._waiting: deque[Any] = deque()

    @property
    def fetchable(self) -> bool:
        """Whether more is wanted of it."""
        return not (self._paused or self.draining or self.stopped)

    def drain(self) -> None:
        """See `Epoch.drain`."""
        super().drain()
        self._waiting.clear()

    def add(self, records: Iterable[Any], limit: int, into: list[KafkaDelivery]) -> None:
        """Hand out what the client fetched, up to `limit` in `into`; what is not wanted now waits here."""
        if self.draining:
            return
        if not self.fetchable or self._waiting:
            self._waiting.extend(records)
            return
        fetched = self._tracker.fetched
        offset = self._next - 1
        for record in records:
            if len(into) >= limit:
                self._waiting.append(record)
                continue
            offset = record.offset
            if fetched(offset):
                into.append(KafkaDelivery(message_of(record), self, offset))
        self._next = offset + 1

    def keep(self, records: Iterable[Any]) -> None:
        """Keep for later what the client gave and nobody wants now."""
        if not self.draining:
            self._waiting.extend(records)

    def take(self, limit: int, into: list[KafkaDelivery]) -> None:
        """Hand out what waits here, up to `limit` in `into`."""
        if not self.fetchable:
            return
        if self._returned:
            self.take_returned(limit, into, lambda message, offset: KafkaDelivery(message, self, offset))
        while self._waiting and len(into) < limit:
            record = self._waiting.popleft()
            self._next = record.offset + 1
            if self._tracker.fetched(record.offset):
                into.append(KafkaDelivery(message_of(record), self, record.offset))

    def complete(self, offset: int) -> None:
        """A delivery is done."""
        self._tracker.complete(offset)

    @property
    def idle(self) -> bool:
        """Everything that was fetched is done: the client's own position may be committed, past any holes."""
        return not (self._tracker.gap or self._waiting or self._returned)

    def caught_up(self, position: int) -> None:
        """While idle: the client stands at `position`."""
        self._next = max(self._next, position)

    def snapshot(self) -> tuple[int, str]:
        """Offset and metadata that may be committed now."""
        offset = self._next if self.idle else self.prefix
        return offset, progress.encode(offset, [each for each in self._tracker.completed_above if each >= offset])

    @property
    def progress(self) -> tuple[int, int, int]:
        """Changes whenever a record is handed out or done."""
        return self._next, self.prefix, self._tracker.outstanding

    def skip_to(self, offset: int) -> None:
        """Go on at `offset`: what lies before is gone. Raises: ValueError while records are in flight."""
        if not self.idle:
            raise ValueError(f"{self.topic}/{self.number} has records in flight")
        self._start = self._next = offset
        self._tracker = OffsetTracker()

    def lag(self, end: int | None) -> int:
        """Records up to `end` that are not done; `end` None: as far as is known."""
        ahead = max(end - self._next, 0) if end is not None else len(self._waiting)
        return ahead + self._tracker.outstanding


def message_of(record: Any) -> Message:
    """A record of the client as a message."""
    stamp = record.timestamp
    if stamp is None or stamp == NO_TIMESTAMP:
        return Message(record.value, record.key, record.headers)
    exact = -EXACT_MS < stamp < EXACT_MS
    return Message(record.value, record.key, record.headers, stamp / 1000, timestamp_ms=None if exact else stamp)
