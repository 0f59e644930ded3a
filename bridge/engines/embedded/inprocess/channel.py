"""Synchronous in-process channel, for the SDK's worker and its synchronous client."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from bridge.engines.embedded.inprocess.context import AioCallContext, CallContext, Metadata
from bridge.engines.embedded.inprocess.status import InProcessRpcError, Status, closed, failure, timed_out
from bridge.engines.embedded.inprocess.stream import Stream, pump_generator, pump_on_loop


class Channel(grpc.Channel):  # type: ignore[misc]  # grpcio ships no type information
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
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()

    def unary_unary(self, method: str, *_: Any, **__: Any) -> UnaryUnary:
        return UnaryUnary(self, method.rpartition("/")[2])

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., Stream]:
        name = method.rpartition("/")[2]
        handler = getattr(self.servicer, name)

        def call(request: Any, timeout: float | None = None, **_: Any) -> Stream:
            if self.closed:
                raise InProcessRpcError(closed())
            deadline = None if timeout is None else time.monotonic() + timeout
            if inspect.isasyncgenfunction(handler):
                context: CallContext = AioCallContext(self.metadata, deadline)
                stream = Stream(name, context)
                pump_on_loop(stream, handler(request, context), self.servicer_loop(name))
            else:
                context = CallContext(self.metadata, deadline)
                stream = Stream(name, context)
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

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnaryUnary(grpc.UnaryUnaryMultiCallable):  # type: ignore[misc]  # grpcio ships no type information
    """Callable for one method of the servicer."""

    def __init__(self, channel: Channel, name: str) -> None:
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
