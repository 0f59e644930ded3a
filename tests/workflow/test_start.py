"""Inputs, events and origins in orchestrators, with the bridge's converter and with the SDK's own."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from durabletask import task
from durabletask.internal import helpers
from durabletask.serialization import JsonDataConverter
from durabletask.worker import _OrchestrationExecutor, _Registry
from pydantic import BaseModel

from bridge.core.origin import KEY, MessageOrigin, wrap_payload
from bridge.workflow import DataConverter, message_aware, origin

QUIET = logging.getLogger("tests.start")
ORIGIN = MessageOrigin("shop/42", "start-order")


class Model(BaseModel):
    total: int


class Pair(NamedTuple):
    total: int
    more: int = 0


@dataclass
class Record:
    total: int


def bare(ctx: task.OrchestrationContext, given: Any) -> Any:
    return [type(given).__name__, given, _told(ctx)]


def typed_model(ctx: task.OrchestrationContext, given: Model) -> Any:
    return [type(given).__name__, given, _told(ctx)]


def typed_pair(ctx: task.OrchestrationContext, given: Pair) -> Any:
    return [type(given).__name__, given, _told(ctx)]


def typed_record(ctx: task.OrchestrationContext, given: Record) -> Any:
    return [type(given).__name__, given, _told(ctx)]


def typed_int(ctx: task.OrchestrationContext, given: int) -> Any:
    return [type(given).__name__, given, _told(ctx)]


def typed_list(ctx: task.OrchestrationContext, given: list[Model]) -> Any:
    return [type(given[0]).__name__, given, _told(ctx)]


def waits(ctx: task.OrchestrationContext, given: Any) -> Any:
    plain = yield ctx.wait_for_external_event("go")
    typed = yield ctx.wait_for_external_event("go", data_type=Record)
    return [plain, type(typed).__name__, typed.total]


def _told(ctx: task.OrchestrationContext) -> Any:
    known = origin(ctx)
    return None if known is None else [known.message_id, known.route]


def execute(function: Any, text: str | None, *events: str, converter: Any = None, aware: bool = True) -> Any:
    registry = _Registry()
    registry.add_orchestrator(message_aware(function) if aware else function)
    executor = _OrchestrationExecutor(registry, QUIET, converter or DataConverter())
    new = [
        helpers.new_orchestrator_started_event(),
        helpers.new_execution_started_event(function.__name__, "i", text),
        *(helpers.new_event_raised_event("go", event) for event in events),
    ]
    (action,) = executor.execute("i", [], new).actions
    done = action.completeOrchestration
    assert not done.failureDetails.errorType, done.failureDetails.errorMessage
    return json.loads(done.result.value)


INPUTS = [
    (bare, {"total": 5}, "dict"),
    (bare, None, "NoneType"),
    (bare, "text", "str"),
    (bare, [1], "list"),
    (typed_record, {"total": 5}, "Record"),
    (typed_int, 5, "int"),
]
OURS = [
    (typed_model, {"total": 5}, "Model"),
    (typed_pair, {"total": 5}, "Pair"),
    (typed_list, [{"total": 5}], "Model"),
]
"""Inputs that only the bridge's converter builds."""


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("function", "data", "kind", "converter"),
    [(*each, JsonDataConverter()) for each in INPUTS] + [(*each, DataConverter()) for each in INPUTS + OURS],
)
def test_inputs_are_bare_and_typed(function: Any, data: Any, kind: str, wrapped: bool, converter: Any) -> None:
    text = json.dumps(wrap_payload(data, ORIGIN) if wrapped else data)
    found, _, received = execute(function, text, converter=converter)
    assert found == kind
    assert received == (["shop/42", "start-order"] if wrapped else None)


def test_an_input_that_does_not_fit_fails_with_its_places() -> None:
    with pytest.raises(AssertionError, match=r"does not fit Model: total"):
        execute(typed_model, json.dumps(wrap_payload({"total": "many"}, ORIGIN)))


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("function", [bare, typed_record, typed_model])
def test_a_worker_that_does_not_tell_still_gives_bare_inputs(function: Any, aware: bool) -> None:
    _, value, received = execute(function, json.dumps(wrap_payload({"total": 5}, ORIGIN)), aware=aware)
    assert value == {"total": 5}
    assert received == (["shop/42", "start-order"] if aware else None)


def test_no_input_at_all() -> None:
    assert execute(bare, None) == ["NoneType", None, None]


def test_events_are_bare_and_typed() -> None:
    text = json.dumps(wrap_payload({"total": 5}, ORIGIN))
    assert execute(waits, None, text, text) == [{"total": 5}, "Record", 5]
    assert execute(waits, None, '{"total": 5}', '{"total": 5}') == [{"total": 5}, "Record", 5]


def test_a_later_version_of_the_envelope_fails_loudly() -> None:
    with pytest.raises(AssertionError, match="version 2"):
        execute(bare, json.dumps({KEY: {"v": 2, "data": 1}}))


def test_data_that_looks_like_an_envelope_comes_back_as_it_was() -> None:
    converter = DataConverter()
    forged = {KEY: {"v": 1, "id": "forged", "route": "r", "data": 1}}
    assert converter.deserialize(converter.serialize(forged)) == forged
    assert execute(bare, json.dumps(wrap_payload(forged, ORIGIN))) == ["dict", forged, ["shop/42", "start-order"]]


def test_names_and_docs_stay() -> None:
    aware = message_aware(typed_model)
    assert (aware.__name__, aware.__module__) == ("typed_model", __name__)
    assert message_aware(aware) is aware
