"""Counts and state of one entity, or of one session while this process holds it."""

from __future__ import annotations

from collections.abc import Callable


class ServiceBusPartition:
    """Implements `bridge.brokers.base.Partition`.

    Without sessions, a partition is one receiver of an entity for as long as the subscription is open. A replacement
    receiver keeps the partition, since locks of messages outlive connections. With sessions, every accepted session
    gets a new partition. number: number of the receiver, not of the session, to keep metrics few.
    """

    __slots__ = ("_changed", "_gap", "_paused", "lost", "number", "revoked", "topic")

    def __init__(self, topic: str, number: int, changed: Callable[[], None]) -> None:
        """topic: path of the entity. changed: called when there may be work again."""
        self.topic = topic
        self.number = number
        self.revoked = False
        self.lost = False
        self._changed = changed
        self._gap = 0
        self._paused = False

    @property
    def gap(self) -> int:
        """Number of messages that are locked for this process and not settled."""
        return self._gap

    @property
    def paused(self) -> bool:
        """True while no more messages are to be taken."""
        return self._paused

    def pause(self) -> None:
        """Take no more messages. Messages already on their way still come, and stay locked."""
        self._paused = True

    def resume(self) -> None:
        """Take messages again."""
        if self._paused:
            self._paused = False
            self._changed()

    def taken(self) -> None:
        """Count a received message."""
        self._gap += 1

    def left(self) -> None:
        """Count a message that was settled, given back or lost."""
        self._gap -= 1
