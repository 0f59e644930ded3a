"""The SDK has every private part that workflows use, and workflows work without each of them."""

from __future__ import annotations

import inspect
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from durabletask import task
from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.internal import type_discovery
from durabletask.internal.entity_state_shim import StateShim
from durabletask.serialization import JsonDataConverter
from durabletask.worker import _RuntimeOrchestrationContext

from bridge.workflow import Entity, sdk_internals
from bridge.workflow.messages import trace_of


def test_the_context_has_the_trace_of_its_parent() -> None:
    assert "_parent_trace_context" in inspect.getsource(_RuntimeOrchestrationContext.__init__)


def test_without_it_there_is_no_trace() -> None:
    assert sdk_internals.parent_trace(SimpleNamespace()) is None  # type: ignore[arg-type]  # another version's context
    assert trace_of(SimpleNamespace()) is None  # type: ignore[arg-type]  # as above


def test_types_are_read_from_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    def activity(ctx: task.ActivityContext, given: timedelta) -> timedelta:
        return given

    converter = JsonDataConverter()
    assert sdk_internals.input_type is type_discovery.orchestrator_input_type
    assert sdk_internals.output_type is type_discovery.activity_output_type
    monkeypatch.setitem(sys.modules, "durabletask.internal.type_discovery", None)
    assert sdk_internals._type_discovery("activity_output_type")(activity, converter) is None


class Retried:
    """Context that records the timers of retries."""

    def __init__(self) -> None:
        self.delays: list[timedelta] = []

    def create_timer_internal(self, delay: timedelta, retried: object) -> None:
        self.delays.append(delay)


def retryable() -> task.RetryableTask[Any]:
    policy = task.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)
    parameters = list(inspect.signature(task.RetryableTask.__init__).parameters)[1:]
    known: dict[str, Any] = {"retry_policy": policy, "start_time": SimpleNamespace(), "is_sub_orch": False}
    return task.RetryableTask(**{name: known.get(name) for name in parameters})


def test_the_sdk_schedules_retries_by_these_methods() -> None:
    for kind, name in (
        (task.RetryableTask, "compute_next_delay"),
        (task.RetryableTask, "increment_attempt_count"),
        (task.RetryableTask, "fail"),
        (_RuntimeOrchestrationContext, "create_timer_internal"),
    ):
        assert callable(getattr(kind, name)), name


def test_a_final_failure_is_not_retried() -> None:
    context, made = Retried(), retryable()
    sdk_internals.without_retries_after(made, context, lambda kind: kind == "Final")  # type: ignore[arg-type]  # as above
    assert made.compute_next_delay() is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.RetryableTask, "compute_next_delay", lambda self: timedelta(seconds=1))
        made.fail("away", SimpleNamespace(errorType="Passing"))  # type: ignore[arg-type]  # all that is read of it
    assert context.delays == [timedelta(seconds=1)]
    assert not made.is_complete


@pytest.mark.parametrize("made", [task.CompletableTask[Any](), retryable()])
def test_other_tasks_and_contexts_stay_as_they_are(made: task.Task[Any]) -> None:
    kind = type(made)
    sdk_internals.without_retries_after(made, SimpleNamespace(), lambda kind: True)  # type: ignore[arg-type]  # as above
    assert type(made) is kind


class Counter(Entity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)


def test_an_entity_has_a_context_of_ours() -> None:
    assert "_initialize_entity_context" in vars(DurableEntity)
    context = EntityContext(
        "", "add", StateShim(None, JsonDataConverter()), EntityInstanceId("counter", "a"), JsonDataConverter()
    )
    entity = Counter()
    entity._initialize_entity_context(context)
    entity.add(2)
    assert (entity.get_state(int), context.get_state()) == (2, 2)
    assert entity.entity_context.operation == "add"


def test_an_entity_with_the_context_of_the_sdk() -> None:
    """An SDK that sets the context in another way: operations run, and repeats are not recognised."""
    context = EntityContext(
        "", "add", StateShim(None, JsonDataConverter()), EntityInstanceId("counter", "a"), JsonDataConverter()
    )
    entity = Counter()
    entity.entity_context = context
    entity.add(2)
    assert context.get_state() == 2


def test_a_context_without_a_converter() -> None:
    context = EntityContext(
        "", "add", StateShim(None, JsonDataConverter()), EntityInstanceId("counter", "a"), JsonDataConverter()
    )
    stored = sdk_internals.StoredStateContext(context)
    assert stored.convert(2, int) == 2
    del stored._data_converter
    assert stored.convert(2, int) == 2
