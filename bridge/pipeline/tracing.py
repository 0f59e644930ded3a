"""Spans of messages: `process {topic}` from receipt to settlement, `send {topic}` of a publication.

Names and attributes follow OpenTelemetry's conventions for messaging. Both kinds live in this process: a process that
is killed loses those that it has not sent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from bridge.brokers.base import Delivery
from bridge.core.message import Envelope, Event, Message
from bridge.core.origin import MessageTrace
from bridge.core.trace_context import TRACEPARENT, TRACESTATE, TraceContext, trace_context
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.settings import SourceSettings
from bridge.system.otel_context import current_span_id
from bridge.system.spans import CONSUMER, PRODUCER, attribute, known_attribute, link, span

ABANDONED = "abandoned"
"""Outcome of a delivery that ended unsettled."""


class Tracer(Protocol):
    """Tracer of the process."""

    def samples(self, trace_id: str, parent: str | None, name: str) -> bool:
        """Decide whether a span is sampled. parent: valid `traceparent` of its trace; None when it begins one."""
        ...

    def emit(self, span: bytes) -> None:
        """Take a span for export, from any thread."""
        ...


class SourceTracing:
    """Spans of the messages of one source.

    system: value of `messaging.system`.
    of_broker: yields the attributes that only the broker of the source has.
    links: begin a trace of its own for each message, with a link to the sender's.
    """

    def __init__(
        self,
        tracer: Tracer,
        settings: SourceSettings,
        system: str,
        of_broker: Callable[[Delivery], Iterable[tuple[str, int]]],
        *,
        links: bool,
    ) -> None:
        self._tracer = tracer
        self._of_broker = of_broker
        # A replay comes long after its trace
        self._links = links or settings.trusted_replay
        self._names = {topic: f"process {topic}" for topic in settings.subscribe.topics}
        group = settings.subscribe.group
        self._constant = b"".join(
            (
                attribute("messaging.system", system),
                attribute("messaging.operation.name", "process"),
                attribute("messaging.operation.type", "process"),
                attribute("messaging.consumer.group.name", group) if group else b"",
                attribute("bridge.source", settings.name),
            )
        )

    def begin(self, envelope: Envelope, *, replay: bool = False) -> MessageTrace:
        """Span of a decoded message, with its sampling decided. replay: begin a trace with a link to the first one."""
        context = trace_context(envelope.headers, envelope.extensions)
        return self._begin(context, envelope.position.topic, links=self._links or replay)

    def _begin(self, context: TraceContext | None, topic: str, *, links: bool) -> MessageTrace:
        span_id = f"{random.getrandbits(64) or 1:016x}"
        if context is not None and not links:
            trace_id = context.trace_id
            sampled = self._tracer.samples(trace_id, context.traceparent, self._name(topic))
            return MessageTrace(trace_id, span_id, sampled, parent=context)
        trace_id = f"{random.getrandbits(128) or 1:032x}"
        sampled = self._tracer.samples(trace_id, None, self._name(topic))
        return MessageTrace(trace_id, span_id, sampled, linked=context)

    def _name(self, topic: str) -> str:
        return self._names.get(topic) or f"process {topic}"

    def end(self, item: InFlightDelivery, outcome: str, reason: str | None = None, route: str | None = None) -> None:
        """Send the span of a delivery that has left the pipeline."""
        delivery = item.delivery
        position = delivery.position
        trace = item.trace
        if trace is None:
            trace = self._begin(_context_of(delivery.message), position.topic, links=self._links)
        if not trace.is_sampled:
            return
        now = time.time_ns()
        start = now - max(0, int((time.monotonic() - item.received_at) * 1e9))
        attributes = [
            self._constant,
            known_attribute("messaging.destination.name", position.topic),
            known_attribute("messaging.destination.partition.id", str(position.partition)),
            known_attribute("bridge.outcome", outcome),
            known_attribute("bridge.config.version", item.rules.version),
        ]
        attributes += (attribute(name, value) for name, value in self._of_broker(delivery))
        envelope = item.envelope
        if envelope is not None:
            attributes.append(attribute("messaging.message.id", envelope.message_id))
            attributes.append(attribute("cloudevents.event_id", envelope.id))
            attributes.append(known_attribute("cloudevents.event_source", envelope.source))
            attributes.append(known_attribute("cloudevents.event_type", envelope.type))
        if (routes := route or _routes(item)) is not None:
            attributes.append(known_attribute("bridge.route", routes))
        if item.attempt > 1:
            attributes.append(known_attribute("bridge.attempts", item.attempt))
        if reason is not None:
            attributes.append(known_attribute("bridge.reason", reason))
            attributes.append(known_attribute("error.type", reason))
        linked = trace.linked
        self._tracer.emit(
            span(
                bytes.fromhex(trace.trace_id),
                bytes.fromhex(trace.span_id),
                None if trace.parent is None else bytes.fromhex(trace.parent.traceparent[36:52]),
                self._name(position.topic),
                CONSUMER,
                start,
                now,
                b"".join(attributes),
                links=b"" if linked is None else _link(linked),
                state=trace.tracestate,
                error=reason is not None and outcome != ABANDONED,
            )
        )


def _link(linked: TraceContext) -> bytes:
    return link(bytes.fromhex(linked.trace_id), bytes.fromhex(linked.traceparent[36:52]))


def _context_of(message: Message) -> TraceContext | None:
    """Context of a message that was not decoded, from its headers."""
    found: dict[str, Any] = {}
    for name, value in message.headers:
        if name in (TRACEPARENT, TRACESTATE, "Diagnostic-Id") and value is not None:
            found[name] = value.decode("utf-8", "replace")
    return trace_context(found) if found else None


def _routes(item: InFlightDelivery) -> str | None:
    """Routes of a routed delivery, joined by commas."""
    if item.decision is None or not item.decision.steps:
        return None
    steps = item.decision.steps
    return steps[0].route if len(steps) == 1 else ",".join(dict.fromkeys(step.route for step in steps))


class PublishTracing:
    """Spans of publications.

    The span's id is the one in the published message's `traceparent`, which the workflow has derived from the event's
    id. Failed attempts make no span: their activity's span shows them, and an id has one content.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def sent(self, event: Event, target: str, topic: str, system: str, began: int) -> None:
        """Send the span of a message that its broker has accepted. began: nanoseconds since the Unix epoch."""
        context = _ours(event.headers, event.id)
        if context is None or not int(context.traceparent[53:55], 16) & 1:
            return
        attributes = b"".join(
            (
                known_attribute("messaging.system", system),
                known_attribute("messaging.operation.name", "send"),
                known_attribute("messaging.operation.type", "send"),
                known_attribute("messaging.destination.name", topic),
                attribute("messaging.message.id", event.id),
                attribute("cloudevents.event_id", event.id),
                known_attribute("cloudevents.event_type", event.type),
                known_attribute("bridge.target", target),
            )
        )
        caller = current_span_id(context.trace_id)
        self._tracer.emit(
            span(
                bytes.fromhex(context.trace_id),
                bytes.fromhex(context.traceparent[36:52]),
                None if caller is None else bytes.fromhex(caller),
                f"send {topic}",
                PRODUCER,
                began,
                time.time_ns(),
                attributes,
                state=context.tracestate,
            )
        )


def _ours(headers: Mapping[str, str], event_id: str) -> TraceContext | None:
    """Context of a publication, unless the workflow has set one of its own."""
    context = trace_context(headers)
    if context is None or context.traceparent[36:52] != event_id.replace("-", "")[-16:].lower():
        return None
    return context
