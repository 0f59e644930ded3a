"""How an orchestration knows the message that started it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from durabletask import task
from durabletask.internal import type_discovery
from durabletask.serialization import DataConverter, JsonDataConverter

from bridge.origin import Origin, Parcel, unwrap

_ATTRIBUTE = "_bridge_start"


class Carrier:
    """A value with the envelope it came in. Subclasses say with `wanted` what the value should become."""

    __slots__ = ("parcel", "value")
    wanted: ClassVar[Any] = None

    def __init__(self, parcel: Parcel, value: Any) -> None:
        self.parcel = parcel
        self.value = value

    @classmethod
    def from_json(cls, value: Any, converter: DataConverter) -> Carrier:
        """How any converter of the SDK's kind builds one. Raises: UnknownEnvelope; TypeError as `converter` does."""
        parcel = value if isinstance(value, Parcel) else unwrap(value)
        wanted = cls.wanted
        if wanted is None or not converter.can_reconstruct(wanted):
            return cls(parcel, parcel.data)
        return cls(parcel, converter.coerce(parcel.data, wanted))


def carrying(wanted: Any) -> type[Carrier]:
    """A carrier of values of this type; None leaves them as they are."""
    return type("Carrier", (Carrier,), {"wanted": wanted, "__slots__": ()})


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
        if not isinstance(given, Carrier):
            # No input at all, or a converter that gave up on it.
            given = Carrier(unwrap(given), unwrap(given).data)
        setattr(ctx, _ATTRIBUTE, given.parcel)
        return orchestrator(ctx, given.value)

    # `__wrapped__` stays unset: the SDK would read the input's type there.
    started.__annotations__ = {"given": carrier}
    started.__name__ = task.get_name(orchestrator)
    started.__qualname__ = getattr(orchestrator, "__qualname__", started.__name__)
    started.__module__ = orchestrator.__module__
    started.__doc__ = orchestrator.__doc__
    setattr(started, _ATTRIBUTE, True)
    return started


def start_of(ctx: task.OrchestrationContext) -> Parcel | None:
    """The envelope that started the orchestration; None when its worker does not tell."""
    parcel: Parcel | None = getattr(ctx, _ATTRIBUTE, None)
    return parcel


def origin(ctx: task.OrchestrationContext) -> Origin | None:
    """The message that started this orchestration; None when something else did. `continue_as_new` keeps it."""
    parcel = start_of(ctx)
    return None if parcel is None else parcel.origin
