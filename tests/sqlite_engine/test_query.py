"""Queries for many instances and entities, page by page."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, activity, call, complete, fail, signal, start, state, text


def ask(database: Database, **query: object) -> tuple[list[str], str]:
    request = pb.QueryInstancesRequest(query=pb.InstanceQuery(**query))  # type: ignore[arg-type]
    response = call(database, "QueryInstances", request)
    return [state.instanceId for state in response.orchestrationState], response.continuationToken.value


@pytest.fixture
def filled(database: Database) -> Database:
    """Database with the instances done-0..4, failed-0..4, open-0..4, suspended and terminated."""
    remote = ProtocolClient(database)
    for kind in ("done", "failed", "open"):
        for number in range(5):
            start(database, kind, f"{kind}-{number}", number)
            action = {"done": complete(1, "out"), "failed": fail(1, "x"), "open": activity(1, "never")}[kind]
            remote.turn(remote.take(), action)
            if kind == "open":
                remote.take()
    for instance_id in ("suspended", "terminated"):
        start(database, "work", instance_id)
    call(database, "SuspendInstance", pb.SuspendRequest(instanceId="suspended"))
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="terminated"))
    return database


def test_by_status(filled: Database) -> None:
    assert ask(filled, runtimeStatus=[pb.ORCHESTRATION_STATUS_FAILED])[0] == [f"failed-{n}" for n in range(5)]
    assert ask(filled, runtimeStatus=[pb.ORCHESTRATION_STATUS_RUNNING])[0] == [f"open-{n}" for n in range(5)]
    assert ask(filled, runtimeStatus=[pb.ORCHESTRATION_STATUS_SUSPENDED])[0] == ["suspended"]
    both = [pb.ORCHESTRATION_STATUS_TERMINATED, pb.ORCHESTRATION_STATUS_SUSPENDED]
    assert ask(filled, runtimeStatus=both)[0] == ["suspended", "terminated"]
    assert len(ask(filled)[0]) == 17


def test_by_prefix_literally_and_by_time(filled: Database) -> None:
    assert ask(filled, instanceIdPrefix=text("done-"))[0] == [f"done-{n}" for n in range(5)]
    assert ask(filled, instanceIdPrefix=text("%"))[0] == []
    later = timestamp(SYSTEM.wall() + 1_000_000)
    assert ask(filled, createdTimeFrom=later)[0] == []
    assert len(ask(filled, createdTimeTo=later)[0]) == 17


def test_pages_neither_repeat_nor_miss(filled: Database) -> None:
    seen, token = ask(filled, maxInstanceCount=4)
    while token:
        page, token = ask(filled, maxInstanceCount=4, continuationToken=text(token))
        seen += page
    assert len(seen) == len(set(seen)) == 17


def test_payloads_only_when_asked_for(filled: Database) -> None:
    for wanted in (True, False):
        query = pb.InstanceQuery(instanceIdPrefix=text("done-0"), fetchInputsAndOutputs=wanted)
        found = call(filled, "QueryInstances", pb.QueryInstancesRequest(query=query)).orchestrationState[0]
        assert (found.HasField("input"), found.HasField("output")) == (wanted, wanted)


def test_ids_of_finished_instances_by_when_they_finished(filled: Database) -> None:
    seen: list[str] = []
    key = ""
    while True:
        request = pb.ListInstanceIdsRequest(pageSize=3, lastInstanceKey=text(key))
        response = call(filled, "ListInstanceIds", request)
        seen += response.instanceIds
        key = response.lastInstanceKey.value
        if not key:
            break
    assert seen == [f"done-{n}" for n in range(5)] + [f"failed-{n}" for n in range(5)] + ["terminated"]
    failed = pb.ListInstanceIdsRequest(runtimeStatus=[pb.ORCHESTRATION_STATUS_FAILED])
    assert len(call(filled, "ListInstanceIds", failed).instanceIds) == 5


def ids_after(database: Database, key: str, **fields: Any) -> tuple[list[str], str]:
    request = pb.ListInstanceIdsRequest(lastInstanceKey=text(key), **fields)
    response = call(database, "ListInstanceIds", request)
    return list(response.instanceIds), response.lastInstanceKey.value


@pytest.mark.parametrize("size", [3, 11, 100])
def test_pages_of_ids_go_on_behind_the_id_that_a_client_saw_last(filled: Database, size: int) -> None:
    seen, _ = ids_after(filled, "", pageSize=size)
    while True:
        page, _ = ids_after(filled, seen[-1], pageSize=size)
        if not page:
            break
        seen += page
    assert len(seen) == len(set(seen)) == 11


@pytest.mark.parametrize("size", [1, 11, 100])
def test_a_page_with_ids_has_a_key_and_the_empty_one_has_none(filled: Database, size: int) -> None:
    seen, key = ids_after(filled, "", pageSize=size)
    while key:
        page, key = ids_after(filled, key, pageSize=size)
        assert bool(page) == bool(key)
        seen += page
    assert len(seen) == len(set(seen)) == 11


def test_ids_that_look_like_a_key_of_an_earlier_version(database: Database) -> None:
    remote = ProtocolClient(database)
    names = ["a", "1|a", "99999999999999999999|b", "9|", "|", "b"]
    for each in names:
        start(database, "work", each)
        remote.turn(remote.take(), complete(1))
        state(database, each)
    for number, each in enumerate(names):
        assert ids_after(database, each)[0] == names[number + 1 :]
    finished = state(database, "1|a").completedTimestamp.ToMicroseconds()
    assert ids_after(database, f"{finished}|1|a")[0] == names[2:]


def test_a_key_outlasts_its_instance_and_an_id_does_not(filled: Database) -> None:
    page, key = ids_after(filled, "", pageSize=1)
    call(filled, "PurgeInstances", pb.PurgeInstancesRequest(instanceId=page[0]))
    assert ids_after(filled, key, pageSize=1)[0] == ["done-1"]
    for unplaced in (page[0], "open-0"):
        with pytest.raises(Rejection, match="neither one that this engine gave nor the id of a finished instance"):
            ids_after(filled, unplaced)


def test_tokens_that_this_engine_never_gave_are_refused(filled: Database) -> None:
    for method, request in (
        ("QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery(continuationToken=text("x'; DROP")))),
        ("QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery(continuationToken=text("9" * 30)))),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(lastInstanceKey=text("yesterday"))),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(lastInstanceKey=text("@yesterday"))),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(lastInstanceKey=text("9" * 30 + "|a"))),
        ("ListInstanceIds", pb.ListInstanceIdsRequest(lastInstanceKey=text("٣|a"))),
    ):
        with pytest.raises(Rejection) as refused:
            call(filled, method, request)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_history_is_complete_and_in_pieces(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a", "x" * 400_000)
    remote.turn(remote.take(), activity(1, "x", "y" * 400_000))
    remote.result(remote.take(), "z" * 400_000)
    remote.turn(remote.take(), complete(2))
    # A worker's report is answered before its commit; a client's query sees committed data.
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_COMPLETED
    chunks = call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId="a"))
    assert len(chunks) > 1
    kinds = [event.WhichOneof("eventType") for chunk in chunks for event in chunk.events]
    assert kinds == [
        "orchestratorStarted", "executionStarted", "taskScheduled",
        "orchestratorStarted", "taskCompleted", "executionCompleted",
    ]  # fmt: skip
    with pytest.raises(Rejection, match="not found"):
        call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId="nobody"))


def test_entities_by_prefix_and_page(database: Database) -> None:
    remote = ProtocolClient(database)
    for number in range(5):
        signal(database, f"@counter@{number}", "x")
        remote.batch(remote.take(), None, new_state=number)
    signal(database, "@other@0", "x")
    query = pb.EntityQuery(instanceIdStartsWith=text("@Counter@"), includeState=True)
    query.pageSize.value = 2
    seen = []
    while True:
        response = call(database, "QueryEntities", pb.QueryEntitiesRequest(query=query))
        seen += [(each.instanceId, each.serializedState.value) for each in response.entities]
        if not response.HasField("continuationToken"):
            break
        query.continuationToken.CopyFrom(response.continuationToken)
    assert seen == [(f"@counter@{n}", str(n)) for n in range(5)]
    everything = pb.QueryEntitiesRequest(query=pb.EntityQuery(includeTransient=True))
    assert len(call(database, "QueryEntities", everything).entities) == 6


MIB = 1024 * 1024


@pytest.mark.parametrize("sizes", [[1.4, 1.4, 1.4, 1.4], [0.1, 3.9, 0.1], [2.5, 2.5], [3.0, 0.9, 0.5]])
def test_a_page_fits_a_clients_message_and_none_is_left_out(database: Database, sizes: list[float]) -> None:
    for number, size in enumerate(sizes):
        start(database, "work", f"i-{number}", "x" * int(size * MIB))
    found, token = [], ""
    while True:
        query = pb.InstanceQuery(fetchInputsAndOutputs=True, continuationToken=text(token))
        page = call(database, "QueryInstances", pb.QueryInstancesRequest(query=query))
        assert page.ByteSize() <= 4 * MIB
        found += [each.instanceId for each in page.orchestrationState]
        token = page.continuationToken.value
        if not token:
            break
    assert found == [f"i-{number}" for number in range(len(sizes))]


def test_a_page_of_long_ids_fits_a_clients_message(database: Database) -> None:
    remote = ProtocolClient(database)
    ids = [f"{number:04d}" + "\U0001f600" * 1020 for number in range(1010)]
    for each in ids:
        start(database, "work", each)
        remote.turn(remote.take(), complete(1))
    found, token = [], ""
    while True:
        request = pb.ListInstanceIdsRequest(pageSize=1000, lastInstanceKey=text(token))
        page = call(database, "ListInstanceIds", request)
        assert page.ByteSize() <= 4 * MIB
        found += page.instanceIds
        token = page.lastInstanceKey.value
        if not token:
            break
    assert found == ids


def test_a_page_of_entities_fits_a_clients_message(database: Database) -> None:
    remote = ProtocolClient(database)
    for number in range(4):
        signal(database, f"@c@{number}", "set")
        remote.batch(remote.take(), None, new_state="x" * int(1.4 * MIB))
    # A worker's report is answered before its commit; a client's query sees committed data.
    call(database, "GetEntity", pb.GetEntityRequest(instanceId="@c@0"))
    found, token = [], ""
    while True:
        query = pb.EntityQuery(includeState=True, continuationToken=text(token))
        page = call(database, "QueryEntities", pb.QueryEntitiesRequest(query=query))
        assert page.ByteSize() <= 4 * MIB
        found += [each.instanceId for each in page.entities]
        token = page.continuationToken.value
        if not token:
            break
    assert found == [f"@c@{number}" for number in range(4)]
