"""Order across sources: messages of one key from several sources of this process are executed one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from bridge.core.bytetext import text_of
from bridge.pipeline.in_flight_delivery import InFlightDelivery


class OrderingDomain:
    """Order of arrival per key, over all sources that share the domain. Not thread-safe: one event loop.

    An item joins when it is received. It may go when all earlier items of its key have left. It leaves when it is
    settled or abandoned.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._keys: dict[Hashable, dict[InFlightDelivery, Callable[[], None] | None]] = {}
        self._closed = False

    def __len__(self) -> int:
        """Number of keys with items."""
        return len(self._keys)

    def join(self, key: Hashable, item: InFlightDelivery) -> None:
        item.domain_key = key
        self._keys.setdefault(key, {})[item] = None

    def may_go(self, item: InFlightDelivery) -> bool:
        """True when no item of its key is before it. Always False after `close`."""
        if item.domain_key is None:
            return True
        return not self._closed and next(iter(self._keys[item.domain_key])) is item

    def wait(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when the item may go."""
        assert item.domain_key is not None
        self._keys[item.domain_key][item] = wake

    def leave(self, item: InFlightDelivery) -> None:
        """Remove an item that is done, and let the next of its key go."""
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
        """Let no further item go: a source stops, and its abandoned messages must not be overtaken by others."""
        self._closed = True


def domain_key(key: Hashable) -> Hashable:
    """Common form of the keys of all sources: message bytes, and text that an expression made of the same bytes."""
    return text_of(key) if isinstance(key, bytes) else key
