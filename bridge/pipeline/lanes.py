"""Order per key: one lane per ordering key, one item of a lane at work at a time, lanes side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import Enum

from bridge.pipeline.in_flight_delivery import InFlightDelivery


class LaneState(Enum):
    """READY: waits for a worker. RUNNING: a worker has its head. WAITING: until a time. HELD: until it is told."""

    READY = 1
    RUNNING = 2
    WAITING = 3
    HELD = 4


class Lane:
    """Items of one ordering key, oldest first. A key of None makes a lane of a single item."""

    __slots__ = ("items", "key", "state", "timer")

    def __init__(self, key: Hashable | None, item: InFlightDelivery) -> None:
        self.key = key
        self.items: deque[InFlightDelivery] = deque((item,))
        self.state = LaneState.READY
        self.timer: asyncio.TimerHandle | None = None

    @property
    def backlog(self) -> int:
        """Items behind the head."""
        return len(self.items) - 1


class Lanes:
    """All lanes of one source. Not thread-safe: one event loop."""

    def __init__(self, waits: Callable[[Lane], bool] | None = None) -> None:
        """waits: True when the head of a lane may not go before `free` is called for the lane, which it sees to."""
        self._waits = waits
        self._keyed: dict[Hashable, Lane] = {}
        self._unkeyed: set[Lane] = set()
        self._held: set[Lane] = set()
        self._ready: deque[Lane] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._waking = 0

    def __len__(self) -> int:
        return len(self._keyed) + len(self._unkeyed)

    def __iter__(self) -> Iterator[Lane]:
        yield from list(self._keyed.values())
        yield from list(self._unkeyed)

    @property
    def held(self) -> int:
        """Lanes that wait to be told: for the end of an outage, for room among the running orchestrations, for others
        of their value.
        """
        return len(self._held)

    def push(self, key: Hashable | None, item: InFlightDelivery) -> Lane:
        """Append an item to its key's lane, opening the lane when there is none."""
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
        """Put items before all others of their key; False, and nothing is done, while a worker has the lane's head."""
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
        """The next lane that is ready, now RUNNING. Its head is the item to work on. Waits for one."""
        while not self._ready:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._waking -= 1
                    self._wake()  # the wake-up was meant for a worker that lives on
                raise
            self._waking -= 1
        lane = self._ready.popleft()
        lane.state = LaneState.RUNNING
        if self._ready and self._idle:
            # Who wakes wakes two: soon all are up where work suspends, and where it does not none are for nothing
            self._wake(2)
        return lane

    def settled(self, lane: Lane) -> None:
        """The head of a RUNNING lane is done: drop it and let the next one go, after the other keys had a turn."""
        lane.items.popleft()
        if lane.items:
            self._offer(lane)
        else:
            self._close(lane)

    def wait(self, lane: Lane, delay: float) -> None:
        """The head of a RUNNING lane goes again after `delay` seconds."""
        lane.state = LaneState.WAITING
        lane.timer = asyncio.get_running_loop().call_later(delay, self._offer, lane)

    def hurry(self, lane: Lane) -> None:
        """Let a WAITING lane go now."""
        self._unlink(lane)
        self._offer(lane)

    def hold(self, lane: Lane) -> None:
        """The head of a lane goes again when `release` or `free` is called."""
        lane.state = LaneState.HELD
        self._held.add(lane)

    def free(self, lane: Lane) -> None:
        """Let this lane go if it is held."""
        if lane in self._held:
            self._held.discard(lane)
            self._offer(lane)

    def release(self) -> None:
        """Let every held lane go."""
        held, self._held = self._held, set()
        for lane in held:
            self._offer(lane)

    def drop(self, gone: Callable[[InFlightDelivery], bool]) -> tuple[list[InFlightDelivery], list[InFlightDelivery]]:
        """Remove the items that `gone` says, except heads that a worker has. Returns (removed, still at work)."""
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
            lane.items = deque(item for item in lane.items if item is at_work or not gone(item))
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
        lane.timer = None
        if self._waits is not None and self._waits(lane):
            self.hold(lane)
            return
        lane.state = LaneState.READY
        self._ready.append(lane)
        self._wake()

    def _wake(self, most: int = 1) -> None:
        while self._idle and self._waking < most:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._waking += 1

    def _unlink(self, lane: Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        self._held.discard(lane)
        if lane.state is LaneState.READY:
            self._ready.remove(lane)

    def _close(self, lane: Lane) -> None:
        if lane.key is None:
            self._unkeyed.discard(lane)
        else:
            del self._keyed[lane.key]
