"""Entity in memory, and the operations that its queue allows next. Pure."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.values import text, timestamp

OVERHEAD = 500
"""Bytes that an entity occupies in memory beside its state and queue."""

MAX_BATCH = 500
"""Largest number of operations in one work item."""


@dataclass(slots=True, eq=False)
class StoredEntity:
    """Entity with its state, the owner of its lock, and its unprocessed operations, in order.

    `section` is the critical section that holds the lock, `owner` the id of its orchestration.
    """

    id: str
    modified_at: int
    state: str | None = None
    section: str | None = None
    owner: str | None = None
    queue: deque[tuple[int, pb.HistoryEvent]] = field(default_factory=deque)
    queue_bytes: int = 0
    """Bytes of the operations in the queue."""
    token: str | None = None
    """Lease of the batch in flight."""
    batch: list[tuple[int, pb.HistoryEvent]] | None = None
    """Operations of the batch in flight, which stay in the queue until their results arrive."""

    @property
    def name(self) -> str:
        """Entity name in lower case: `counter` of `@counter@key`."""
        return self.id[1:].partition("@")[0].lower()

    def runnable(self) -> list[tuple[int, pb.HistoryEvent]]:
        """Operations that may run now, in order.

        A locked entity runs calls of the lock's owner only. Otherwise all operations up to the next lock request run. A
        lock request waits for all earlier operations, and later ones wait for it.
        """
        found: list[tuple[int, pb.HistoryEvent]] = []
        for entry in self.queue:
            event = entry[1]
            if self.section is not None:
                if event.HasField("entityOperationCalled") and _caller(event) == self.owner:
                    found.append(entry)
            elif event.HasField("entityLockRequested"):
                break
            else:
                found.append(entry)
            if len(found) >= MAX_BATCH:
                break
        return found

    def grantable(self) -> tuple[int, pb.HistoryEvent] | None:
        """Lock request that can be granted now: the head of the queue while nothing is in flight, or None."""
        if self.section is None and self.token is None and self.queue:
            entry = self.queue[0]
            if entry[1].HasField("entityLockRequested"):
                return entry
        return None

    def append(self, seq: int, event: pb.HistoryEvent) -> None:
        self.queue.append((seq, event))
        self.queue_bytes += event.ByteSize()

    def pop(self) -> None:
        """Remove the first operation."""
        self.queue_bytes -= self.queue.popleft()[1].ByteSize()

    def remove(self, seqs: set[int]) -> None:
        gone = [event for seq, event in self.queue if seq in seqs]
        self.queue = deque(entry for entry in self.queue if entry[0] not in seqs)
        self.queue_bytes -= sum(event.ByteSize() for event in gone)

    def lock(self, section: str, owner: str) -> None:
        """Give the lock to a critical section of an orchestration."""
        self.section = section
        self.owner = owner

    def unlock(self) -> None:
        self.section = self.owner = None

    def begin_batch(self, token: str, batch: list[tuple[int, pb.HistoryEvent]]) -> None:
        """Record the batch that is offered to a worker."""
        self.token = token
        self.batch = batch

    def end_batch(self) -> None:
        """Forget the batch in flight, whose operations stay in the queue."""
        self.token = None
        self.batch = None

    @property
    def size(self) -> int:
        """Approximate number of bytes in memory."""
        state = 0 if self.state is None else sys.getsizeof(self.state)
        return OVERHEAD + state + self.queue_bytes

    def metadata(self, include_state: bool) -> pb.EntityMetadata:
        return pb.EntityMetadata(
            instanceId=self.id,
            lastModifiedTime=timestamp(self.modified_at),
            backlogQueueSize=len(self.queue),
            lockedBy=text(self.owner),
            serializedState=text(self.state) if include_state else None,
        )


def _caller(event: pb.HistoryEvent) -> str:
    return str(event.entityOperationCalled.parentInstanceId.value)


class EntityCache:
    """Entities in memory; the least recently used idle ones are evicted first.

    Limits are the number of entities, and the bytes of their states and queues. An entity that was looked up since the
    last `trim` may have changed, and is measured then.
    """

    def __init__(self, max_entities: int, max_bytes: int) -> None:
        self._entities: OrderedDict[str, StoredEntity] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._touched: set[str] = set()
        self._max = max_entities
        self._max_bytes = max_bytes
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entities)

    def __iter__(self) -> Iterator[StoredEntity]:
        return iter(self._entities.values())

    def get(self, entity_id: str) -> StoredEntity | None:
        entity = self._entities.get(entity_id)
        if entity is not None:
            self._entities.move_to_end(entity_id)
            self._touched.add(entity_id)
        return entity

    def add(self, entity: StoredEntity) -> None:
        self._entities[entity.id] = entity
        self._touched.add(entity.id)

    def remove(self, entity: StoredEntity) -> None:
        self._entities.pop(entity.id, None)
        self.bytes -= self._sizes.pop(entity.id, 0)

    def clear(self) -> None:
        self._entities.clear()
        self._sizes.clear()
        self._touched.clear()
        self.bytes = 0

    def trim(self) -> None:
        """Evict entities beyond the limits. Call it between transactions only."""
        for entity_id in self._touched:
            found = self._entities.get(entity_id)
            if found is not None:
                size = found.size
                self.bytes += size - self._sizes.get(entity_id, 0)
                self._sizes[entity_id] = size
        self._touched.clear()
        if len(self._entities) <= self._max and self.bytes <= self._max_bytes:
            return
        for _ in range(len(self._entities)):
            if len(self._entities) <= self._max and self.bytes <= self._max_bytes:
                break
            entity = next(iter(self._entities.values()))
            if entity.token is None:
                self.remove(entity)
            else:
                self._entities.move_to_end(entity.id)
