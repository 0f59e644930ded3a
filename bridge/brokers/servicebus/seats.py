"""Distribution of connections among receivers where a namespace allows few of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

PUBLISHING = 3
"""Number of connections reserved for senders."""


class Seats:
    """Connections of one namespace. most: number of connections; None: no limit.

    The first receiver of an entity always has a connection, and so has every receiver without sessions. The other
    session receivers share the rest, in turns over the entities.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._receivers: list[Receiver] = []
        self._taken: set[Receiver] = set()
        """Spare receivers that have a connection, possibly beyond their share."""

    def join(self, receivers: Sequence[Receiver]) -> None:
        """Add receivers that need connections. Receivers that lose their connections to them are notified."""
        self._receivers += receivers
        for receiver in self._receivers:
            if not self.has(receiver):
                receiver.give_way()

    def leave(self, receivers: Sequence[Receiver]) -> None:
        """Remove receivers that need no connection any more."""
        self._receivers = [each for each in self._receivers if each not in receivers]
        self._taken.difference_update(receivers)

    def has(self, receiver: Receiver) -> bool:
        """Return whether the receiver is entitled to a connection."""
        if self._most is None or not receiver.spare:
            return True
        spare = sorted((each for each in self._receivers if each.spare), key=lambda each: each.number)
        return receiver in spare[: self._left(self._most)]

    def take(self, receiver: Receiver) -> bool:
        """Return whether the receiver may connect now. A spare receiver may have to wait until others have released
        theirs.
        """
        if self._most is None or not receiver.spare or receiver in self._taken:
            return self.has(receiver)
        if not self.has(receiver) or len(self._taken) >= self._left(self._most):
            return False
        self._taken.add(receiver)
        return True

    def give_back(self, receiver: Receiver) -> None:
        """Record that the receiver's connection is closed. Idempotent."""
        self._taken.discard(receiver)

    def _left(self, most: int) -> int:
        return max(0, most - PUBLISHING - sum(not each.spare for each in self._receivers))
