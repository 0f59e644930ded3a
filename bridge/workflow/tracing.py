"""Where an orchestration stands in a trace."""

from __future__ import annotations

from typing import Any

from durabletask import task

from bridge.tracecontext import TraceContext, trace_context
from bridge.workflow.start import origin


def trace_of(ctx: task.OrchestrationContext) -> TraceContext | None:
    """The W3C trace context of the message that started the orchestration, or its parent; None when it has none.

    `continue_as_new` keeps it. `publish` and `request` hand it on by themselves; this is for other ways out. The same
    in every replay.
    """
    started = origin(ctx)
    if started is not None and (trace := started.trace) is not None:
        return trace
    # A child, or an orchestration that somebody else started: the protocol carries it
    parent: Any = getattr(ctx, "_parent_trace_context", None)
    if parent is None:
        return None
    state = parent.traceState.value if parent.HasField("traceState") else None
    return trace_context({"traceparent": parent.traceParent, "tracestate": state})
