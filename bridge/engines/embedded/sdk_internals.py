"""Private parts of the SDK that the worker in the engine's process uses, each with a way to do without it.

Without a part of a session every turn runs in the SDK's worker, which replays the orchestrator. The docstrings say what
the other parts cost. Tests fail when the SDK changes one of these parts (tests/engines/test_embedded_sdk_internals.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, TypeVar

from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.task import CancellableTask
from durabletask.worker import ConcurrencyOptions, ExecutionResults, WorkItemFilters

from bridge.engines.sdk_internals import OpenWorker, new_failure_details, part
from bridge.engines.worker.containment import close_quietly

_WORKER = "durabletask.worker"

suppress_spans: Any = part("durabletask.internal.tracing", "suppress_span_emission") or nullcontext
"""Context manager in which the SDK makes no spans. Without it, the SDK may make some beside those of the engine."""

TurnExecutor: Any = part(_WORKER, "_OrchestrationExecutor") or object
"""The SDK's executor of turns; `object` without one, and no session is then made."""

ActivityExecutor: Any = part(_WORKER, "_ActivityExecutor")
"""The SDK's executor of activities. Without it, activities run outside of OpenTelemetry's context of their span."""

CONTEXT = frozenset(
    {
        "_encoded_custom_status", "_generator", "_is_complete", "_is_replaying", "_orchestration_trace_context",
        "_pending_events", "_pending_tasks", "_received_events",
    }
)  # fmt: skip
"""Attributes of an orchestration's context that a session uses. A context without one of them ends with its turn."""

EXECUTOR = frozenset({"execute", "process_event"})
"""Methods of the executor of turns that a session uses."""

WORKER = frozenset({"_data_converter", "_exception_properties_provider", "_logger", "_registry"})
"""Attributes of the worker from which executors are made."""

E = TypeVar("E", bound="OpenTurnExecutor")

_UNKNOWN = object()


class OpenTurnExecutor(TurnExecutor):  # type: ignore[misc]  # the SDK's class is found at run time
    """The SDK's executor of turns, which keeps the orchestration's context after its turn and can continue it."""

    context: Any = None

    def process_event(self, ctx: Any, event: pb.HistoryEvent) -> None:
        self.context = ctx
        super().process_event(ctx, event)

    def continue_turn(self, past: Iterable[pb.HistoryEvent], new: Iterable[pb.HistoryEvent]) -> ExecutionResults:
        """Continue from the end of the last turn; the counterpart of the SDK's `execute`."""
        context, process = self.context, super().process_event
        try:
            context._is_replaying = True
            for event in past:
                process(context, event)
            context._is_replaying = False
            for event in new:
                process(context, event)
        except Exception as error:
            context.set_failed(error)
        return ExecutionResults(
            context.get_actions(), context._encoded_custom_status, context._orchestration_trace_context
        )

    @property
    def can_continue(self) -> bool:
        """True when the context has all attributes that `continue_turn` and `release` use."""
        return self.context is not None and vars(self.context).keys() >= CONTEXT

    @property
    def received_events(self) -> Mapping[str, Sequence[tuple[int, str | None]]]:
        """Received events that no wait has taken, by name, as pairs of position and data; none when unknown."""
        return getattr(self.context, "_received_events", None) or {}

    @property
    def is_over(self) -> bool:
        """True when no turn can follow."""
        return self.context is None or self.context._is_complete

    def release(self) -> None:
        """Close the orchestrator and break its reference cycles.

        A garbage collector might find the cycles only hours later. The orchestrator's `finally` clauses run, as they do
        after every replay.
        """
        context, self.context = self.context, None
        if context is None:
            return
        if (generator := getattr(context, "_generator", None)) is not None:
            close_quietly(generator)
        tasks, events = getattr(context, "_pending_tasks", {}), getattr(context, "_pending_events", {})
        for wait in (*tasks.values(), *chain.from_iterable(events.values())):
            if isinstance(wait, CancellableTask):
                wait.set_cancel_handler(_nothing)
        vars(context).clear()


def _nothing() -> None:
    """Cancel handler that does nothing."""


class InProcessWorker(OpenWorker):
    """Worker of the SDK with public names for the parts that a worker in the engine's process uses."""

    @property
    def can_have_sessions(self) -> bool:
        """True when the SDK has all parts with which a session begins."""
        return TurnExecutor is not object and vars(self).keys() >= WORKER and set(dir(TurnExecutor)) >= EXECUTOR

    def make_turn_executor(self, kind: Callable[..., E]) -> E:
        """Create an executor for the turns of one orchestration."""
        return kind(
            self._registry,
            self._logger,
            self._data_converter,
            maximum_timer_interval=self.maximum_timer_interval,
            exception_properties_provider=self._exception_properties_provider,
        )

    def make_activity_executor(self) -> Any:
        """Create an executor for one activity; None when the SDK has to run it."""
        if ActivityExecutor is None or self.stores_payloads or not vars(self).keys() >= WORKER:
            return None
        return ActivityExecutor(self._registry, self._logger, self._data_converter)

    def failure_details_of(self, error: BaseException) -> pb.TaskFailureDetails:
        """Failure details of an activity's exception, with the properties that the worker's provider adds."""
        return new_failure_details(error, self._exception_properties_provider, self._logger)

    @property
    def stores_payloads(self) -> bool:
        """True when the SDK keeps large payloads elsewhere, and when that is unknown."""
        return getattr(self, "_payload_store", _UNKNOWN) is not None

    @property
    def capabilities(self) -> list[Any]:
        """Capabilities that the worker announces; none beyond its payload store when they are unknown."""
        found: list[Any] = sorted(getattr(self, "_capabilities", ()))
        return [pb.WORKER_CAPABILITY_LARGE_PAYLOADS, *found] if self.has_payload_store else found

    @property
    def has_payload_store(self) -> bool:
        """True when the SDK keeps large payloads elsewhere."""
        return getattr(self, "_payload_store", None) is not None

    @property
    def limits(self) -> ConcurrencyOptions:
        """Concurrency of the worker; the SDK's default when it is unknown."""
        found = getattr(self, "_concurrency_options", None)
        return found if isinstance(found, ConcurrencyOptions) else ConcurrencyOptions()

    @property
    def filters(self) -> pb.WorkItemFilters | None:
        """Filters of the work for this worker; None for none, and when they are unknown.

        Without filters the engine offers the worker all work whose names it knows.
        """
        found: Any = getattr(self, "_work_item_filters", None)
        if getattr(self, "_auto_generate_work_item_filters", False):
            make = getattr(WorkItemFilters, "_from_registry", None)
            found = make(self._registry) if make is not None and hasattr(self, "_registry") else None
        write = getattr(found, "_to_grpc", None)
        return None if write is None else write()

    def set_running(self, value: bool) -> None:
        """Set the state that `add_orchestrator` and its like check: a running worker registers nothing more."""
        self._is_running = value
