"""One partition during one assignment: records handed out, completed and committable, and their deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiokafka import TopicPartition

from bridge.brokers.kafka.log.compression import TakeBudget
from bridge.brokers.kafka.log.partition_log import PartitionLog
from bridge.brokers.kafka.producer import DeadLetterProducer
from bridge.brokers.log_partition import AssignedPartition, LogDelivery
from bridge.brokers.offsets import OffsetTracker
from bridge.core.provenance import Cause


class KafkaPartition(AssignedPartition):
    """Implementation of `bridge.brokers.base.Partition`."""

    __slots__ = ("committed", "dead_letters", "log", "stamp", "tp")

    def __init__(
        self,
        tp: TopicPartition,
        *,
        cluster: str,
        log: PartitionLog,
        done: Iterable[int],
        committed: tuple[int, str] | None,
        dead_letters: DeadLetterProducer,
        changed: Callable[[], None],
        stamp: int = 0,
    ) -> None:
        """Create a Kafka partition.

        log: reads the partition from the group's position on.
        done, changed: see `AssignedPartition`.
        committed: the group's present position and its metadata.
        stamp: of the last move of the position, which every commit repeats; see `bridge.brokers.positions.Move`.
        """
        super().__init__(
            cluster=cluster, topic=tp.topic, number=tp.partition, start=log.position, done=done, changed=changed
        )
        self.tp = tp
        self.committed = committed
        self.stamp = stamp
        self.dead_letters = dead_letters
        self.log = log

    @property
    def stopped(self) -> str:
        """Reason why nothing is read, permanently or at present; empty while reading continues."""
        return self.log.stopped or self.log.cursor.problem

    def pause(self) -> None:
        """See `bridge.brokers.base.Partition`. Releases decompressed data, which would block other partitions."""
        super().pause()
        self.log.close()

    def drain(self) -> None:
        """See `AssignedPartition.drain`. Releases decompressed data, like `pause`."""
        super().drain()
        self.log.close()

    def take(self, limit: int, into: list[KafkaDelivery], budget: TakeBudget) -> None:
        """Hand out returned deliveries, then fetched records, up to `limit` in `into` and the rest of `budget`."""
        if self._paused or self.draining:
            return
        if self._returned:
            self.take_returned(limit, into, lambda message, offset: KafkaDelivery(message, self, offset))
        fetched = self._tracker.fetched
        # Repeat while the taken records were already completed: nothing wakes a consumer for records that are here
        # already
        while len(into) < limit and (found := self.log.take(limit - len(into), budget)):
            for first, last, message in found:
                if fetched(first, last, message.timestamp):
                    into.append(KafkaDelivery(message, self, first))

    def complete(self, offset: int) -> None:
        """Mark a delivery as completed."""
        self._tracker.complete(offset)

    @property
    def idle(self) -> bool:
        """True when all handed-out records are completed."""
        return not (self._tracker.gap or self._returned)

    def snapshot(self) -> tuple[int, list[int]]:
        """Offset that may be committed now, and the completed offsets above it.

        While idle, the offset is the position of the log: all records before it are completed, and the log has passed
        the gaps.
        """
        offset = self.log.position if self.idle else self.prefix
        return offset, [each for each in self._tracker.completed_above if each >= offset]

    def note_committed(self, position: tuple[int, str]) -> None:
        """Record the group's present position and its metadata."""
        self.committed = position

    @property
    def progress(self) -> tuple[int, int, int]:
        """Value that changes whenever a record is handed out or completed."""
        return self.log.position, self.prefix, self._tracker.outstanding

    def skip_to(self, offset: int) -> None:
        """Continue at `offset`; the log no longer has earlier records. Raises: ValueError while records are in
        flight.
        """
        if not self.idle:
            raise ValueError(f"{self.topic}/{self.number} has records in flight")
        self._start = offset
        self.log.seek(offset)
        self._tracker = OffsetTracker()

    @property
    def oldest(self) -> float | None:
        """Time of the oldest record that is not completed, in seconds since the Unix epoch; None where unknown."""
        return self._tracker.oldest if self._tracker.outstanding else self.log.next_time

    def lag(self) -> int | None:
        """Number of records up to the last known end of the log that are not completed; None while the end is
        unknown.
        """
        if self.log.end is None:
            return None
        return max(self.log.end - self.log.position, 0) + self._tracker.outstanding


class KafkaDelivery(LogDelivery):
    """Implementation of `bridge.brokers.base.Delivery`."""

    __slots__ = ()

    partition: KafkaPartition

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`. A crash between the two steps writes the dead letter again."""
        if self._open():
            await self.partition.dead_letters.write(self.message, self.position, cause)
            await self.complete()
