"""Interceptors of the asynchronous client: a deadline for calls without one, and the SDK's interceptors on streams."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio


class DeadlineInterceptor(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that gives every call without a timeout one in seconds: all calls of the SDK but its two waits.

    The timeout includes the interceptors behind this one, which may wait for a token. Raises: TimeoutError for those.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = self._timed(client_call_details)
        async with asyncio.timeout(details.timeout):
            return await continuation(details, request)

    intercept_unary_stream = intercept_unary_unary

    def _timed(self, details: Any) -> Any:
        return details if details.timeout is not None else details._replace(timeout=self._timeout)


class OnStreams(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Adapter that applies an interceptor to streamed responses too.

    grpc.aio registers an interceptor of several kinds for the first kind only. The SDK's interceptors are of that sort.
    Without the adapter the history would be requested without task hub and credentials.
    """

    def __init__(self, interceptor: Any) -> None:
        self._interceptor = interceptor

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._interceptor.intercept_unary_stream(continuation, client_call_details, request)
