"""Destination of an answer: a waiting thread, or a future of an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Protocol


class Reply(Protocol):
    """Caller's side of one call. `settle` takes a result, or an exception to raise."""

    def settle(self, outcome: Any) -> None: ...


class ThreadReply:
    """Reply to a thread that blocks."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[Any] = Future()

    def settle(self, outcome: Any) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)


class LoopReply:
    """Reply to a coroutine. Many answers enter their event loop with one wake-up."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def settle(self, outcome: Any) -> None:
        settle_all([(self, outcome)])


def settle_all(answers: Iterable[tuple[Reply, Any]]) -> None:
    """Settle several replies."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for reply, outcome in answers:
        if isinstance(reply, LoopReply):
            by_loop.setdefault(reply.loop, []).append((reply.future, outcome))
        else:
            reply.settle(outcome)
    for loop, settled in by_loop.items():
        # A closed loop has no waiting callers.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle_futures, settled)


def _settle_futures(settled: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in settled:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
