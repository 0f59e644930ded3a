"""Synchronous in-process channel, for the SDK's worker and its synchronous client."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from queue import SimpleQueue
from typing import Any, NoReturn

import grpc

from bridge.engines.embedded.inprocess.call import (
    AioCallContext,
    CallContext,
    InProcessRpcError,
    Metadata,
    Status,
    closed,
    failure,
    timed_out,
)

_END = object()


class StreamingCall:
    """Result of a streaming call: an iterator that another thread can cancel, which always wakes the reader."""

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


def pump_generator(stream: StreamingCall, handler: Callable[..., Any], request: Any) -> None:
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


def pump_on_loop(stream: StreamingCall, items: AsyncGenerator[Any, None], loop: asyncio.AbstractEventLoop) -> None:
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


class InProcessChannel(grpc.Channel):  # type: ignore[misc]  # grpcio ships no type information
    """Channel that calls a servicer from any thread.

    servicer: plain functions and generators run on the calling thread and on one thread per stream; coroutine functions
    and asynchronous generators run on `loop`.
    timeout: deadline in seconds of a call to a coroutine function that gives none; None for no limit. A plain function
    gets its deadline and is not interrupted.
    loop: event loop of the servicer's coroutine functions. Calls from that loop's own thread would wait for themselves
    and are refused.
    """

    def __init__(
        self,
        servicer: Any,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.servicer = servicer
        self.metadata = tuple(metadata)
        self.timeout = timeout
        self.loop = loop
        self.closed = False
        self._streams: weakref.WeakSet[StreamingCall] = weakref.WeakSet()

    def unary_unary(self, method: str, *_: Any, **__: Any) -> UnaryUnary:
        return UnaryUnary(self, method.rpartition("/")[2])

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., StreamingCall]:
        name = method.rpartition("/")[2]
        handler = getattr(self.servicer, name)

        def call(request: Any, timeout: float | None = None, **_: Any) -> StreamingCall:
            if self.closed:
                raise InProcessRpcError(closed())
            deadline = None if timeout is None else time.monotonic() + timeout
            if inspect.isasyncgenfunction(handler):
                context: CallContext = AioCallContext(self.metadata, deadline)
                stream = StreamingCall(name, context)
                pump_on_loop(stream, handler(request, context), self.servicer_loop(name))
            else:
                context = CallContext(self.metadata, deadline)
                stream = StreamingCall(name, context)
                threading.Thread(
                    target=pump_generator, args=(stream, handler, request), name=f"bridge-{name}", daemon=True
                ).start()
            self._streams.add(stream)
            return stream

        return call

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the sidecar service has no streamed requests")

    stream_stream = stream_unary

    def servicer_loop(self, name: str) -> asyncio.AbstractEventLoop:
        """Event loop of coroutine functions. Raises: RuntimeError when none was given, or when called on that loop."""
        if self.loop is None:
            raise RuntimeError(f"{name} is a coroutine function; the channel needs its event loop")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return self.loop
        if here is self.loop:
            raise RuntimeError(f"{name} cannot be called synchronously from the event loop that would answer it")
        return self.loop

    def subscribe(self, callback: Callable[[Any], None], try_to_connect: bool = False) -> None:
        """Call the callback once with READY. The channel stays ready until it is closed."""
        callback(grpc.ChannelConnectivity.READY)

    def unsubscribe(self, callback: Callable[[Any], None]) -> None:
        """Do nothing: the callback is not kept."""

    def close(self) -> None:
        """Refuse further calls and cancel streams."""
        self.closed = True
        for stream in list(self._streams):
            stream.cancel()

    def __enter__(self) -> InProcessChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]  # grpcio ships no type information
    """Callable for one method of the servicer."""

    def __init__(self, channel: InProcessChannel, name: str) -> None:
        self._channel = channel
        self._name = name
        self._handler = getattr(channel.servicer, name)
        self._on_loop = inspect.iscoroutinefunction(self._handler)

    def __call__(self, request: Any, timeout: float | None = None, **_: Any) -> Any:
        channel = self._channel
        if channel.closed:
            raise InProcessRpcError(closed())
        seconds = channel.timeout if timeout is None else timeout
        deadline = None if seconds is None else time.monotonic() + seconds
        context = (AioCallContext if self._on_loop else CallContext)(channel.metadata, deadline)
        error: Exception | None = None
        status: Status | None
        response = None
        try:
            response = self._wait(request, context, seconds) if self._on_loop else self._handler(request, context)
        except InProcessRpcError:
            raise
        except Exception as caught:
            error = caught
        finally:
            context.finish()
        status = failure(self._name, context, error)
        if status is not None:
            raise InProcessRpcError(status) from error
        return response

    def _wait(self, request: Any, context: CallContext, seconds: float | None) -> Any:
        loop = self._channel.servicer_loop(self._name)
        if loop.is_closed():
            raise InProcessRpcError(closed())
        future = asyncio.run_coroutine_threadsafe(self._handler(request, context), loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise InProcessRpcError(timed_out(self._name)) from None

    def with_call(self, request: Any, timeout: float | None = None, **_: Any) -> tuple[Any, Any]:
        """Response, and an object with a `code()`, as interceptors need it."""
        return self(request, timeout), _SUCCESS

    def future(self, request: Any, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError("an in-process call has no future; use the asynchronous channel")


_SUCCESS = InProcessRpcError((grpc.StatusCode.OK, "", ()))
