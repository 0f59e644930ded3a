"""Trace context of an orchestration."""

from __future__ import annotations

from typing import Any

from durabletask import task

from bridge.core.trace_context import TraceContext, trace_context
from bridge.workflow.start import origin


def trace_of(ctx: task.OrchestrationContext) -> TraceContext | None:
    """W3C trace context of the message that started the orchestration, or of its parent; None if it has none.

    `continue_as_new` keeps the context. `publish` and `request` pass it on themselves; use this function for other
    outgoing calls. Every replay returns the same context.
    """
    started = origin(ctx)
    if started is not None and (trace := started.trace) is not None:
        return trace
    # For a child, or an orchestration started by another client, the protocol carries the context
    parent: Any = getattr(ctx, "_parent_trace_context", None)
    if parent is None:
        return None
    state = parent.traceState.value if parent.HasField("traceState") else None
    return trace_context({"traceparent": parent.traceParent, "tracestate": state})
