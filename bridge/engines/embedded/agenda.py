"""Calls that are due later, on one thread however many there are."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Agenda:
    """Runs actions at their time, one after another. The thread starts with the first action and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, delay: float, action: Callable[[], None]) -> None:
        """Runs the action in `delay` seconds (at once when it is not positive); never after `close`."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._heap, (time.monotonic() + delay, next(self._order), action))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Forgets what is left and ends the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    wait = self._heap[0][0] - time.monotonic() if self._heap else None
                    self._changed.wait(None if wait is None else min(wait, threading.TIMEOUT_MAX))
                if self._closed:
                    return
                _due, _order, action = heapq.heappop(self._heap)
            try:
                action()
            except Exception:
                log.exception("a due action failed")
