"""One partition for as long as it is ours: what is handed out, what is done, what may be committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiokafka import TopicPartition

from bridge.brokers.assigned_partition import AssignedPartition
from bridge.brokers.kafka import commit_metadata
from bridge.brokers.kafka.dead_letters import DeadLetters
from bridge.brokers.kafka.delivery import KafkaDelivery
from bridge.brokers.kafka.inflation import Room
from bridge.brokers.kafka.partition_log import PartitionLog
from bridge.brokers.offsets import OffsetTracker


class KafkaPartition(AssignedPartition):
    """Implements `bridge.brokers.base.Partition`."""

    __slots__ = ("committed", "dead_letters", "log", "tp")

    def __init__(
        self,
        tp: TopicPartition,
        *,
        cluster: str,
        log: PartitionLog,
        done: Iterable[int],
        committed: tuple[int, str] | None,
        dead_letters: DeadLetters,
        changed: Callable[[], None],
    ) -> None:
        """log: reads the partition from the group's position on. done, changed: see `AssignedPartition`. committed: the
        group's position and its metadata now.
        """
        super().__init__(
            cluster=cluster, topic=tp.topic, number=tp.partition, start=log.position, done=done, changed=changed
        )
        self.tp = tp
        self.committed = committed
        self.dead_letters = dead_letters
        self.log = log

    @property
    def stopped(self) -> str:
        """Why nothing is read from it any more, or at present; empty while it is."""
        return self.log.stopped or self.log.trouble

    def pause(self) -> None:
        """See `bridge.brokers.base.Partition`. What is decompressed would be in the way of other partitions."""
        super().pause()
        self.log.close()

    def drain(self) -> None:
        """See `AssignedPartition.drain`. As for `pause`."""
        super().drain()
        self.log.close()

    def take(self, limit: int, into: list[KafkaDelivery], room: Room) -> None:
        """Hand out what was given back, then what was fetched, up to `limit` in `into` and what `room` has left."""
        if self._paused or self.draining:
            return
        if self._returned:
            self.take_returned(limit, into, lambda message, offset: KafkaDelivery(message, self, offset))
        fetched = self._tracker.fetched
        # Again while what was taken had been done before: nothing wakes a consumer for what is here already
        while len(into) < limit and (found := self.log.take(limit - len(into), room)):
            for first, last, message in found:
                if fetched(first, last):
                    into.append(KafkaDelivery(message, self, first))

    def complete(self, offset: int) -> None:
        """A delivery is done."""
        self._tracker.complete(offset)

    @property
    def idle(self) -> bool:
        """Everything that was handed out is done."""
        return not (self._tracker.gap or self._returned)

    def snapshot(self) -> tuple[int, str]:
        """Offset and metadata that may be committed now.

        While idle that is the position of the log: everything before it was handed out and is done, or is a gap that
        the log has named.
        """
        offset = self.log.position if self.idle else self.prefix
        return offset, commit_metadata.encode(
            offset, [each for each in self._tracker.completed_above if each >= offset]
        )

    @property
    def progress(self) -> tuple[int, int, int]:
        """Changes whenever a record is handed out or done."""
        return self.log.position, self.prefix, self._tracker.outstanding

    def skip_to(self, offset: int) -> None:
        """Go on at `offset`: what lies before is gone. Raises: ValueError while records are in flight."""
        if not self.idle:
            raise ValueError(f"{self.topic}/{self.number} has records in flight")
        self._start = offset
        self.log.seek(offset)
        self._tracker = OffsetTracker()

    def lag(self) -> int | None:
        """Records up to the end of the log, as last known, that are not done; None while the end is not known."""
        if self.log.end is None:
            return None
        return max(self.log.end - self.log.position, 0) + self._tracker.outstanding
