"""Translation of foreign errors on the engine side, used by the engine's client (`bridge.engines.client`)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

from bridge.core.errors import (
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
from bridge.sqlite_engine.model.bounds import is_bound_refusal
from bridge.sqlite_engine.model.reply import is_unread_full

Code = grpc.StatusCode

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
"""Error class of every gRPC status. A plain EngineError is retried a bounded number of times, then dead-lettered."""

QUESTIONS = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.DATA_LOSS})
"""Statuses that leave outcome and cause unknown: the engine is asked about the instance before they are accepted."""

_WITH_DETAILS = frozenset(
    {
        Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED,
        Code.ABORTED, Code.UNIMPLEMENTED, Code.UNAVAILABLE,
    }
)  # fmt: skip
"""Statuses whose details describe the connection or the service. Details of other statuses may quote payload."""

_FIXED_TEXTS = {
    Code.NOT_FOUND: "no such instance",
    Code.ALREADY_EXISTS: "the instance already exists",
    Code.INVALID_ARGUMENT: "the engine refuses the request (INVALID_ARGUMENT)",
    Code.FAILED_PRECONDITION: "the engine refuses the request (FAILED_PRECONDITION)",
    Code.OUT_OF_RANGE: "the engine refuses the request (OUT_OF_RANGE)",
}
"""Texts for statuses that end in a dead letter; other statuses are reported by name."""

_CONNECTION = (grpc.RpcError, grpc.FutureCancelledError, grpc.aio.BaseError, grpc.aio.UsageError, OSError)
"""Failures of the library or the network without a status."""

_DETAILS_LIMIT = 300
_TOO_LARGE = ("message larger than max", "larger than the maximum", "exceeds the maximum", "too large")
_OWN_LIMIT = "sent message larger than max"
"""Refusal of a request by the channel of this process, before it is sent."""
_TASK_HUB = ("task hub", "taskhub", "task-hub")


_DETAILS = 500
"""Characters of an engine's own text that are kept."""


def translate(error: BaseException, *, what: str) -> EngineError:
    """Translate an exception of a client, a credential or gRPC. The original is not chained here.

    what: the call, for the text: "schedule 'order-1'". An EngineError is returned unchanged.
    Raises: the exception itself when this task was cancelled, or when it is of no known kind, because it is then a bug.
    """
    if isinstance(error, EngineError):
        return error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
        # gRPC cancels a call whose channel was closed
        return EngineUnavailable(f"{what}: the connection to the engine was closed")
    code = status_of(error)
    if code is not None:
        return _of_status(code, details_of(error), what)
    if isinstance(error, TimeoutError | grpc.FutureTimeoutError):
        return EngineTimeout(f"{what}: the engine did not answer in time")
    azure = sys.modules.get("azure.core.exceptions")  # takes long to import, and most engines do not use it
    if azure is not None and isinstance(error, azure.ClientAuthenticationError):
        return EngineDenied(f"{what}: no token for the engine ({type(error).__name__}); check the engine's credential")
    if azure is not None and isinstance(
        error, azure.AzureError | azure.SerializationError | azure.DeserializationError
    ):
        return EngineUnavailable(f"{what}: the identity service failed ({type(error).__name__})")
    if isinstance(error, _CONNECTION):
        return EngineUnavailable(f"{what}: the connection to the engine failed ({type(error).__name__})")
    if isinstance(error, RuntimeError) and "closed" in str(error):
        return EngineUnavailable(f"{what}: the engine's client is closed")
    if isinstance(error, ValueError) and str(error).startswith("Cannot invoke RPC"):  # gRPC, on a closed channel
        return EngineUnavailable(f"{what}: the connection to the engine was closed")
    if isinstance(error, ValueError | TypeError | RecursionError):
        return EngineRejected(f"{what}: the SDK cannot make a request of it ({type(error).__name__})")
    if isinstance(error, AttributeError) and error.obj is None:
        # gRPC gives the SDK None for an answer that cannot be parsed
        return EngineUnavailable(f"{what}: the answer does not follow the protocol of an engine")
    raise error


def status_of(error: BaseException) -> Any:
    """gRPC status of an error; None when it has none."""
    code = getattr(error, "code", None) if isinstance(error, grpc.RpcError) else None
    return code() if callable(code) else None


def leaves_outcome_unknown(error: EngineError) -> bool:
    """True when the engine answered with a status that leaves outcome and cause unknown."""
    return error.__cause__ is not None and status_of(error.__cause__) in QUESTIONS


def is_late(error: EngineError) -> bool:
    """True when the engine refused because the instance has finished, as the embedded engine does for events."""
    return error.__cause__ is not None and status_of(error.__cause__) is Code.FAILED_PRECONDITION


def details_of(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() or "")[:_DETAILS] if callable(details) else ""


def _of_status(code: Any, details: str, what: str) -> EngineError:
    kind = STATUS[code]
    lowered = details.lower()
    if code is Code.RESOURCE_EXHAUSTED and is_unread_full(details):
        return UnreadEventsFull(f"{what}: {details[0].lower()}{details[1:]}")
    if code is Code.RESOURCE_EXHAUSTED and any(words in lowered for words in _TOO_LARGE):
        kind = EngineRejected
    elif code is Code.UNKNOWN and "already exists" in lowered:
        kind, code = InstanceAlreadyExists, Code.ALREADY_EXISTS  # servers in Go
    elif code is Code.NOT_FOUND and any(words in lowered for words in _TASK_HUB):
        return EngineMisconfigured(f"{what}: the engine does not know the task hub")
    detail = f": {details[:_DETAILS_LIMIT]}" if details and (code in _WITH_DETAILS or is_bound_refusal(details)) else ""
    if kind is EngineRejected and code is Code.RESOURCE_EXHAUSTED:
        limit = "`max_request` of the engine" if _OWN_LIMIT in lowered else "the limit of the engine"
        return kind(f"{what}: the request exceeds {limit}{detail}")
    return kind(f"{what}: {_FIXED_TEXTS.get(code, code.name)}{detail}")
