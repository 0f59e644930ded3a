"""Private parts of the SDK that workflows use: each in one place, each with a way to do without it.

The docstring of each function says what a missing part costs. Tests fail when the SDK changes
one of these parts, and when another module touches one (tests/workflow/test_sdk_internals.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from durabletask import task
from durabletask.entities import DurableEntity, EntityContext
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import DataConverter


def parent_trace(ctx: task.OrchestrationContext) -> pb.TraceContext | None:
    """Trace context of the orchestration's parent; None also when it is unknown: the trace then ends at the parent."""
    parent: pb.TraceContext | None = getattr(ctx, "_parent_trace_context", None)
    return parent


def _type_discovery(name: str) -> Callable[..., Any]:
    """Function that reads a type from annotations; where the SDK has none, values stay plain JSON."""
    try:
        found = getattr(importlib.import_module("durabletask.internal.type_discovery"), name, None)
    except ModuleNotFoundError:
        found = None
    return found or (lambda function, converter: None)


input_type: Callable[[Any, DataConverter], Any] = _type_discovery("orchestrator_input_type")
"""Type of the second parameter of a function, if the converter can make it; else None."""

output_type: Callable[[Any, DataConverter], Any] = _type_discovery("activity_output_type")
"""Type of an activity's result, if the converter can make it; else None."""


# Retries of a publish


class _FinalFailures(task.RetryableTask[Any]):
    """Task that is retried according to its policy, unless its failure is final.

    The SDK asks for the next delay before it passes the failure, and its own retries cannot recognize a final failure.
    This class therefore returns no delay. Its `fail`, which receives the failure, schedules the retry as the SDK would.
    """

    _is_final: Callable[[str], bool]
    _schedule: Callable[[timedelta, task.RetryableTask[Any]], Any]

    def compute_next_delay(self) -> timedelta | None:
        return None

    def fail(self, message: str, details: Any) -> None:
        delay = None if self._is_final(getattr(details, "errorType", "")) else super().compute_next_delay()
        if delay is None:
            super().fail(message, details)
        else:
            self.increment_attempt_count()
            self._schedule(delay, self)


def without_retries_after(
    made: task.Task[Any], ctx: task.OrchestrationContext, is_final: Callable[[str], bool]
) -> None:
    """Let a task of this context fail at once when `is_final` is true for the type of its failure.

    The task is changed in place, because the SDK has already stored it. An SDK that schedules retries in another way
    makes all attempts of the policy, also after a final failure.
    """
    schedule = getattr(ctx, "create_timer_internal", None)
    if isinstance(made, task.RetryableTask) and schedule is not None and hasattr(made, "increment_attempt_count"):
        made.__class__ = _FinalFailures
        vars(made).update(_is_final=is_final, _schedule=schedule)


# Entities


class StoredStateContext(EntityContext):
    """Context of an entity that gives subclasses the stored state and its conversion."""

    def __init__(self, context: EntityContext) -> None:
        # Members of the SDK's context: a copy shares its state and its conversions
        self.__dict__.update(vars(context))

    def read_stored(self) -> Any:
        """State as the engine keeps it."""
        return super().get_state()

    def write_stored(self, state: Any) -> None:
        """Replace the state that the engine keeps."""
        super().set_state(state)

    def convert(self, value: Any, wanted: Any) -> Any:
        """Convert a JSON value as the SDK does; where its converter is not found, the value stays as it is."""
        converter: DataConverter | None = getattr(self, "_data_converter", None)
        return value if converter is None else converter.coerce(value, wanted)


class ContextualEntity(DurableEntity):
    """Entity whose operations get a context of its own class.

    An SDK that sets the context in another way gives operations its own context.
    """

    def _wrap_context(self, context: EntityContext) -> EntityContext:
        """Context for an operation, made of the SDK's."""
        return context

    def _initialize_entity_context(self, context: EntityContext) -> None:
        self.entity_context = self._wrap_context(context)
