"""Positions that the broker no longer has, or does not have yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from bridge.brokers.base import seek_command
from bridge.brokers.kafka.offset_lookup import look_up
from bridge.brokers.kafka.partition import KafkaPartition

_log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0


class OutOfRangePolicy:
    """Treatment of positions out of range: the partition stops, or moves and skipped offsets are counted."""

    def __init__(self, policy: str) -> None:
        """Create the policy. policy: `stop`, `earliest` or `latest`."""
        self._policy = policy
        self.lost: dict[TopicPartition, int] = {}
        """Partitions that wait for a new position, with their last offset."""
        self.skipped = 0

    def found(self, tp: TopicPartition, offset: int, partition: KafkaPartition | None) -> None:
        """Handle the broker's report that it does not have this offset."""
        if partition is None or partition.log.cursor.fetch_offset != offset or partition.log.stopped:
            return
        partition.log.stop(
            f"offset {offset} is out of range: retention has deleted it, or the topic was created again; "
            f"move the source with {seek_command(partition.topic, partition.number, 'beginning')}, "
            "or set `on_out_of_range` and restart"
        )
        _log.error("%s/%d: %s", partition.topic, partition.number, partition.log.stopped)
        if self._policy != "stop":
            self.lost[tp] = offset

    async def settle(self, consumer: Any, partitions: Mapping[TopicPartition, KafkaPartition]) -> None:
        """Continue at the position of the policy, as soon as no delivery of the partition is in flight."""
        for tp, offset in list(self.lost.items()):
            partition = partitions.get(tp)
            if partition is None or not partition.log.stopped:
                del self.lost[tp]
                continue
            if not (partition.idle and partition.log.empty):
                continue
            # The bridge's position moves only after the answer
            look = consumer.beginning_offsets if self._policy == "earliest" else consumer.end_offsets
            try:
                target = (await look_up(look, [tp], _REQUEST_SECONDS))[tp]
            except (KafkaError, TimeoutError) as error:
                _log.warning("%s/%d: cannot look for a new position: %s", partition.topic, partition.number, error)
                continue
            if partitions.get(tp) is not partition:
                continue  # it was reassigned during the lookup
            del self.lost[tp]
            partition.skip_to(target)
            self.skipped += max(target - offset, 0)
            _log.warning(
                "%s/%d: offset %d is out of range; the source continues at %d (%s)",
                partition.topic, partition.number, offset, target, self._policy,
            )  # fmt: skip
