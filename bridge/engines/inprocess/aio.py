# ruff: noqa: ASYNC109 - gRPC callers pass their deadline as `timeout`
"""An asynchronous in-process channel."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no type information

from bridge.engines.inprocess.context import AioCallContext, CallContext, Metadata
from bridge.engines.inprocess.status import aio_error, closed, failure, timed_out, too_large

BLOCKING = frozenset({"WaitForInstanceStart", "WaitForInstanceCompletion", "GetWorkItems"})
"""Methods of the sidecar service that wait inside the servicer when they are not coroutine functions."""

WAIT_THREADS = 32
_END = object()


class AioChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpcio ships no type information
    """Calls a servicer on the running event loop.

    servicer: methods may be plain functions, coroutine functions, generators or asynchronous generators. Plain ones
        run directly on the loop and so must be quick, except those named in `blocking`, which run on threads (at most
        WAIT_THREADS at once, further ones wait their turn).
    timeout: seconds, the deadline of a call that gives none; None for no limit.
    max_request: bytes; a larger request is refused as gRPC refuses it. None for no limit.
    before: called with a request before it is sent, by the method's name.

    What a call returns is awaitable (or iterable, for streams) and has nothing else of `grpc.aio.Call`. It starts when
    it is awaited, and cancelling the awaiting task cancels it.
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
        call, prepare = self._unary(name), self._before.get(name)
        if prepare is None:
            return call

        async def prepared(request: Any, **options: Any) -> Any:
            prepare(request)
            return await call(request, **options)

        return prepared

    def _unary(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        handler = getattr(self._servicer, name)
        if inspect.iscoroutinefunction(handler):
            return partial(self._awaited, name, handler)
        if name in self._blocking:
            return partial(self._threaded, name, handler)
        return self._direct(name, handler)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Callable[..., AsyncIterator[Any]]:
        name = method.rpartition("/")[2]
        handler = getattr(self._servicer, name)
        if inspect.isasyncgenfunction(handler):
            return partial(self._streamed, name, handler)
        return partial(self._iterated, name, handler)

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the sidecar service has no streamed requests")

    stream_stream = stream_unary

    def _direct(self, name: str, handler: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        limit = self._max_request

        # The hot path: no deadline, as the handler runs to its end on this loop anyway, and no bookkeeping.
        async def call(request: Any, *, timeout: float | None = None, **_: Any) -> Any:
            if self._closed:
                raise aio_error(closed())
            if limit is not None and (size := request.ByteSize()) > limit:
                raise aio_error(too_large(size, limit))
            seconds = self._timeout if timeout is None else timeout
            context = CallContext(self._metadata, None if seconds is None else time.monotonic() + seconds)
            try:
                response = handler(request, context)
            except Exception as error:
                context.finish()
                raise aio_error(_failure(name, context, error)) from error
            context.finish()
            if context.code() is not None and (status := failure(name, context, None)) is not None:
                raise aio_error(status)
            return response

        return call

    async def _awaited(
        self, name: str, handler: Callable[..., Any], request: Any, *, timeout: float | None = None, **_: Any
    ) -> Any:
        context, seconds = self._begin(AioCallContext, request, timeout)
        try:
            async with asyncio.timeout(seconds):
                response = await handler(request, context)
        except Exception as error:
            raise aio_error(_failure(name, context, error)) from error
        finally:
            self._end(context)
        status = failure(name, context, None)
        if status is not None:
            raise aio_error(status)
        return response

    async def _threaded(
        self, name: str, handler: Callable[..., Any], request: Any, *, timeout: float | None = None, **_: Any
    ) -> Any:
        context, seconds = self._begin(CallContext, request, timeout)
        future = asyncio.get_running_loop().run_in_executor(self._executor(), handler, request, context)
        try:
            # A thread cannot be cancelled: past the deadline its answer is dropped.
            done, _pending = await asyncio.wait((future,), timeout=seconds)
            if not done:
                future.add_done_callback(_retrieve)
                raise aio_error(timed_out(name))
            response = future.result()
        except grpc.aio.AioRpcError:
            raise
        except asyncio.CancelledError:
            future.add_done_callback(_retrieve)
            raise
        except Exception as error:
            raise aio_error(_failure(name, context, error)) from error
        finally:
            self._end(context)
        status = failure(name, context, None)
        if status is not None:
            raise aio_error(status)
        return response

    async def _streamed(
        self, name: str, handler: Callable[..., Any], request: Any, *, timeout: float | None = None, **_: Any
    ) -> AsyncIterator[Any]:
        context, seconds = self._begin(AioCallContext, request, timeout)
        items = handler(request, context)
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items, _END)
                if item is _END:
                    break
                yield item
        except Exception as error:
            raise aio_error(_failure(name, context, error)) from error
        finally:
            self._end(context)
            await items.aclose()
        status = failure(name, context, None)
        if status is not None:
            raise aio_error(status)

    async def _iterated(
        self, name: str, handler: Callable[..., Any], request: Any, *, timeout: float | None = None, **_: Any
    ) -> AsyncIterator[Any]:
        context, _seconds = self._begin(CallContext, request, timeout)
        threaded = name in self._blocking
        loop = asyncio.get_running_loop()
        try:
            items = iter(handler(request, context))
            while True:
                if threaded:
                    item = await loop.run_in_executor(self._executor(), next, items, _END)
                else:
                    item = next(items, _END)
                if item is _END:
                    break
                yield item
        except Exception as error:
            raise aio_error(_failure(name, context, error)) from error
        finally:
            self._end(context)
        status = failure(name, context, None)
        if status is not None:
            raise aio_error(status)

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
        """Refuses further calls and tells the servicer that those in progress are cancelled."""
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
        """It always is."""

    async def __aenter__(self) -> AioChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _failure(name: str, context: CallContext, error: Exception) -> Any:
    status = failure(name, context, error)
    assert status is not None
    return status


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Marks the result as seen, so that a failure after the caller left is not reported as never retrieved."""
    if not future.cancelled():
        future.exception()
