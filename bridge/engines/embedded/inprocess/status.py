"""Status of a finished call, with gRPC's codes and texts."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc
import grpc.aio

from bridge.engines.embedded.inprocess.context import Aborted, CallContext

log = logging.getLogger(__name__)

Status = tuple[Any, str, Any]
"""Code, details and trailing metadata."""


class InProcessRpcError(grpc.RpcError):  # type: ignore[misc]  # grpcio ships no type information
    """Raised by a synchronous call, with the methods of gRPC's own errors that callers and interceptors use."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status[0].name}: {status[1]}")
        self._status = status

    def code(self) -> Any:
        return self._status[0]

    def details(self) -> str:
        return self._status[1]

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return self._status[2]

    def debug_error_string(self) -> str:
        return str(self)

    def exception(self, timeout: float | None = None) -> InProcessRpcError:
        return self

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self


def failure(method: str, context: CallContext, error: BaseException | None) -> Status | None:
    """Status of a call that returned (`error` is None) or raised; None when the call succeeded.

    As in a gRPC server, a code that the servicer set takes precedence over its exception.
    """
    code, details = context.code(), context.details()
    if error is None:
        return (
            None if code is None or code == grpc.StatusCode.OK else (code, details or "", context.trailing_metadata())
        )
    if isinstance(error, TimeoutError) and code is None:
        return timed_out(method)
    if not isinstance(error, Aborted) and code is None:
        log.error("%s failed", method, exc_info=error)
        code, details = grpc.StatusCode.UNKNOWN, details or f"Exception calling application: {type(error).__name__}"
    return code, details or "", context.trailing_metadata()


def timed_out(method: str) -> Status:
    return grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} did not finish in time", ()


def closed() -> Status:
    return grpc.StatusCode.UNAVAILABLE, "the in-process channel is closed", ()


def aio_error(status: Status) -> Any:
    """Error of an asynchronous call, of the class that the SDK catches."""
    code, details, trailing = status
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details, details)


def too_large(size: int, limit: int) -> Status:
    """Status of a request that is too large, in gRPC's own words, which callers recognise."""
    return grpc.StatusCode.RESOURCE_EXHAUSTED, f"CLIENT: Sent message larger than max ({size} vs. {limit})", ()
