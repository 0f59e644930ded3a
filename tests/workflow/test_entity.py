"""Entities that take every message once, as the SDK's worker runs them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import JsonDataConverter
from durabletask.worker import TaskHubGrpcWorker
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel

from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.workflow import DataConverter, Entity
from bridge.workflow.entity import STATE_KEY, bare_state
from bridge.workflow.messages import REPEATS


class Amount(BaseModel):
    value: int


class Counter(Entity):
    remember = 3

    def add(self, amount: int) -> int:
        total = int(self.get_state(int, 0)) + amount
        self.set_state(total)
        return total

    def add_typed(self, amount: Amount) -> int:
        return self.add(amount.value)

    def touch(self) -> None:
        """Operation without input."""

    def maybe(self, amount: int = 5) -> int:
        return self.add(amount)

    def fail(self, amount: int) -> None:
        self.add(amount)
        raise ValueError("no")

    def get(self) -> Any:
        return self.get_state(int)

    def wrongly(self) -> Any:
        return self.get_state(list)

    def helper(self, a: int, *, b: int = 1) -> int:
        return a + b

    def calls_helper(self, amount: int) -> int:
        return self.helper(amount, b=2) + self.helper(a=1)


class Doubling(Counter):
    def add(self, amount: int) -> int:
        return super().add(2 * amount)


class Stub:
    def CompleteEntityTask(self, result: Any) -> None:  # noqa: N802 -- the protocol's name
        self.result = result


class EntityFixture:
    """Entity that a test runs batch by batch."""

    def __init__(self, kind: type[Entity] = Counter, converter: Any = None) -> None:
        logger = logging.getLogger("tests.entity")
        logger.setLevel(logging.CRITICAL)
        self.worker = TaskHubGrpcWorker(data_converter=converter or DataConverter(), logger=logger)
        self.worker.add_entity(kind, name="counter")
        self.state: str | None = None

    def run(self, *operations: tuple[str, Any]) -> list[Any]:
        """Return each result, or the type of the failure."""
        request = pb.EntityBatchRequest(
            instanceId=str(EntityInstanceId("counter", "k")),
            entityState=None if self.state is None else StringValue(value=self.state),
            operations=[
                pb.OperationRequest(operation=name, input=None if data is ... else StringValue(value=json.dumps(data)))
                for name, data in operations
            ],
        )
        stub = Stub()
        self.worker._execute_entity_batch(request, stub, "token")
        self.state = stub.result.entityState.value if stub.result.HasField("entityState") else None
        return [
            json.loads(result.success.result.value or "null")
            if result.HasField("success")
            else result.failure.failureDetails.errorType.rpartition(".")[2]
            for result in stub.result.results
        ]


def signal(data: Any, number: int) -> Any:
    return wrap_payload(data, MessageOrigin(f"m-{number}", "r"))


@pytest.mark.parametrize("converter", [DataConverter(), JsonDataConverter()])
def test_a_repeat_is_dropped_and_counted(converter: Any) -> None:
    setup, before = EntityFixture(converter=converter), REPEATS.counts()["entity"]
    assert setup.run(("add", signal(2, 1)), ("add", signal(2, 1)), ("add", signal(3, 2))) == [2, None, 5]
    assert setup.run(("add", signal(2, 1)), ("get", ...)) == [None, 5]
    assert REPEATS.counts()["entity"] - before == 2
    assert setup.state is not None
    assert bare_state(json.loads(setup.state)) == 5


def test_bare_signals_and_calls_have_no_id_and_leave_the_state_bare() -> None:
    setup = EntityFixture()
    assert setup.run(("add", 2), ("add", 2), ("maybe", ...), ("maybe", 1)) == [2, 4, 9, 10]
    assert setup.state == "10"
    assert bare_state(10) == 10


def test_inputs_are_typed_and_optional() -> None:
    setup = EntityFixture()
    assert setup.run(("add_typed", signal({"value": 2}, 1)), ("add_typed", {"value": 3})) == [2, 5]
    assert setup.run(("maybe", signal(None, 2)), ("touch", signal(None, 3)), ("get", ...)) == [10, None, 10]
    assert setup.run(("add_typed", signal({"value": "x"}, 4))) == ["TypeError"]
    assert setup.run(("calls_helper", signal(1, 5))) == [5]


def test_an_operation_that_failed_is_not_remembered() -> None:
    setup = EntityFixture()
    assert setup.run(("fail", signal(2, 1)), ("add", signal(2, 1)), ("add", signal(2, 1))) == ["ValueError", 2, None]


def test_the_window_and_what_deleting_does() -> None:
    setup = EntityFixture()
    for number in range(1, 5):
        setup.run(("add", signal(1, number)))
    assert setup.run(("add", signal(1, 4)), ("add", signal(1, 2)), ("add", signal(1, 1))) == [None, None, 5]
    assert setup.run(("delete", signal(None, 9))) == [None]
    assert setup.state is None
    assert setup.run(("add", signal(1, 4))) == [1]


def test_what_changes_no_state_is_remembered_too() -> None:
    setup = EntityFixture()
    setup.run(("touch", signal(None, 1)))
    assert setup.state is not None
    assert list(json.loads(setup.state)) == [STATE_KEY]
    assert setup.run(("get", ...), ("add", 1), ("wrongly", ...)) == [None, 1, "TypeError"]


def test_inherited_and_overridden_operations_run_once() -> None:
    setup = EntityFixture(Doubling)
    assert setup.run(("add", signal(1, 1)), ("add", signal(1, 1)), ("maybe", signal(None, 2))) == [2, None, 12]
