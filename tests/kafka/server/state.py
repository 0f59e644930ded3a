"""State of the server: topics, groups, transactions."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.kafka.server import errors
from tests.kafka.server.group import Group
from tests.kafka.server.log import Partition

NODE = 1
MAX_MESSAGE = 16 << 20
COMPACT_SECONDS = 0.3


@dataclass
class Topic:
    """Topic with its partitions. settings: as given at creation."""

    partitions: list[Partition]
    settings: dict[str, str] = field(default_factory=dict)

    def grow(self, count: int) -> None:
        """Add partitions up to `count`."""
        limit = int(self.settings.get("max.message.bytes", MAX_MESSAGE))
        self.partitions += [Partition(limit) for _ in range(count - len(self.partitions))]


@dataclass
class Transaction:
    """Open transaction: producer id and epoch of its transactional id, and the partitions in the transaction."""

    producer_id: int
    epoch: int = 0
    partitions: set[tuple[str, int]] = field(default_factory=set)


class State:
    """State of one server; used on the server's event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.host, self.port = "127.0.0.1", 0
        self.cluster = uuid.uuid4().hex[:22]
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, Group] = {}
        self.transactions: dict[str, Transaction] = {}
        self.producer_ids = itertools.count(1000)

    def partition(self, topic: str, number: int) -> Partition | None:
        """Return the partition; None when it does not exist."""
        found = self.topics.get(topic)
        return found.partitions[number] if found is not None and 0 <= number < len(found.partitions) else None

    def group(self, name: str) -> Group:
        """Return the group; create a missing one."""
        if name not in self.groups:
            self.groups[name] = Group(self.loop)
        return self.groups[name]

    def create_topic(self, name: str, partitions: int, settings: dict[str, str]) -> int:
        """Create a topic. Returns an error code."""
        if name in self.topics:
            return errors.TOPIC_EXISTS
        topic = self.topics[name] = Topic([], settings)
        topic.grow(max(partitions, 1))
        return errors.NONE

    def delete_topic(self, name: str) -> int:
        """Delete a topic and the groups' positions in it. Returns an error code."""
        topic = self.topics.pop(name, None)
        if topic is None:
            return errors.UNKNOWN_TOPIC
        for partition in topic.partitions:
            partition.wake()
        for group in self.groups.values():
            group.offsets = {place: position for place, position in group.offsets.items() if place[0] != name}
        return errors.NONE

    def end(self, transaction: Transaction, *, commit: bool) -> None:
        """Commit or abort a transaction."""
        for topic, number in transaction.partitions:
            partition = self.partition(topic, number)
            if partition is not None:
                partition.finish(transaction.producer_id, transaction.epoch, commit=commit)
        transaction.partitions.clear()

    async def compact(self) -> None:
        """Compact the topics with `cleanup.policy` `compact` periodically."""
        while True:
            await asyncio.sleep(COMPACT_SECONDS)
            for partition in self._compacted():
                partition.compact()

    def _compacted(self) -> Iterable[Partition]:
        for topic in self.topics.values():
            if topic.settings.get("cleanup.policy") == "compact":
                yield from topic.partitions
