"""Grouping of the operations of a server's calls, so that one transaction takes many of them.

Each call of a server takes a few turns of its event loop, and a transaction costs as much as several operations. A
writer that began with the first operation would commit one or two at a time. Operations therefore wait until the loop
has read all calls that had arrived. While many operations arrive, they also wait for later ones: workers' results for
`RESULTS_PACE`, and only for `CALLS_PACE` as soon as a caller waits for the commit. A wait that brings nothing is not
repeated for some time, so that a single caller never waits for others.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from bridge.sqlite_engine.hub.working_set import WriterOperation

CALLS_PACE = 0.003
"""Seconds between two groups while many operations arrive and a caller waits for one of them."""

RESULTS_PACE = 0.01
"""Seconds between two groups while many operations arrive, all of them results of workers."""

MANY = 4
"""Number of operations within `RESULTS_PACE` from which on they wait for each other."""

LARGEST = 128
"""Number of operations with which a group waits no more."""

QUIET_TURNS = 2
"""Turns of the event loop without an operation after which all calls that had arrived are read."""

MOST_SKIPPED = 64
"""Largest number of groups that do not wait, after waits that brought nothing."""


class OperationGroup:
    """Operations of the calls in one event loop, on their way to the writer.

    submit: passes operations to the writer, in order. `add` runs in the loop; `flush` may be called from any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, submit: Callable[[list[WriterOperation]], None]) -> None:
        self._loop = loop
        self._submit: Final = submit
        self._lock = threading.Lock()
        self._waiting: list[WriterOperation] = []
        self._has_caller = False
        self._is_collecting = False
        self._seen = self._quiet = 0
        self._wait: asyncio.TimerHandle | None = None
        self._waits_with = 0
        self._flushed = self._period = 0.0
        self._arrived = self._arrived_before = 0
        """Operations of this period of `RESULTS_PACE`, and of the one before."""
        self._skips, self._next_skips = 0, 1

    def add(self, operation: WriterOperation) -> None:
        """Add an operation, which reaches the writer soon."""
        with self._lock:
            self._waiting.append(operation)
        self._arrived += 1
        is_first_caller = operation.reply is not None and not self._has_caller
        if is_first_caller:
            self._has_caller = True
        if self._wait is None:
            if not self._is_collecting:
                self._is_collecting = True
                self._seen = self._quiet = 0
                self._loop.call_soon(self._collect)
        elif is_first_caller or len(self._waiting) >= LARGEST:
            self._wait.cancel()
            self._wait = None
            self._wait_or_pass_on()

    def flush(self) -> None:
        """Pass all operations to the writer."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            if waiting:
                self._submit(waiting)

    def _collect(self) -> None:
        """Go on when the loop has read all calls that had arrived."""
        number = len(self._waiting)
        if number > self._seen:
            self._seen, self._quiet = number, 0
        else:
            self._quiet += 1
        if self._quiet < QUIET_TURNS and number < LARGEST:
            self._loop.call_soon(self._collect)
            return
        self._is_collecting = False
        self._waits_with = number
        self._wait_or_pass_on()

    def _wait_or_pass_on(self) -> None:
        now = self._loop.time()
        self._count(now)
        left = self._flushed + (CALLS_PACE if self._has_caller else RESULTS_PACE) - now
        is_worth_it = max(self._arrived, self._arrived_before) >= MANY and len(self._waiting) < LARGEST
        if left > 0 and is_worth_it:
            if not self._skips:
                self._wait = self._loop.call_later(left, self._end_wait)
                return
            self._skips -= 1
        self._pass_on(now)

    def _count(self, now: float) -> None:
        """Begin another period of the count when the last one has ended."""
        passed = now - self._period
        if passed >= RESULTS_PACE:
            self._arrived_before = self._arrived if passed < 2 * RESULTS_PACE else 0
            self._arrived, self._period = 0, now

    def _end_wait(self) -> None:
        self._wait = None
        if len(self._waiting) > self._waits_with:
            self._next_skips = 1
        else:
            self._skips = self._next_skips
            self._next_skips = min(MOST_SKIPPED, 2 * self._next_skips)
        self._pass_on(self._loop.time())

    def _pass_on(self, now: float) -> None:
        self._flushed = now
        self._has_caller = False
        self.flush()
