"""Messages as workflows receive them: envelopes of inputs, the message that started an orchestration, repeats."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from durabletask import task
from durabletask.serialization import DataConverter, JsonDataConverter

from bridge.core.origin import MessageOrigin, envelope_body, origin_of
from bridge.core.trace_context import TraceContext, trace_context
from bridge.workflow.sdk_internals import input_type, parent_trace

_ATTRIBUTE = "_bridge_start"


class EnvelopeArgument:
    """Data with the envelope it came in. Subclasses set `wanted` to the type of the data.

    inside: body of the envelope; None for bare data.
    """

    __slots__ = ("data", "inside")
    wanted: ClassVar[Any] = None

    def __init__(self, inside: Mapping[str, Any] | None, data: Any) -> None:
        self.inside = inside
        self.data = data

    @classmethod
    def carry(cls, inside: Mapping[str, Any] | None, data: Any, converter: DataConverter) -> Self:
        """Create an argument with its data converted to `wanted`.

        Raises: TypeError from `converter` if the data does not fit.
        """
        wanted = cls.wanted
        if wanted is None or not converter.can_reconstruct(wanted):
            return cls(inside, data)
        return cls(inside, converter.coerce(data, wanted))

    @classmethod
    def from_json(cls, value: Any, converter: DataConverter) -> Self:
        """Create an argument from JSON, for other converters of the SDK's kind. Raises: UnknownEnvelope."""
        inside = envelope_body(value)
        return cls.carry(inside, value if inside is None else inside.get("data"), converter)


def carrying(wanted: Any) -> type[EnvelopeArgument]:
    """Create an EnvelopeArgument class for data of a type. None leaves the data unchanged."""
    return type("Carrier", (EnvelopeArgument,), {"wanted": wanted, "__slots__": ()})


class _Everything(JsonDataConverter):
    """Converter that makes the SDK return the annotation of an input, whatever its type."""

    def can_reconstruct(self, target_type: Any) -> bool:
        return True


EVERYTHING = _Everything()


def message_aware(orchestrator: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an orchestrator to give it the message that started it, as `origin` and `Inbox` require.

    The bridge's workers wrap orchestrators themselves. With a worker of your own, write
    `worker.add_orchestrator(message_aware(order))`.
    """
    if getattr(orchestrator, _ATTRIBUTE, False):
        return orchestrator
    carrier = carrying(input_type(orchestrator, EVERYTHING))

    def started(ctx: task.OrchestrationContext, given: Any) -> Any:
        if not isinstance(given, EnvelopeArgument):
            # No input at all, or a converter that could not convert it
            inside = envelope_body(given)
            given = EnvelopeArgument(inside, given if inside is None else inside.get("data"))
        setattr(ctx, _ATTRIBUTE, given.inside or {})
        return orchestrator(ctx, given.data)

    # `__wrapped__` stays unset, because the SDK would read the input's type from it
    started.__annotations__ = {"given": carrier}
    started.__name__ = task.get_name(orchestrator)
    started.__qualname__ = getattr(orchestrator, "__qualname__", started.__name__)
    started.__module__ = orchestrator.__module__
    started.__doc__ = orchestrator.__doc__
    setattr(started, _ATTRIBUTE, True)
    return started


def start_of(ctx: task.OrchestrationContext) -> Mapping[str, Any] | None:
    """Body of the envelope that started the orchestration.

    Empty without an envelope; None if the worker does not pass it.
    """
    inside: Mapping[str, Any] | None = getattr(ctx, _ATTRIBUTE, None)
    return inside


def origin(ctx: task.OrchestrationContext) -> MessageOrigin | None:
    """Message that started this orchestration; None if it was started otherwise. `continue_as_new` keeps it."""
    inside = start_of(ctx)
    return None if inside is None else origin_of(inside)


def trace_of(ctx: task.OrchestrationContext) -> TraceContext | None:
    """W3C trace context of the message that started the orchestration, or of its parent; None if it has none.

    `continue_as_new` keeps the context. `publish` and `request` pass it on themselves; use this function for other
    outgoing calls. Every replay returns the same context.
    """
    started = origin(ctx)
    if started is not None and (trace := started.trace) is not None:
        return trace
    # For a child, or an orchestration started by another client, the protocol carries the context
    parent = parent_trace(ctx)
    if parent is None:
        return None
    state = parent.traceState.value if parent.HasField("traceState") else None
    return trace_context({"traceparent": parent.traceParent, "tracestate": state})


class Repeats:
    """Counters of this process, by the component that dropped the message. Replayed turns count again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, by: str, number: int = 1) -> None:
        """Count dropped messages, of this process or of one of its worker processes."""
        with self._lock:
            self._counts[by] += number

    def counts(self) -> dict[str, int]:
        """Counts of `inbox` and `entity` since the start of the process."""
        with self._lock:
            return {"inbox": self._counts["inbox"], "entity": self._counts["entity"]}


REPEATS = Repeats()
