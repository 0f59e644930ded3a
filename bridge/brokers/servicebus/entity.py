"""Paths of queues, subscriptions and their sub-queues, as Service Bus writes them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from azure.servicebus import ServiceBusSubQueue

_SUBSCRIPTIONS = "/subscriptions/"
_SUB_QUEUES = {
    "/$deadletterqueue": ServiceBusSubQueue.DEAD_LETTER,
    "/$transfer/$deadletterqueue": ServiceBusSubQueue.TRANSFER_DEAD_LETTER,
}


@dataclass(frozen=True, slots=True)
class EntityPath:
    """Path of an entity: `queue` or `topic/Subscriptions/name`, and either with `/$DeadLetterQueue` or
    `/$Transfer/$DeadLetterQueue`.

    name: queue or topic.
    subscription: None for a queue.
    sub_queue: None for the entity itself.
    """

    name: str
    subscription: str | None = None
    sub_queue: ServiceBusSubQueue | None = None

    @classmethod
    def parse(cls, path: str) -> EntityPath:
        """Parse a path. Names keep their case, which Service Bus ignores."""
        sub_queue = None
        for ending, kind in reversed(_SUB_QUEUES.items()):
            if path.lower().endswith(ending):
                path, sub_queue = path[: -len(ending)], kind
                break
        at = path.lower().find(_SUBSCRIPTIONS)
        if at < 0:
            return cls(path, None, sub_queue)
        return cls(path[:at], path[at + len(_SUBSCRIPTIONS) :], sub_queue)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the client's methods that create a receiver."""
        given: dict[str, Any] = {"queue_name": self.name}
        if self.subscription is not None:
            given = {"topic_name": self.name, "subscription_name": self.subscription}
        return given if self.sub_queue is None else given | {"sub_queue": self.sub_queue}
