"""Channels to an engine: options of gRPC, a deadline for every call, and the trace context of a start.

The SDK's client fills the field `parentTraceContext` of a start from OpenTelemetry's current span. Without a span, the
field is filled here from the message. Workers pass it on to activities and children; workers in other languages also
pass it to their own traces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import grpc
from durabletask.grpc_options import GrpcChannelOptions
from grpc.experimental import ChannelOptions

from bridge.core.origin import MessageOrigin
from bridge.engines.remote.remote_limits import size_options

PARENT: ContextVar[MessageOrigin | None] = ContextVar("bridge_trace_parent", default=None)
"""Message whose command is being sent to an engine."""

HEADERS_SECONDS = 1.0
"""Seconds for which the headers of calls are kept."""

CONNECT_SECONDS = 5
"""Time that an attempt to connect has. gRPC takes it from the shortest pause between attempts."""

RECONNECT_SECONDS = 1.0
"""Longest pause between two attempts to connect to an engine."""


def channel_options(
    max_request: int | None, reconnect_seconds: float, proxy: bool, max_answer: int | None = None
) -> GrpcChannelOptions:
    """Options of a gRPC channel of a client, or of a worker on an engine of this installation.

    max_request: largest request in bytes; gRPC refuses a larger one before it is sent. None for no limit, as workers
    need it, because a turn's result must not be lost.
    reconnect_seconds: longest pause between two attempts to connect; gRPC's default is two minutes.
    proxy: use the HTTP proxy of the environment.
    max_answer: largest single response in bytes. None for no limit.
    """
    limits = [] if max_answer is None else size_options(max_answer)
    return _options(max_request, max_answer, reconnect_seconds, proxy, limits)


def worker_options(max_work_item: int, reconnect_seconds: float) -> GrpcChannelOptions:
    """Options of a worker's channel to a remote engine. max_work_item: bytes of the largest work item."""
    return _options(None, max_work_item, reconnect_seconds, True, [])


def worker_channel(address: str, options: GrpcChannelOptions, credentials: Any = None) -> grpc.Channel:
    """Channel of a worker with a loop of its own. The thread that reads the stream of work items needs no other one.

    credentials: of TLS; None: no TLS.
    """
    arguments = [*(options.to_grpc_options() or ()), (ChannelOptions.SingleThreadedUnaryStream, 1)]
    if credentials is None:
        return grpc.insecure_channel(address, arguments)
    return grpc.secure_channel(address, credentials, arguments)


class CallDetails(NamedTuple):
    """Details of a call, as interceptors see them."""

    method: str = ""
    timeout: float | None = None
    metadata: Any = None
    credentials: Any = None
    wait_for_ready: Any = None
    compression: Any = None


class CallHeaders:
    """Headers that blocking interceptors add to each call. On a channel with interceptors each call would cost more.

    The headers are kept for a second; the interceptors renew tokens in time.
    """

    def __init__(self, interceptors: Sequence[Any] = ()) -> None:
        self._interceptors = interceptors
        self._kept: Sequence[tuple[str, str]] = ()
        self._until = 0.0

    def __call__(self) -> Sequence[tuple[str, str]]:
        """Headers of a call that is made now."""
        now = time.monotonic()
        if now >= self._until and self._interceptors:
            details: Any = CallDetails()
            for interceptor in self._interceptors:
                details = interceptor.intercept_unary_unary(lambda changed, _: changed, details, None)
            self._kept, self._until = tuple(details.metadata or ()), now + HEADERS_SECONDS
        return self._kept


def _options(
    send: int | None, receive: int | None, reconnect_seconds: float, proxy: bool, more: list[tuple[str, Any]]
) -> GrpcChannelOptions:
    return GrpcChannelOptions(
        max_receive_message_length=-1 if receive is None else receive,
        max_send_message_length=-1 if send is None else send,
        raw_options=[
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),
            ("grpc.max_reconnect_backoff_ms", int(reconnect_seconds * 1000)),
            ("grpc.enable_http_proxy", int(proxy)),
            # A new channel is a new connection
            ("grpc.use_local_subchannel_pool", 1),
            *more,
        ],
    )


def inject_trace_context(request: Any, *, names_start: bool = True) -> None:
    """Write the current message's trace context into a CreateInstanceRequest that has none.

    names_start: name the span of the start, too. A tracing engine makes that span itself.
    """
    origin = PARENT.get()
    if origin is None or origin.traceparent is None or request.HasField("parentTraceContext"):
        return
    request.parentTraceContext.traceParent = origin.traceparent
    if names_start:
        request.parentTraceContext.spanID = origin.traceparent[36:52]
    if origin.tracestate is not None:
        request.parentTraceContext.traceState.value = origin.tracestate


BEFORE: Mapping[str, Callable[[Any], None]] = {"StartInstance": inject_trace_context}
"""Functions that modify a request before it is sent, by method name."""

BEFORE_TRACING: Mapping[str, Callable[[Any], None]] = {
    "StartInstance": partial(inject_trace_context, names_start=False)
}
"""BEFORE for an engine that makes spans."""
