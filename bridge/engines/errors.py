"""What foreign errors of the engine side mean. They are translated here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no type information
from azure.core.exceptions import AzureError, ClientAuthenticationError, DeserializationError, SerializationError

from bridge.errors import (
    EngineDenied,
    EngineError,
    EngineMisconfigured,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    InstanceAlreadyExists,
    InstanceNotFound,
    UnreadEventsFull,
)

Code = grpc.StatusCode
T = TypeVar("T")

STATUS: dict[Any, type[EngineError]] = {
    Code.OK: EngineError,
    Code.CANCELLED: EngineUnavailable,
    Code.UNKNOWN: EngineError,
    Code.INVALID_ARGUMENT: EngineRejected,
    Code.DEADLINE_EXCEEDED: EngineTimeout,
    Code.NOT_FOUND: InstanceNotFound,
    Code.ALREADY_EXISTS: InstanceAlreadyExists,
    Code.PERMISSION_DENIED: EngineDenied,
    Code.UNAUTHENTICATED: EngineDenied,
    Code.RESOURCE_EXHAUSTED: EngineUnavailable,
    Code.FAILED_PRECONDITION: EngineRejected,
    Code.ABORTED: EngineUnavailable,
    Code.OUT_OF_RANGE: EngineRejected,
    Code.UNIMPLEMENTED: EngineMisconfigured,
    Code.INTERNAL: EngineError,
    Code.UNAVAILABLE: EngineUnavailable,
    Code.DATA_LOSS: EngineError,
}
"""The meaning of every gRPC status. A plain EngineError is tried a bounded number of times and then dead-lettered."""

QUESTIONS = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS})
"""Statuses that say nothing of what happened or of whose fault it is: the engine is asked before they are believed."""

_TOLD = frozenset(
    {
        Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED,
        Code.ABORTED, Code.UNIMPLEMENTED, Code.UNAVAILABLE,
    }
)  # fmt: skip
"""Statuses whose details speak of the connection or the service. Those of the others may quote payload."""

_BOUND = re.compile(
    r"The call has (an? )?[a-z' ]{1,40} (of \d+ (characters|bytes); at most \d+ are allowed"
    r"|with other characters than printable ASCII, which is refused)(, the scheduler's limit, by `strict`)?"
)
"""Details of a refusal that are told all the same: an embedded engine names a bound, and quotes nothing."""

_UNREAD = re.compile(r"The instance has \d+ unread events of \d+ bytes; no further event is taken")
"""Details of an embedded engine that refuses an event, and quotes nothing."""

_SAID = {
    Code.NOT_FOUND: "no such instance",
    Code.ALREADY_EXISTS: "the instance exists already",
    Code.INVALID_ARGUMENT: "the engine refuses the request (INVALID_ARGUMENT)",
    Code.FAILED_PRECONDITION: "the engine refuses the request (FAILED_PRECONDITION)",
    Code.OUT_OF_RANGE: "the engine refuses the request (OUT_OF_RANGE)",
}
"""What ends in a dead letter, in words for a person; other statuses are called by their name."""

_CONNECTION = (grpc.RpcError, grpc.FutureCancelledError, grpc.aio.BaseError, grpc.aio.UsageError, OSError)
"""Failures of the library or the network that carry no status."""

_DETAILS_LIMIT = 300
_TOO_LARGE = ("message larger than max", "larger than the maximum", "exceeds the maximum", "too large")
_TASK_HUB = ("task hub", "taskhub", "task-hub")


def translate(error: BaseException, *, what: str) -> EngineError:
    """The bridge's error for what a client, a credential or gRPC raised. The original is not chained here.

    what: the call, for the text: "schedule 'order-1'". An EngineError is returned as it is.
    Raises: the error itself when it is none of these, because then it is a bug.
    """
    if isinstance(error, EngineError):
        return error
    code = status_of(error)
    if code is not None:
        return _of_status(code, details_of(error), what)
    if isinstance(error, TimeoutError | grpc.FutureTimeoutError):
        return EngineTimeout(f"{what}: no answer in time")
    if isinstance(error, ClientAuthenticationError):
        return EngineDenied(f"{what}: no token for the engine ({type(error).__name__}); check the engine's credential")
    if isinstance(error, AzureError | SerializationError | DeserializationError):
        return EngineUnavailable(f"{what}: the identity service failed ({type(error).__name__})")
    if isinstance(error, _CONNECTION):
        return EngineUnavailable(f"{what}: the connection to the engine failed ({type(error).__name__})")
    if isinstance(error, RuntimeError) and "closed" in str(error):
        return EngineUnavailable(f"{what}: the engine's client is closed")
    if isinstance(error, ValueError | TypeError | RecursionError):
        return EngineRejected(f"{what}: the SDK cannot make a request of it ({type(error).__name__})")
    raise error


def status_of(error: BaseException) -> Any:
    """The gRPC status of an error, None when it has none."""
    code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
    return code() if callable(code) else None


def is_late(error: EngineError) -> bool:
    """Whether the engine refused because the instance has finished, as the embedded one does with events."""
    return error.__cause__ is not None and status_of(error.__cause__) is Code.FAILED_PRECONDITION


def details_of(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() or "") if callable(details) else ""


def _of_status(code: Any, details: str, what: str) -> EngineError:
    kind = STATUS[code]
    lowered = details.lower()
    if code is Code.RESOURCE_EXHAUSTED and _UNREAD.fullmatch(details):
        return UnreadEventsFull(f"{what}: {details[0].lower()}{details[1:]}")
    if code is Code.RESOURCE_EXHAUSTED and any(words in lowered for words in _TOO_LARGE):
        kind = EngineRejected
    elif code is Code.NOT_FOUND and any(words in lowered for words in _TASK_HUB):
        kind = EngineMisconfigured
        return kind(f"{what}: the engine does not know the task hub")
    detail = f": {details[:_DETAILS_LIMIT]}" if details and (code in _TOLD or _BOUND.fullmatch(details)) else ""
    if kind is EngineRejected and code is Code.RESOURCE_EXHAUSTED:
        return kind(f"{what}: the request is larger than the engine takes{detail}")
    return kind(f"{what}: {_SAID.get(code, code.name)}{detail}")


async def asked(call: Awaitable[T], what: str) -> T:
    """Result of a call of the SDK's client. what: the call, for the error. Raises: EngineError."""
    try:
        return await call
    except Exception as error:
        raise translate(error, what=what) from error
