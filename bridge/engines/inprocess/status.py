"""How a call ended, as the gRPC library would say it."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no type information

from bridge.engines.inprocess.context import Aborted, CallContext

log = logging.getLogger(__name__)

Status = tuple[Any, str, Any]
"""Code, details, trailing metadata."""


class InProcessRpcError(grpc.RpcError):  # type: ignore[misc]  # grpcio ships no type information
    """What a synchronous call raises; it has the methods of gRPC's own errors that callers and interceptors use."""

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
    """The status of a call that returned (`error` is None) or raised; None when it succeeded.

    As in a gRPC server, a code that the servicer set wins over the exception that it raised.
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
    """The error an asynchronous call raises: the SDK catches exactly this class."""
    code, details, trailing = status
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details, details)


def too_large(size: int, limit: int) -> Status:
    """In gRPC's own words, so that both are recognised alike."""
    return grpc.StatusCode.RESOURCE_EXHAUSTED, f"CLIENT: Sent message larger than max ({size} vs. {limit})", ()
