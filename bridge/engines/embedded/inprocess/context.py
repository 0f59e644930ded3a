"""Servicer's view of a call: gRPC's server context without a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import grpc

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
