"""Which receivers may have a connection, where a namespace takes few of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.brokers.servicebus.receiver import Receiver

PUBLISHING = 3
"""Connections that are left to senders."""


class Seats:
    """Connections of one namespace. most: None for as many as are wanted.

    The first receiver of an entity always has one, as has every receiver without sessions. The other session receivers
    share what is left, in turns over the entities.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._receivers: list[Receiver] = []
        self._taken: set[Receiver] = set()
        """Those that may do without and have one, perhaps no longer rightly."""

    def join(self, receivers: Sequence[Receiver]) -> None:
        """They want connections. Receivers that lose theirs to them are told."""
        self._receivers += receivers
        for receiver in self._receivers:
            if not self.has(receiver):
                receiver.give_way()

    def leave(self, receivers: Sequence[Receiver]) -> None:
        """They want none any more."""
        self._receivers = [each for each in self._receivers if each not in receivers]
        self._taken.difference_update(receivers)

    def has(self, receiver: Receiver) -> bool:
        """Whether the receiver is to have a connection."""
        if self._most is None or not receiver.spare:
            return True
        spare = sorted((each for each in self._receivers if each.spare), key=lambda each: each.number)
        return receiver in spare[: self._left(self._most)]

    def take(self, receiver: Receiver) -> bool:
        """Whether the receiver may connect now, which it may not before others have given theirs back."""
        if self._most is None or not receiver.spare or receiver in self._taken:
            return self.has(receiver)
        if not self.has(receiver) or len(self._taken) >= self._left(self._most):
            return False
        self._taken.add(receiver)
        return True

    def give_back(self, receiver: Receiver) -> None:
        """Its connection is closed. Idempotent."""
        self._taken.discard(receiver)

    def _left(self, most: int) -> int:
        return max(0, most - PUBLISHING - sum(not each.spare for each in self._receivers))
