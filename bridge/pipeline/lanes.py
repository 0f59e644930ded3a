"""Order of deliveries: lanes, one per ordering key, and ordering domains across sources.

One item of a lane is processed at a time, different lanes concurrently.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from enum import Enum

from bridge.config.model.sources import LimitsConfig
from bridge.core.bytetext import text_of
from bridge.pipeline.in_flight_delivery import InFlightDelivery

_CHANCES = 3
"""Attempts of a message however many wait behind it: a hot key must not lose messages to a short failure."""


class LaneState(Enum):
    """State of a lane. READY: for a worker. RUNNING: a worker has its head. WAITING: for a time.

    HELD: for a call, at the end of an outage, with a slot of the running orchestrations, or after others of its value.
    """

    READY = 1
    RUNNING = 2
    WAITING = 3
    HELD = 4


class Lane:
    """Items of one ordering key, oldest first. The key None makes a lane of a single item."""

    __slots__ = ("items", "key", "state", "timer")

    def __init__(self, key: Hashable | None, item: InFlightDelivery) -> None:
        self.key = key
        self.items: deque[InFlightDelivery] = deque((item,))
        self.state = LaneState.READY
        self.timer: asyncio.TimerHandle | None = None

    def enter(self, state: LaneState, timer: asyncio.TimerHandle | None = None) -> None:
        """Change the state. timer: of WAITING."""
        self.state, self.timer = state, timer

    def cancel_timer(self) -> None:
        """End the wait for a time."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def remove(self, gone: Container[InFlightDelivery]) -> None:
        """Remove items."""
        self.items = deque(item for item in self.items if item not in gone)

    @property
    def backlog(self) -> int:
        """Number of items behind the head."""
        return len(self.items) - 1


class Lanes:
    """Lanes of one source. Not thread-safe: one event loop."""

    def __init__(
        self, waits: Callable[[Lane], bool] | None = None, max_backlog: int = LimitsConfig().max_key_backlog
    ) -> None:
        """Create the lanes.

        waits: True when the head of a lane must wait; the callback then makes sure that `free` is called for the lane.
        max_backlog: most items behind a head that fails.
        """
        self._waits = waits
        self._max_backlog = max_backlog
        self._keyed: dict[Hashable, Lane] = {}
        self._unkeyed: set[Lane] = set()
        self._held: set[Lane] = set()
        self._ready: deque[Lane] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._waking = 0

    def __iter__(self) -> Iterator[Lane]:
        yield from list(self._keyed.values())
        yield from list(self._unkeyed)

    def has(self, key: Hashable) -> bool:
        """True while the lane of a key has items."""
        return key in self._keyed

    def is_crowded(self, lane: Lane) -> bool:
        """True when too many items wait behind a head that has had its attempts."""
        return lane.items[0].attempt >= _CHANCES and lane.backlog > self._max_backlog

    def push(self, key: Hashable | None, item: InFlightDelivery) -> Lane:
        """Append an item to its key's lane; open the lane when there is none."""
        if key is None:
            lane = Lane(None, item)
            self._unkeyed.add(lane)
        else:
            known = self._keyed.get(key)
            if known is not None:
                known.items.append(item)
                return known
            lane = self._keyed[key] = Lane(key, item)
        self._offer(lane)
        return lane

    def insert(self, key: Hashable, items: Sequence[InFlightDelivery]) -> bool:
        """Insert items before all others of their key; False, without effect, while a worker has the lane's head."""
        lane = self._keyed.get(key)
        if lane is not None and lane.state is LaneState.RUNNING:
            return False
        if lane is None:
            lane = self.push(key, items[0])
            lane.items.extend(items[1:])
            return True
        lane.items.extendleft(reversed(items))
        if lane.state is not LaneState.READY:
            self._unlink(lane)
            self._offer(lane)
        return True

    async def take(self) -> Lane:
        """Wait for a ready lane and return it as RUNNING. Its head is the item to process."""
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._waking -= 1
                    self._wake()  # the wake-up was meant for a worker that is still running
                raise
            self._waking -= 1
        lane = self._ready.popleft()
        lane.enter(LaneState.RUNNING)
        if self._ready and self._idle:
            # A woken worker wakes two: all work soon where work suspends, and none wakes in vain where it does not
            self._wake(2)
        return lane

    def settled(self, lane: Lane) -> None:
        """Remove the finished head of a RUNNING lane. The next item is ready after the other keys had a turn."""
        lane.items.popleft()
        if lane.items:
            self._offer(lane)
        else:
            self._close(lane)

    def wait(self, lane: Lane, delay: float) -> None:
        """Make the head of a RUNNING lane ready again after `delay` seconds."""
        lane.enter(LaneState.WAITING, asyncio.get_running_loop().call_later(delay, self._offer, lane))

    def end_wait(self, lane: Lane) -> None:
        """Make a WAITING lane ready now."""
        self._unlink(lane)
        self._offer(lane)

    def hold(self, lane: Lane) -> None:
        """Make the head of a lane wait until `release` or `free` is called."""
        lane.enter(LaneState.HELD)
        self._held.add(lane)

    def free(self, lane: Lane) -> None:
        """Make this lane ready if it is held."""
        if lane in self._held:
            self._held.discard(lane)
            self._offer(lane)

    def release(self) -> None:
        """Make every held lane ready."""
        held, self._held = self._held, set()
        for lane in held:
            self._offer(lane)

    def drop(self, gone: Callable[[InFlightDelivery], bool]) -> tuple[list[InFlightDelivery], list[InFlightDelivery]]:
        """Remove the items for which `gone` is True, except running heads. Return (removed, still running)."""
        removed: list[InFlightDelivery] = []
        running: list[InFlightDelivery] = []
        for lane in self:
            at_work = lane.items[0] if lane.state is LaneState.RUNNING else None
            if at_work is not None and gone(at_work):
                running.append(at_work)
            head = lane.items[0]
            dropped = [item for item in lane.items if item is not at_work and gone(item)]
            if not dropped:
                continue
            removed += dropped
            lane.remove(set(dropped))
            if at_work is not None:
                continue
            if not lane.items:
                self._unlink(lane)
                self._close(lane)
            elif lane.items[0] is not head and lane.state is not LaneState.READY:
                self._unlink(lane)
                self._offer(lane)
        return removed, running

    def _offer(self, lane: Lane) -> None:
        if self._waits is not None and self._waits(lane):
            self.hold(lane)
            return
        lane.enter(LaneState.READY)
        self._ready.append(lane)
        self._wake()

    def _wake(self, most: int = 1) -> None:
        while self._idle and self._waking < most:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._waking += 1

    def _unlink(self, lane: Lane) -> None:
        lane.cancel_timer()
        self._held.discard(lane)
        if lane.state is LaneState.READY:
            self._ready.remove(lane)

    def _close(self, lane: Lane) -> None:
        if lane.key is None:
            self._unkeyed.discard(lane)
        else:
            del self._keyed[lane.key]


class OrderingDomain:
    """Order of arrival per key across sources, over all sources that share the domain. Not thread-safe: one event loop.

    An item joins when it is received. It may go when all earlier items of its key have left. It leaves when it is
    settled or abandoned.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._keys: dict[Hashable, dict[InFlightDelivery, Callable[[], None] | None]] = {}
        self._key_of: dict[InFlightDelivery, Hashable] = {}
        self._closed = False

    def __len__(self) -> int:
        """Number of keys with items."""
        return len(self._keys)

    def join(self, key: Hashable, item: InFlightDelivery) -> None:
        self._key_of[item] = key
        self._keys.setdefault(key, {})[item] = None

    def may_go(self, item: InFlightDelivery) -> bool:
        """True when no item of its key is before it. Always False after `close`."""
        if item not in self._key_of:
            return True
        return not self._closed and next(iter(self._keys[self._key_of[item]])) is item

    def wait(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when the item may go."""
        self._keys[self._key_of[item]][item] = wake

    def leave(self, item: InFlightDelivery) -> None:
        """Remove an item that is done, and let the next of its key go."""
        if item not in self._key_of:
            return
        key = self._key_of.pop(item)
        waiting = self._keys[key]
        del waiting[item]
        if not waiting:
            del self._keys[key]
        elif not self._closed:
            following = next(iter(waiting))
            wake, waiting[following] = waiting[following], None
            if wake is not None:
                wake()

    def close(self) -> None:
        """Let no further item go: a source stops, and its abandoned messages must not be overtaken by others."""
        self._closed = True


def domain_key(key: Hashable) -> Hashable:
    """Common form of the keys of all sources: message bytes, and text that an expression made of the same bytes."""
    return text_of(key) if isinstance(key, bytes) else key
