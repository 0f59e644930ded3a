"""Stream of messages from a servicer to a reading thread. Cancelling always wakes the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from bridge.engines.embedded.inprocess.context import CallContext, Metadata
from bridge.engines.embedded.inprocess.status import InProcessRpcError, Status, failure

_END = object()


class Stream:
    """Result of a streaming call: an iterator that another thread can cancel."""

    def __init__(self, name: str, context: CallContext) -> None:
        self.name = name
        self.context = context
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._status: Status | None = None
        self._cancelled = False
        self._ended = False

    def put(self, item: Any) -> bool:
        """Pass an item to the reader; return False when the stream was cancelled."""
        if self._cancelled:
            return False
        self._items.put(item)
        return True

    def end(self, error: BaseException | None) -> None:
        """End the stream after the items that were put."""
        self._status = failure(self.name, self.context, error)
        self.context.finish()
        self._items.put(_END)

    def cancel(self) -> bool:
        """End the call now: the reader gets CANCELLED, and the servicer's callbacks run."""
        if self._ended or self._cancelled:
            return False
        self._cancelled = True
        self._items.put(_END)
        self.context.finish()
        return True

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended and not self._cancelled:
            raise StopIteration
        item = _END if self._cancelled else self._items.get()
        if self._cancelled:
            raise InProcessRpcError((grpc.StatusCode.CANCELLED, f"{self.name} was cancelled", ()))
        if item is not _END:
            return item
        self._ended = True
        if self._status is not None:
            raise InProcessRpcError(self._status)
        raise StopIteration

    def is_active(self) -> bool:
        return self.context.is_active()

    def time_remaining(self) -> float | None:
        return self.context.time_remaining()

    def add_callback(self, callback: Callable[[], object]) -> bool:
        return self.context.add_callback(callback)

    def code(self) -> Any:
        """Status code so far; None while the stream is open."""
        if self._cancelled:
            return grpc.StatusCode.CANCELLED
        if self._status is not None:
            return self._status[0]
        return grpc.StatusCode.OK if self._ended else None

    def details(self) -> str:
        return self._status[1] if self._status is not None else ""

    def initial_metadata(self) -> Metadata:
        return ()

    def trailing_metadata(self) -> Any:
        return self._status[2] if self._status is not None else ()


def pump_generator(stream: Stream, handler: Callable[..., Any], request: Any) -> None:
    """Run a servicer's generator on this thread until it ends or the stream is cancelled."""
    error: Exception | None = None
    try:
        items = handler(request, stream.context)
        for item in items:
            if not stream.put(item):
                break
        if hasattr(items, "close"):
            items.close()
    except Exception as caught:
        error = caught
    stream.end(error)


def pump_on_loop(stream: Stream, items: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
    """Run a servicer's asynchronous generator on its loop until it ends or the stream is cancelled."""

    async def pump() -> None:
        error: BaseException | None = None
        try:
            async for item in items:
                if not stream.put(item):
                    break
        except Exception as caught:
            error = caught
        finally:
            await items.aclose()
            stream.end(error)

    future = asyncio.run_coroutine_threadsafe(pump(), loop)
    stream.add_callback(future.cancel)
