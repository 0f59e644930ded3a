"""Span of a message, as far as its commands need it. Pure."""

from __future__ import annotations

from bridge.core.envelope import Envelope
from bridge.core.origin import MessageOrigin
from bridge.core.trace_context import TraceContext


class MessageTrace:
    """Span of one delivery. It exists also when it is not sampled: what follows keeps the decision.

    traceparent, tracestate: context for the commands of the message.
    parent: the span's parent. linked: message whose trace it does not continue.
    """

    __slots__ = ("is_sampled", "linked", "parent", "span_id", "trace_id", "traceparent", "tracestate")

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        is_sampled: bool,
        parent: TraceContext | None = None,
        linked: TraceContext | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled
        self.parent = parent
        self.linked = linked
        self.traceparent = f"00-{trace_id}-{span_id}-{'01' if is_sampled else '00'}"
        self.tracestate = None if parent is None else parent.tracestate

    def origin(self, envelope: Envelope, route: str, part: int) -> MessageOrigin:
        """Origin of a command of the message: within the span."""
        position = str(envelope.position)
        return MessageOrigin(envelope.message_id, route, part, self.traceparent, self.tracestate, position)
