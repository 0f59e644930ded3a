"""Commits of a group's positions to the broker: gathered, with a time limit, never for a revoked partition."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from aiokafka.structs import OffsetAndMetadata

from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.partition import KafkaPartition
from bridge.core.errors import BrokerError, BrokerUnavailable, PartitionRevoked

_log = logging.getLogger(__name__)

COMMIT_SECONDS = 10.0
"""Longest duration of one commit in seconds; the client itself would wait forever."""


class Commits:
    """Commits of one subscription. The consumer may change; the caller passes the partitions assigned at the moment."""

    def __init__(self, connection: Connection, group: str) -> None:
        self._connection = connection
        self._group = group
        self._turn = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None
        self._failing = False
        self.count = 0
        self.seconds = 0.0

    async def keep(self, consumer: Any, partitions: Callable[[], Collection[KafkaPartition]]) -> None:
        """Commit every `commit_interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._connection.config.commit_interval)
            try:
                await self.commit(consumer, partitions())
            except (BrokerError, PartitionRevoked) as error:
                if not self._failing:
                    _log.warning("group %s cannot commit and tries again: %s", self._group, error)
                self._failing = True
            else:
                self._failing = False

    async def commit(
        self, consumer: Any, partitions: Collection[KafkaPartition], seconds: float = COMMIT_SECONDS
    ) -> None:
        """Return when every earlier completion is committed.

        Raises: BrokerUnavailable (the positions are kept for the next commit), PartitionRevoked (the group reassigned
        the partitions).
        """
        async with self._turn:
            offsets: dict[Any, OffsetAndMetadata] = {}
            sent: list[tuple[KafkaPartition, tuple[int, str]]] = []
            for partition in partitions:
                if partition.revoked:
                    continue
                snapshot = partition.snapshot()
                if snapshot != partition.committed and not partition.revoked:
                    offsets[partition.tp] = OffsetAndMetadata(*snapshot)
                    sent.append((partition, snapshot))
            if not offsets:
                return
            begun = time.monotonic()
            self._sending = task = asyncio.create_task(consumer.commit(offsets))
            try:
                await asyncio.wait({task}, timeout=seconds)
            finally:
                self._sending = None
                if not task.done():
                    task.cancel()
            if not task.done() or task.cancelled():
                raise BrokerUnavailable(f"{self._connection.name}: group {self._group} could not commit in time")
            error = task.exception()
            if error is not None:
                raise self._connection.translate(error, f"commit of group {self._group}") from error
            for partition, snapshot in sent:
                partition.committed = snapshot
            self.count += 1
            self.seconds += time.monotonic() - begun

    def interrupt(self) -> None:
        """Cancel the commit in progress. The client would repeat it after a rebalance, and rewind a position that then
        belongs to another member.
        """
        if self._sending is not None:
            self._sending.cancel()
