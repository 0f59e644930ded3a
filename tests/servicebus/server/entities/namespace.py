"""Entities of the namespace by path."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servicebus.server.clock import Clock
from tests.servicebus.server.config import QueueConfig, ServerConfig, TopicConfig
from tests.servicebus.server.counters import Counters
from tests.servicebus.server.entities.queue import DEAD_LETTERS, Queue
from tests.servicebus.server.entities.topic import Topic
from tests.servicebus.server.errors import Refusal, not_found

Entity = Queue | Topic


class Namespace:
    def __init__(self, config: ServerConfig, clock: Clock, counters: Counters) -> None:
        self._entities: dict[str, Entity] = {}
        self._clock, self._counters, self._limits = clock, counters, config.property_limits
        self.create(config.queues, config.topics)

    def create(self, queues: tuple[QueueConfig, ...], topics: tuple[TopicConfig, ...] = ()) -> None:
        """Create entities; an existing entity of the same name is replaced by an empty one."""
        for config in queues:
            queue = Queue(config.name, config, self._clock, self._counters, self._limits)
            self._entities[queue.key] = queue
        for topic_config in topics:
            topic = Topic(topic_config, self._clock, self._counters, self._limits)
            self._entities[topic.key] = topic
            for subscription in topic.subscriptions.values():
                self._entities[subscription.key] = subscription

    def __iter__(self) -> Iterator[Entity]:
        """Iterate over all entities; dead-letter queues are excluded."""
        return iter(self._entities.values())

    def find(self, path: str) -> Entity:
        """Return an entity; case is ignored. Raises: not-found."""
        key = path.lower().strip("/")
        entity = self._entities.get(key.removesuffix(f"/{DEAD_LETTERS}"))
        if key.endswith(f"/{DEAD_LETTERS}"):
            entity = entity.dead_letters if isinstance(entity, Queue) else None
        if entity is None:
            raise not_found(path)
        return entity

    def has(self, path: str) -> bool:
        try:
            self.find(path)
        except Refusal:
            return False
        return True

    def queue(self, path: str) -> Queue:
        """Return a queue or subscription. Raises: not-found; LookupError for a topic."""
        entity = self.find(path)
        if not isinstance(entity, Queue):
            raise LookupError(f"{path} is a topic")
        return entity

    def clear(self) -> None:
        """Remove all messages."""
        for entity in self:
            entity.clear()
