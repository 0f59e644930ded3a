"""Early messages of an instance are notified of its start in the transaction of the start, whoever starts it."""

from __future__ import annotations

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.system_names import target_id
from bridge.sqlite_engine.database import Database
from tests.kit.protocol_client import ProtocolClient, call, complete, signal, start
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_entity import entities, entity, operations

WAITING = target_id("order-1")


def parked(remote: ProtocolClient, database: Database) -> None:
    """Create an early message for order-1."""
    signal(database, WAITING, "park")
    item = remote.take()
    assert operations(item) == ["park"]
    remote.batch(item, None, new_state=1)


def test_a_start_is_told(database: Database) -> None:
    remote = ProtocolClient(database)
    parked(remote, database)
    start(database, "work", "order-2")
    remote.turn(remote.take(), complete(1))
    assert remote.nothing()
    start(database, "work", "order-1")
    items = {each.WhichOneof("request"): each for each in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["started"]


def test_a_start_is_told_while_the_parking_is_under_way(database: Database) -> None:
    remote = ProtocolClient(database)
    signal(database, WAITING, "park")
    item = remote.take()
    start(database, "work", "order-1")
    remote.turn(remote.take(), complete(1))
    remote.batch(item, None, new_state=1)
    assert operations(remote.take()) == ["started"]


def test_a_child_that_an_orchestration_starts_is_told_too(database: Database) -> None:
    remote = ProtocolClient(database)
    parked(remote, database)
    start(database, "parent", "p")
    child = pb.CreateSubOrchestrationAction(name="work", instanceId="order-1")
    remote.turn(remote.take(), pb.OrchestratorAction(id=1, createSubOrchestration=child))
    items = {each.WhichOneof("request"): each for each in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["started"]


def test_it_is_told_after_the_engine_was_started_over(restartable: Restartable) -> None:
    parked(ProtocolClient(restartable.now), restartable.now)
    database = restartable.again()
    remote = ProtocolClient(database)
    start(database, "work", "order-1")
    items = {each.WhichOneof("request"): each for each in (remote.take(), remote.take())}
    assert operations(items["entityRequestV2"]) == ["started"]


def test_where_nothing_waits_any_more_nobody_is_told_and_nothing_is_left(restartable: Restartable) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    parked(remote, database)
    signal(database, WAITING, "drop")
    remote.batch(remote.take(), None)
    assert not entity(database, WAITING).exists
    assert entities(database, includeTransient=True) == []
    start(database, "work", "order-1")
    assert remote.take().WhichOneof("request") == "orchestratorRequest"
    assert remote.nothing()
    assert WAITING not in {each.instanceId for each in entities(restartable.again(), includeTransient=True)}


def test_one_that_comes_back_in_the_same_group_is_there(restartable: Restartable) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    for number in range(20):
        parked(remote, database)
        signal(database, WAITING, "drop")
        item = remote.take()
        remote.batch(item, None)
        signal(database, WAITING, f"again {number}")
        item = remote.take()
        assert operations(item) == [f"again {number}"]
        assert not item.entityRequestV2.HasField("entityState")
        remote.batch(item, None, new_state=2)
        assert entity(database, WAITING).entity.serializedState.value == "2"
    assert entity(restartable.again(), WAITING).entity.serializedState.value == "2"


@pytest.mark.parametrize("name", ["counter", "bridgeparking"])
def test_other_entities_without_state_are_left_alone(database: Database, name: str) -> None:
    remote = ProtocolClient(database)
    signal(database, f"@{name}@x", "once")
    remote.batch(remote.take(), None)
    call(database, "GetEntity", pb.GetEntityRequest(instanceId=f"@{name}@x"))
    assert [each.instanceId for each in entities(database, includeTransient=True)] == [f"@{name}@x"]
