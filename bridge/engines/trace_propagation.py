"""Trace context on the Durable Task protocol: the field `parentTraceContext` of a start.

The SDK's client fills the field from OpenTelemetry's current span. Without a span, the field is filled here from the
message. Workers pass it on to activities and children; workers in other languages also pass it to their own traces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import grpc.aio

from bridge.core.origin import MessageOrigin

PARENT: ContextVar[MessageOrigin | None] = ContextVar("bridge_trace_parent", default=None)
"""Message whose command is being sent to an engine."""


def inject_trace_context(request: Any) -> None:
    """Write the current message's trace context into a CreateInstanceRequest that has none."""
    origin = PARENT.get()
    if origin is None or origin.traceparent is None or request.HasField("parentTraceContext"):
        return
    request.parentTraceContext.traceParent = origin.traceparent
    request.parentTraceContext.spanID = origin.traceparent[36:52]
    if origin.tracestate is not None:
        request.parentTraceContext.traceState.value = origin.tracestate


BEFORE: Mapping[str, Callable[[Any], None]] = {"StartInstance": inject_trace_context}
"""Functions that modify a request of an in-process channel before it is sent, by method name."""


class TraceInterceptor(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that injects the trace context on gRPC channels."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        method = client_call_details.method
        if (method if isinstance(method, bytes) else method.encode()).endswith(b"/StartInstance"):
            inject_trace_context(request)
        return await continuation(client_call_details, request)
