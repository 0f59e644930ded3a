"""Bounds of the decoded forms of one source: a decoded message may be twenty times as large as its bytes."""

from __future__ import annotations

from collections.abc import Callable

from bridge.pipeline.in_flight_delivery import InFlightDelivery

SMALL = 8 * 1024
"""Bytes of the largest message whose decoded form stays in memory while the message waits."""

SHARE = 4
"""Divisor of the source's bytes in flight that gives the bytes of larger messages in decoded form at once."""


class DecodedForms:
    """Room for the decoded forms of large messages. Not thread-safe: one event loop.

    A large message is decoded when a worker takes it, and its decoded form is dropped when the worker leaves it. A
    message beyond the limit waits for another one to leave. A single message fits, whatever its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._most_bytes = max_bytes // SHARE
        self._admitted: dict[InFlightDelivery, int] = {}
        self._waiting: dict[InFlightDelivery, Callable[[], bool]] = {}
        self.bytes = 0
        """Bytes of the admitted messages, before decoding."""

    def admits(self, item: InFlightDelivery, wake: Callable[[], bool]) -> bool:
        """Return whether the item may be decoded now. Otherwise call `wake` when it may.

        wake: returns False when the item is not the next to be processed; it then asks again later.
        Call `leave` afterwards, and `forget` when the item is gone.
        """
        if item.decoded_limit <= SMALL or item in self._admitted:
            return True
        if not self._waiting and self._fits(item):
            self._admit(item)
            return True
        self._waiting[item] = wake
        return False

    def leave(self, item: InFlightDelivery) -> None:
        """Drop the decoded form of an item that its worker leaves, and admit the next items.

        An item whose settlement is decided keeps its message id.
        """
        if item not in self._admitted:
            return
        item.drop_decoded()
        self._release(item)
        self._next()

    def forget(self, item: InFlightDelivery) -> None:
        """Remove an item that is gone."""
        if self._waiting.pop(item, None) is not None:
            self._next()
        else:
            self.leave(item)

    def _fits(self, item: InFlightDelivery) -> bool:
        return not self._admitted or self.bytes + item.decoded_limit <= self._most_bytes

    def _admit(self, item: InFlightDelivery) -> None:
        self._admitted[item] = item.decoded_limit
        self.bytes += item.decoded_limit

    def _release(self, item: InFlightDelivery) -> None:
        self.bytes -= self._admitted.pop(item)

    def _next(self) -> None:
        while self._waiting and self._fits(item := next(iter(self._waiting))):
            wake = self._waiting.pop(item)
            self._admit(item)
            if not wake():
                self._release(item)
