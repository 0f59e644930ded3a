"""How an orchestration knows the message that started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from durabletask import task
from durabletask.internal import type_discovery
from durabletask.serialization import DataConverter, JsonDataConverter

from bridge.origin import MessageOrigin, envelope_body, origin_of

_ATTRIBUTE = "_bridge_start"


class EnvelopeArgument:
    """Data with the envelope it came in. Subclasses say with `wanted` what the data should become.

    inside: of the envelope; None for bare data.
    """

    __slots__ = ("data", "inside")
    wanted: ClassVar[Any] = None

    def __init__(self, inside: Mapping[str, Any] | None, data: Any) -> None:
        self.inside = inside
        self.data = data

    @classmethod
    def carry(cls, inside: Mapping[str, Any] | None, data: Any, converter: DataConverter) -> Self:
        """Raises: TypeError as `converter` does when the data does not fit."""
        wanted = cls.wanted
        if wanted is None or not converter.can_reconstruct(wanted):
            return cls(inside, data)
        return cls(inside, converter.coerce(data, wanted))

    @classmethod
    def from_json(cls, value: Any, converter: DataConverter) -> Self:
        """How any other converter of the SDK's kind builds one. Raises: UnknownEnvelope."""
        inside = envelope_body(value)
        return cls.carry(inside, value if inside is None else inside.get("data"), converter)


def carrying(wanted: Any) -> type[EnvelopeArgument]:
    """A carrier of data of this type; None leaves it as it is."""
    return type("Carrier", (EnvelopeArgument,), {"wanted": wanted, "__slots__": ()})


class _Everything(JsonDataConverter):
    """Lets the SDK tell the annotation of an input, whatever it is."""

    def can_reconstruct(self, target_type: Any) -> bool:
        return True


EVERYTHING = _Everything()


def message_aware(orchestrator: Callable[..., Any]) -> Callable[..., Any]:
    """The orchestrator, able to tell the message that started it: what `origin` and `Inbox` need.

    The bridge's workers do this by themselves; a worker of your own: `worker.add_orchestrator(message_aware(order))`.
    """
    if getattr(orchestrator, _ATTRIBUTE, False):
        return orchestrator
    carrier = carrying(type_discovery.orchestrator_input_type(orchestrator, EVERYTHING))

    def started(ctx: task.OrchestrationContext, given: Any) -> Any:
        if not isinstance(given, EnvelopeArgument):
            # No input at all, or a converter that gave up on it.
            inside = envelope_body(given)
            given = EnvelopeArgument(inside, given if inside is None else inside.get("data"))
        setattr(ctx, _ATTRIBUTE, given.inside or {})
        return orchestrator(ctx, given.data)

    # `__wrapped__` stays unset: the SDK would read the input's type there.
    started.__annotations__ = {"given": carrier}
    started.__name__ = task.get_name(orchestrator)
    started.__qualname__ = getattr(orchestrator, "__qualname__", started.__name__)
    started.__module__ = orchestrator.__module__
    started.__doc__ = orchestrator.__doc__
    setattr(started, _ATTRIBUTE, True)
    return started


def start_of(ctx: task.OrchestrationContext) -> Mapping[str, Any] | None:
    """Inside of the envelope that started the orchestration, empty without one; None when its worker does not tell."""
    inside: Mapping[str, Any] | None = getattr(ctx, _ATTRIBUTE, None)
    return inside


def origin(ctx: task.OrchestrationContext) -> MessageOrigin | None:
    """The message that started this orchestration; None when something else did. `continue_as_new` keeps it."""
    inside = start_of(ctx)
    return None if inside is None else origin_of(inside)
