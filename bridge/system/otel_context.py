"""OpenTelemetry's context for user code. Without the package `opentelemetry-api` there is none, at no cost."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from bridge.core.trace_context import TraceContext

try:
    from opentelemetry import context as otel
    from opentelemetry import trace as api
except ModuleNotFoundError:  # the extra `otel` is optional
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

    class _Remote(api.NonRecordingSpan):
        """Span of another process. Most activities never look at it, so its context is made on demand."""

        def __init__(self, traceparent: str, tracestate: str) -> None:
            self._texts = (traceparent, tracestate)

        def get_span_context(self) -> api.SpanContext:
            parent, state = self._texts
            try:
                trace_id, span_id, flags = int(parent[3:35], 16), int(parent[36:52], 16), int(parent[53:55], 16)
            except ValueError:
                return api.INVALID_SPAN_CONTEXT
            found = api.TraceState.from_header([state]) if state else None
            return api.SpanContext(trace_id, span_id, True, api.TraceFlags(flags), found)

        def __repr__(self) -> str:
            return f"_Remote({self._texts[0]!r})"


_NONE: AbstractContextManager[None] = nullcontext()


def records_spans() -> bool:
    """True when the program has a tracer provider, so that spans of OpenTelemetry's API go somewhere."""
    none = (api.ProxyTracerProvider, api.NoOpTracerProvider) if IS_INSTALLED else ()
    return IS_INSTALLED and not isinstance(api.get_tracer_provider(), none)


def context_of(trace: Any) -> Any:
    """Context with the span that a TraceContext message of the protocol names; None when it names none."""
    if not IS_INSTALLED or not trace.traceParent:
        return None
    return remote(trace.traceParent, trace.traceState.value)


def entered(context: Any) -> AbstractContextManager[None]:
    """Run a `with` block in the context; None changes nothing."""
    return _NONE if context is None else _Entered(context)


def in_trace(trace: TraceContext) -> AbstractContextManager[None]:
    """Run a `with` block as part of the trace."""
    return entered(remote(trace.traceparent, trace.tracestate or "") if IS_INSTALLED else None)


def current_span_id(trace_id: str) -> str | None:
    """Id of the current span, if it belongs to this trace."""
    if not IS_INSTALLED:
        return None
    found = api.get_current_span().get_span_context()
    return f"{found.span_id:016x}" if found.is_valid and f"{found.trace_id:032x}" == trace_id else None


def current_ids() -> tuple[str, str] | None:
    """Trace id and span id of the current span; None without one."""
    if not IS_INSTALLED:
        return None
    found = api.get_current_span().get_span_context()
    return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def current_sampled_trace() -> str | None:
    """Id of the current trace, if it is sampled."""
    if not IS_INSTALLED:
        return None
    found = api.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid and found.trace_flags.sampled else None


class _Entered(AbstractContextManager[None]):
    __slots__ = ("_context", "_token")

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = otel.attach(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        otel.detach(self._token)


def remote(traceparent: str, tracestate: str = "") -> Any:
    """Context with a span of another process. Requires the package."""
    return api.set_span_in_context(_Remote(traceparent, tracestate))
