# ruff: noqa: ASYNC109 - gRPC callers pass their deadline as `timeout`
"""Asynchronous in-process channel."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from bridge.engines.embedded.inprocess.call import (
    AioCallContext,
    CallContext,
    Metadata,
    aio_error,
    closed,
    failure,
    timed_out,
    too_large,
)

BLOCKING = frozenset({"WaitForInstanceStart", "WaitForInstanceCompletion", "GetWorkItems"})
"""Methods of the sidecar service that wait inside the servicer when they are not coroutine functions."""

WAIT_THREADS = 32
_END = object()


class AioChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpcio ships no type information
    """Channel that calls a servicer on the running event loop.

    servicer: its methods may be plain functions, coroutine functions, generators or asynchronous generators. Plain
    functions run directly on the loop and must be quick, except those named in `blocking`, which run on at most
    WAIT_THREADS threads.
    timeout: deadline in seconds of a call that gives none; None for no limit.
    max_request: largest request in bytes; a larger one is refused as gRPC refuses it. None for no limit.
    before: functions by method name, called with a request before it is sent.

    A call returns an awaitable (or an iterable, for streams) without the other methods of `grpc.aio.Call`. The call
    starts when it is awaited, and is cancelled with the awaiting task.
    """

    def __init__(
        self,
        servicer: Any,
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
        max_request: int | None = None,
        blocking: Collection[str] = BLOCKING,
        before: Mapping[str, Callable[[Any], None]] | None = None,
    ) -> None:
        self._servicer = servicer
        self._metadata = tuple(metadata)
        self._timeout = timeout
        self._max_request = max_request
        self._blocking = frozenset(blocking)
        self._before = before or {}
        self._threads: ThreadPoolExecutor | None = None
        self._contexts: set[CallContext] = set()
        self._closed = False

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        name = method.rpartition("/")[2]
        handler = getattr(self._servicer, name)
        if inspect.iscoroutinefunction(handler):
            return self._unary(name, AioCallContext, partial(_awaited, handler))
        if name in self._blocking:
            return self._unary(name, CallContext, partial(self._threaded, name, handler))
        return self._unary(name, CallContext, partial(_direct, handler))

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., AsyncIterator[Any]]:
        name = method.rpartition("/")[2]
        handler = getattr(self._servicer, name)
        if inspect.isasyncgenfunction(handler):
            return self._stream(name, AioCallContext, partial(_streamed, handler))
        executor = self._executor if name in self._blocking else None
        return self._stream(name, CallContext, partial(_iterated, handler, executor))

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the sidecar service has no streamed requests")

    stream_stream = stream_unary

    def _unary(
        self, name: str, kind: type[CallContext], run: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Call with one response. `run` gets the request, the context and the time limit in seconds."""
        prepare = self._before.get(name)

        async def call(request: Any, *, timeout: float | None = None, **_: Any) -> Any:
            if prepare is not None:
                prepare(request)
            context, seconds = self._begin(kind, request, timeout)
            try:
                response = await run(request, context, seconds)
            except grpc.aio.AioRpcError:
                raise
            except Exception as error:
                raise _raised(name, context, error) from error
            finally:
                self._end(context)
            if context.code() is not None and (status := failure(name, context, None)) is not None:
                raise aio_error(status)
            return response

        return call

    def _stream(
        self, name: str, kind: type[CallContext], run: Callable[..., AsyncGenerator[Any, None]]
    ) -> Callable[..., AsyncIterator[Any]]:
        """Call with a stream of responses. `run` gets the request, the context and the time limit in seconds."""

        async def call(request: Any, *, timeout: float | None = None, **_: Any) -> AsyncIterator[Any]:
            context, seconds = self._begin(kind, request, timeout)
            try:
                async with contextlib.aclosing(run(request, context, seconds)) as items:
                    async for item in items:
                        yield item
            except grpc.aio.AioRpcError:
                raise
            except Exception as error:
                raise _raised(name, context, error) from error
            finally:
                self._end(context)
            if (status := failure(name, context, None)) is not None:
                raise aio_error(status)

        return call

    async def _threaded(
        self, name: str, handler: Callable[..., Any], request: Any, context: CallContext, seconds: float | None
    ) -> Any:
        future = asyncio.get_running_loop().run_in_executor(self._executor(), handler, request, context)
        try:
            # A thread cannot be cancelled: after the deadline its response is dropped.
            done, _pending = await asyncio.wait((future,), timeout=seconds)
        except asyncio.CancelledError:
            future.add_done_callback(_retrieve)
            raise
        if not done:
            future.add_done_callback(_retrieve)
            raise aio_error(timed_out(name))
        return future.result()

    def _begin(self, kind: type[CallContext], request: Any, timeout: float | None) -> tuple[CallContext, float | None]:
        if self._closed:
            raise aio_error(closed())
        if self._max_request is not None and (size := request.ByteSize()) > self._max_request:
            raise aio_error(too_large(size, self._max_request))
        seconds = self._timeout if timeout is None else timeout
        context = kind(self._metadata, None if seconds is None else time.monotonic() + seconds)
        self._contexts.add(context)
        return context, seconds

    def _end(self, context: CallContext) -> None:
        self._contexts.discard(context)
        context.finish()

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(WAIT_THREADS, thread_name_prefix="bridge-inprocess")
        return self._threads

    async def close(self, grace: float | None = None) -> None:
        """Refuse further calls, and notify the servicer that calls in progress are cancelled."""
        self._closed = True
        for context in list(self._contexts):
            context.finish()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def get_state(self, try_to_connect: bool = False) -> Any:
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        raise NotImplementedError("an in-process channel is ready until it is closed")

    async def channel_ready(self) -> None:
        """Return at once: an in-process channel is always ready."""

    async def __aenter__(self) -> AioChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _direct(handler: Callable[..., Any], request: Any, context: CallContext, _seconds: float | None) -> Any:
    # The handler runs to its end on this loop in any case; a deadline would change nothing.
    return handler(request, context)


async def _awaited(handler: Callable[..., Any], request: Any, context: CallContext, seconds: float | None) -> Any:
    if seconds is None:
        return await handler(request, context)
    async with asyncio.timeout(seconds):
        return await handler(request, context)


async def _streamed(
    handler: Callable[..., AsyncGenerator[Any, None]], request: Any, context: CallContext, seconds: float | None
) -> AsyncGenerator[Any, None]:
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    async with contextlib.aclosing(handler(request, context)) as items:
        while True:
            async with asyncio.timeout_at(deadline):
                item = await anext(items, _END)
            if item is _END:
                return
            yield item


async def _iterated(
    handler: Callable[..., Iterable[Any]],
    executor: Callable[[], ThreadPoolExecutor] | None,
    request: Any,
    context: CallContext,
    _seconds: float | None,
) -> AsyncGenerator[Any, None]:
    items = iter(handler(request, context))
    loop = asyncio.get_running_loop()
    while True:
        item = next(items, _END) if executor is None else await loop.run_in_executor(executor(), next, items, _END)
        if item is _END:
            return
        yield item


def _raised(name: str, context: CallContext, error: Exception) -> Any:
    """Convert an exception of the servicer to the error that the caller gets."""
    status = failure(name, context, error)
    assert status is not None
    return aio_error(status)


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Mark the result as retrieved; a failure after the caller has gone is then not logged as never retrieved."""
    if not future.cancelled():
        future.exception()
