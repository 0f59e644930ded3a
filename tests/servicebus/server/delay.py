"""Delay line: delivers bytes later and in order, as a slow or distant network would."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class DelayLine:
    """Delay line for one direction. arrive: called with the delayed bytes."""

    def __init__(self, arrive: Callable[[bytes], None]) -> None:
        self._arrive = arrive
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    def put(self, data: bytes, delay: float, bytes_per_second: float = 0.0) -> None:
        """Add bytes. delay: seconds. Without delay the bytes arrive at once, unless earlier bytes are still pending."""
        if not delay and not bytes_per_second and not self._under_way:
            self._arrive(data)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        if bytes_per_second:
            due = max(due, self._last) + len(data) / bytes_per_second
        self._last = due = max(due, self._last)
        self._under_way.append((due, data))
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring)

    def send_now(self) -> None:
        """Deliver all pending bytes now."""
        while self._under_way:
            self._arrive(self._under_way.popleft()[1])
        self.stop()

    def stop(self) -> None:
        """Drop all pending bytes."""
        self._under_way.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._under_way and self._under_way[0][0] <= now:
            self._arrive(self._under_way.popleft()[1])
        if self._under_way and self._timer is None:
            self._timer = loop.call_at(self._under_way[0][0], self._ring)
