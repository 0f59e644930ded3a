"""Call in this process: the servicer's context of it, and its status with gRPC's codes and texts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

log = logging.getLogger(__name__)

Status = tuple[Any, str, Any]
"""Code, details and trailing metadata."""

Metadata = Sequence[tuple[str, str]]
PEER = "inprocess"
"""Peer name of an in-process caller, returned by `context.peer()`."""

_callbacks_lock = threading.Lock()


class Aborted(Exception):
    """Raised through the servicer by `context.abort`; the status is on the context."""


class CallContext(grpc.ServicerContext):  # type: ignore[misc]  # grpcio ships no type information
    """Context of one call. `deadline` is on the monotonic clock; None for no limit."""

    def __init__(self, metadata: Metadata, deadline: float | None) -> None:
        self._metadata = metadata
        self._deadline = deadline
        self._active = True
        self._callbacks: list[Callable[[], object]] | None = None
        self._code: Any = None
        self._details: str | None = None
        self._trailing: Any = ()

    def finish(self) -> None:
        """End the call and run the servicer's callbacks. Idempotent, callable from any thread."""
        if not self._active:
            return
        with _callbacks_lock:
            callbacks, self._callbacks, self._active = self._callbacks, None, False
        for callback in callbacks or ():
            callback()

    def abort(self, code: Any, details: str) -> NoReturn:
        if code == grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNKNOWN, "abort was called with status OK"
        self._code, self._details = code, details
        raise Aborted(details)

    def abort_with_status(self, status: Any) -> NoReturn:
        self._trailing = status.trailing_metadata or ()
        self.abort(status.code, status.details)

    def is_active(self) -> bool:
        return self._active

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def cancel(self) -> None:
        self._code, self._details = grpc.StatusCode.CANCELLED, "cancelled by the servicer"
        self.finish()

    def add_callback(self, callback: Callable[[], object]) -> bool:
        with _callbacks_lock:
            if not self._active:
                return False
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)
            return True

    def set_code(self, code: Any) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def code(self) -> Any:
        return self._code

    def details(self) -> str | None:
        return self._details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        return self._trailing

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return PEER

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> dict[str, Any]:
        return {}

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Do nothing: the SDK never reads initial metadata."""

    def set_compression(self, compression: Any) -> None:
        """Do nothing: messages are not serialised."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: messages are not serialised."""


class AioCallContext(CallContext):
    """Context of a servicer method that is a coroutine function, where aborting is awaited."""

    async def abort(  # type: ignore[override]  # awaited there, so gRPC's two contexts differ
        self, code: Any, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self._trailing = trailing_metadata
        CallContext.abort(self, code, details)

    async def abort_with_status(self, status: Any) -> NoReturn:  # type: ignore[override]  # awaited there
        self._trailing = status.trailing_metadata or ()
        CallContext.abort(self, status.code, status.details)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:  # type: ignore[override]  # awaited there
        """Do nothing: the SDK never reads initial metadata."""


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
        log.error("call %s of the engine failed", method, exc_info=error)
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
