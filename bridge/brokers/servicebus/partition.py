"""What a subscription counts for one entity, or for one session for as long as it is ours."""

from __future__ import annotations

from collections.abc import Callable


class ServiceBusPartition:
    """Implements `bridge.brokers.base.Partition`.

    Without sessions: one receiver of an entity, for as long as the subscription is open; a receiver that is replaced
    keeps it, since locks of messages outlive connections. With sessions: a new one for every session that is taken, the
    object is the epoch. number: the receiver's, not the session's, so that metrics stay few.
    """

    __slots__ = ("_changed", "_gap", "_paused", "lost", "number", "revoked", "topic")

    def __init__(self, topic: str, number: int, changed: Callable[[], None]) -> None:
        """topic: path of the entity. `changed` is called when there may be something to do again."""
        self.topic = topic
        self.number = number
        self.revoked = False
        self.lost = False
        self._changed = changed
        self._gap = 0
        self._paused = False

    @property
    def gap(self) -> int:
        """Messages that are locked for us and not settled."""
        return self._gap

    @property
    def paused(self) -> bool:
        """Whether nothing is to be taken from it."""
        return self._paused

    def pause(self) -> None:
        """Take no more; what the receiver has under way still comes, and is kept locked."""
        self._paused = True

    def resume(self) -> None:
        """Take again."""
        if self._paused:
            self._paused = False
            self._changed()

    def taken(self) -> None:
        """A message came in."""
        self._gap += 1

    def left(self) -> None:
        """A message was settled, given back, or lost."""
        self._gap -= 1
