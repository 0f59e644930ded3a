"""Order across sources: messages of one key that several sources of this process receive go one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from bridge.bytetext import text_of
from bridge.pipeline.in_flight_delivery import InFlightDelivery


class OrderingDomain:
    """Who came first, per key, over all sources that share the domain. Not thread-safe: one event loop.

    An item joins when it is received, may go when all that joined its key before have left, and leaves when it is
    settled or let go.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._keys: dict[Hashable, dict[InFlightDelivery, Callable[[], None] | None]] = {}
        self._closed = False

    def __len__(self) -> int:
        """Keys with items."""
        return len(self._keys)

    def join(self, key: Hashable, item: InFlightDelivery) -> None:
        item.domain_key = key
        self._keys.setdefault(key, {})[item] = None

    def may_go(self, item: InFlightDelivery) -> bool:
        """Whether nothing of its key is before it. Nothing may when the domain is closed."""
        if item.domain_key is None:
            return True
        return not self._closed and next(iter(self._keys[item.domain_key])) is item

    def wait(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when the item may go."""
        assert item.domain_key is not None
        self._keys[item.domain_key][item] = wake

    def leave(self, item: InFlightDelivery) -> None:
        """The item is done with; the next of its key may go."""
        if item.domain_key is None:
            return
        waiting = self._keys[item.domain_key]
        del waiting[item]
        if not waiting:
            del self._keys[item.domain_key]
        elif not self._closed:
            following = next(iter(waiting))
            wake, waiting[following] = waiting[following], None
            if wake is not None:
                wake()
        item.domain_key = None

    def close(self) -> None:
        """A source stops: what it gives back must not be overtaken by what others still have."""
        self._closed = True


def domain_key(key: Hashable) -> Hashable:
    """One form for the keys of all sources: bytes of a message, and text that an expression made of the same bytes."""
    return text_of(key) if isinstance(key, bytes) else key
