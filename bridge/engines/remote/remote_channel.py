# ruff: noqa: ASYNC109 - gRPC callers pass their deadline as `timeout`
"""Channel of a client to an engine in another process: deadline, headers, limits and trace context in the call itself.

An interceptor of grpc.aio costs a task and several objects for each call. The channel therefore has none. The stub of
the SDK's client uses it like a channel of grpc.aio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from bridge.engines.errors import status_of
from bridge.engines.remote.grpc_channel import BEFORE, HEADERS_SECONDS, CallDetails
from bridge.engines.remote.remote_limits import ResponseLimits
from bridge.system.tasks import cancelled

WAITS = frozenset({"WaitForInstanceStart", "WaitForInstanceCompletion"})
"""Methods whose deadline is the caller's choice: that it passes says nothing about the connection."""

MOST_FAILURES = 5
"""Number of successive failures after which a connection is replaced."""

RENEWAL_SECONDS = 30.0
"""Shortest time between two replacements. The calls on the replaced connection have this time to end."""

_CONNECTION_FAILURES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class AioCallHeaders:
    """Headers that asynchronous interceptors add to calls, such as the task hub and a token.

    The headers are kept for HEADERS_SECONDS; the interceptors renew tokens in time.
    """

    def __init__(self, interceptors: Sequence[Any] = ()) -> None:
        self._interceptors = interceptors
        self._headers = grpc.aio.Metadata()
        self._until = 0.0 if interceptors else float("inf")

    @property
    def kept(self) -> Any:
        """Headers of a call that is made now; None when they must be renewed."""
        return self._headers if time.monotonic() < self._until else None

    async def renew(self) -> Any:
        """Ask the interceptors. Raises: the exceptions of their credentials."""

        async def changed(details: Any, _: Any) -> Any:
            return details

        details: Any = CallDetails()
        for interceptor in self._interceptors:
            details = await interceptor.intercept_unary_unary(changed, details, None)
        self._headers = grpc.aio.Metadata(*(details.metadata or ()))
        self._until = time.monotonic() + HEADERS_SECONDS
        return self._headers


class RemoteChannel(grpc.aio.Channel):  # type: ignore[misc]  # grpcio ships no type information
    """Channel to an engine, over a connection that is made at the first call, in its event loop.

    connect: makes a connection: a channel of grpc.aio. After MOST_FAILURES the connection is replaced.
    timeout: deadline in seconds of a call that gives none. It includes the time to get the headers.
    headers: headers of each call; None: there are none.
    limits: limits of responses; None for an engine of this installation.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        timeout: float,
        headers: AioCallHeaders | None = None,
        limits: ResponseLimits | None = None,
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._headers = AioCallHeaders() if headers is None else headers
        self._limits = limits
        self._connection: Any = None
        self._methods: dict[str, Any] = {}
        """Methods of the connection, by their paths."""
        self._failures = 0
        self._replaced = 0.0
        self._retired: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def unary_unary(self, method: str, *arguments: Any, **more: Any) -> Callable[..., RemoteCall]:
        name = method.rpartition("/")[2]
        prepare = BEFORE.get(name)

        def begin(request: Any, timeout: float, headers: Any) -> Any:
            found = self._methods.get(method)
            if found is None:
                found = self._methods[method] = self._connected().unary_unary(method, *arguments, **more)
            return found(request, timeout=timeout, metadata=headers)

        def call(request: Any, *, timeout: float | None = None, **_: Any) -> RemoteCall:
            if prepare is not None:
                prepare(request)
            return RemoteCall(self, name, begin, request, self._timeout if timeout is None else timeout)

        return call

    def unary_stream(self, method: str, *arguments: Any, **more: Any) -> Callable[..., AsyncIterator[Any]]:
        name = method.rpartition("/")[2]

        def begin(request: Any, timeout: float, headers: Any) -> Any:
            return self._connected().unary_stream(method, *arguments, **more)(
                request, timeout=timeout, metadata=headers
            )

        async def parts(request: Any, *, timeout: float | None = None, **_: Any) -> AsyncIterator[Any]:
            sent = await self.send(begin, request, self._timeout if timeout is None else timeout)
            try:
                async for part in sent:
                    if self._limits is not None:
                        self._limits.count(part)
                    yield part
            except grpc.RpcError as error:
                raise self.failure(name, request, error) from None
            finally:
                sent.cancel()

        return parts

    def stream_unary(self, method: str, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: the sidecar service has no streamed requests")

    stream_stream = stream_unary

    async def send(self, begin: Callable[[Any, float, Any], Any], request: Any, timeout: float) -> Any:
        """Call of grpc.aio for a request. Raises: TimeoutError when the headers are late."""
        headers = self._headers.kept
        if headers is None:
            end = time.monotonic() + timeout
            async with asyncio.timeout(timeout):
                headers = await self._headers.renew()
            timeout = end - time.monotonic()
        return begin(request, timeout, headers)

    def answer(self, name: str, request: Any, response: Any) -> Any:
        """Check and return a response. Raises: EngineRejected, EngineUnavailable."""
        self._failures = 0
        if self._limits is not None:
            self._limits.check(name, request, response)
        return response

    def failure(self, name: str, request: Any, error: grpc.RpcError) -> BaseException:
        """Exception for a call that failed. Repeated failures replace the connection."""
        if status_of(error) in _CONNECTION_FAILURES and name not in WAITS:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self._replace()
        else:
            self._failures = 0
        refusal = None if self._limits is None else self._limits.refusal(name, request, error)
        return refusal or error

    def _connected(self) -> Any:
        if self._is_closed:
            raise grpc.aio.UsageError("The channel is closed")
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _replace(self) -> None:
        """Make the next call over a new connection, and close the present one when its calls have ended."""
        now = time.monotonic()
        if self._connection is None or (self._replaced and now < self._replaced + RENEWAL_SECONDS):
            return
        self._replaced, self._failures = now, 0
        former, self._connection = self._connection, None
        self._methods.clear()
        task = asyncio.get_running_loop().create_task(former.close(RENEWAL_SECONDS))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def close(self, grace: float | None = None) -> None:
        """Cancel all calls, after `grace` seconds if given, and refuse further ones. Idempotent."""
        self._is_closed = True
        connection, self._connection = self._connection, None
        self._methods.clear()
        await cancelled(*self._retired)
        if connection is not None:
            await connection.close(grace)

    def get_state(self, try_to_connect: bool = False) -> Any:
        if self._is_closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        return self._connected().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: Any) -> None:
        await self._connected().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._connected().channel_ready()

    async def __aenter__(self) -> RemoteChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class RemoteCall:
    """Call with one response. It begins when it is awaited, and is cancelled with the task that awaits it."""

    __slots__ = ("_begin", "_channel", "_name", "_request", "_sent", "_timeout")

    def __init__(
        self,
        channel: RemoteChannel,
        name: str,
        begin: Callable[[Any, float, Any], Any],
        request: Any,
        timeout: float,
    ) -> None:
        self._channel = channel
        self._name = name
        self._begin = begin
        self._request = request
        self._timeout = timeout
        self._sent: Any = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        sent = self._sent = await self._channel.send(self._begin, self._request, self._timeout)
        try:
            response = await sent
        except grpc.RpcError as error:
            raise self._channel.failure(self._name, self._request, error) from None
        return self._channel.answer(self._name, self._request, response)

    async def initial_metadata(self) -> Any:
        """Metadata before the response. The call must have been awaited."""
        return await self._sent.initial_metadata()

    async def trailing_metadata(self) -> Any:
        """Metadata behind the response. The call must have been awaited."""
        return await self._sent.trailing_metadata()
