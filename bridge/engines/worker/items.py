"""Work items that a worker holds of a stream. An engine takes no result of a work item whose stream has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc

from bridge.sqlite_engine.hub.leases import TAKES_BACK


class EngineGreeting(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that reads in an engine's response to `Hello` if it takes back the work of a stopping worker.

    Such an engine sends no more work to a stopping worker, and gives the returned work to others at once.
    takes_back: True for an engine that is known to.
    """

    def __init__(self, *, takes_back: bool = False) -> None:
        self.takes_back = takes_back

    def read(self, metadata: Iterable[tuple[str, Any]]) -> None:
        """Read the metadata of a response to `Hello`."""
        self.takes_back = any(name == TAKES_BACK for name, _ in metadata)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        if client_call_details.method.endswith("/Hello"):
            self.read(call.initial_metadata() or ())
        return call


class Item:
    """Work item that a worker holds.

    return_token: returns the item to the engine. Its argument precedes the completion token.
    """

    __slots__ = ("_return_token",)

    def __init__(self, return_token: Callable[[str], None]) -> None:
        self._return_token = return_token

    def give_back(self, mark: str = "") -> None:
        """Return the item to the engine, or send the engine a mark about its stream."""
        with suppress(Exception):  # the engine may be gone and have nothing to take back
            self._return_token(mark)


class HeldItems:
    """Work items that have not begun, and those that run. Thread-safe.

    A stopping worker begins no item, and waits for those that run before it ends the stream.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[Item] = set()
        self._running: set[Item] = set()
        self.is_closed = False
        self._is_released = False

    def open(self) -> None:
        """Let items begin."""
        with self._changed:
            self.is_closed = self._is_released = False

    def close(self) -> Item | None:
        """Let no item begin. Returns one that runs, if any does."""
        with self._changed:
            self.is_closed = True
            return next(iter(self._running), None)

    def add(self, item: Item) -> None:
        """Add an item that has arrived."""
        with self._changed:
            self._waiting.add(item)

    def begin(self, item: Item) -> bool:
        """Record that an item begins. Returns False for an item that must not run, or was taken."""
        with self._changed:
            if self.is_closed or item not in self._waiting:
                return False
            self._waiting.discard(item)
            self._running.add(item)
            return True

    def end(self, item: Item) -> None:
        """Record that an item has ended, and its result was sent."""
        with self._changed:
            self._running.discard(item)
            if not self._running:
                self._changed.notify_all()

    def release(self) -> list[Item]:
        """Remove and return the items that have not begun. Later ones are for `take`."""
        with self._changed:
            self._is_released = True
        return self.take_waiting()

    def take(self, item: Item) -> bool:
        """Remove an item that could not begin. Returns False before the release, and for an item that was taken."""
        with self._changed:
            if not self._is_released or item not in self._waiting:
                return False
            self._waiting.discard(item)
            return True

    def take_waiting(self) -> list[Item]:
        """Remove and return the items that have not begun."""
        with self._changed:
            taken = list(self._waiting)
            self._waiting.clear()
            return taken

    def wait(self, seconds: float | None) -> None:
        """Wait until no item runs, for `seconds` at most; None: without a limit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
