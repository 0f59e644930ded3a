"""Flow of work items from a remote engine to the SDK's worker, which itself queues as many as the engine sends."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

PAUSE = 1.0
"""Seconds within which a worker opens at most `BURST` streams: the SDK reopens a closed one at once."""
BURST = 5
_LOOK = 0.25
"""Seconds between two looks of a waiting reader at its stream, which may have been cancelled."""


class WorkItemFlow(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that reads no further work item while those in progress hold `size` bytes. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._queued = 0
        self._working = 0
        self._changed = threading.Condition()
        self._stream: object = None
        self._opened: deque[float] = deque(maxlen=BURST)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        if not client_call_details.method.endswith("/GetWorkItems"):
            return continuation(client_call_details, request)
        if len(self._opened) == BURST:
            time.sleep(max(0.0, self._opened[0] + PAUSE - time.monotonic()))
        self._opened.append(time.monotonic())
        stream = _Stream(continuation(client_call_details, request), self)
        with self._changed:
            # The SDK drops what the queue of an earlier stream holds
            self._stream, self._queued = stream, 0
        return stream

    def read(self, stream: object, item: Any) -> None:
        """Count an item that was read from a stream."""
        kind = item.WhichOneof("request")
        with self._changed:
            if stream is self._stream and kind is not None:
                self._queued += getattr(item, kind).ByteSize()

    def begin(self, request: Any) -> Callable[[], None]:
        """Count an item that the worker takes from its queue; return a function to call when it is done."""
        size = request.ByteSize()
        with self._changed:
            self._queued = max(0, self._queued - size)
            self._working += size
        return partial(self._done, size)

    def _done(self, size: int) -> None:
        with self._changed:
            self._working -= size
            self._changed.notify_all()

    def wait(self, is_active: Callable[[], bool]) -> None:
        """Wait until there is room for another item, or until the stream is no longer active."""
        with self._changed:
            while self._queued + self._working >= self._size and is_active():
                self._changed.wait(_LOOK)


class _Stream:
    """Stream of work items."""

    def __init__(self, call: Any, flow: WorkItemFlow) -> None:
        self._call = call
        self._flow = flow

    def __iter__(self) -> Iterator[Any]:
        for item in self._call:
            self._flow.read(self, item)
            yield item
            self._flow.wait(self._call.is_active)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
