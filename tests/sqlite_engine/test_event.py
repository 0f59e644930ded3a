"""External events: either accepted durably or refused."""

from __future__ import annotations

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from tests.kit.protocol_client import ProtocolClient, activity, begin, call, complete, kinds, raise_event, start, state
from tests.sqlite_engine.conftest import Restartable


def test_events_before_the_first_turn_come_with_it_in_order(database: Database) -> None:
    start(database, "work", "a")
    for number in range(3):
        raise_event(database, "a", "e", number)
    item = ProtocolClient(database).take()
    raised = [
        event.eventRaised.input.value for event in item.orchestratorRequest.newEvents if event.HasField("eventRaised")
    ]
    assert raised == ["0", "1", "2"]


def test_an_unknown_instance_and_a_finished_one_refuse(database: Database) -> None:
    with pytest.raises(Rejection) as refused:
        raise_event(database, "nobody", "e")
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.turn(remote.take(), complete(1))
    with pytest.raises(Rejection, match="has finished") as refused:
        raise_event(database, "a", "e")
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_an_event_during_the_last_turn_is_refused_when_that_turn_has_ended(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    reply = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))
    call(database, "GetInstance", pb.GetInstanceRequest(instanceId="a"))
    assert not reply.future.done()
    remote.turn(item, complete(1))
    with pytest.raises(Rejection, match="has finished"):
        reply.future.result(20)


def test_an_event_during_another_turn_is_in_the_next_one(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    reply = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))
    remote.turn(item, activity(1, "x"))
    reply.future.result(20)
    items = [remote.take(), remote.take()]
    turn = next(each for each in items if each.HasField("orchestratorRequest"))
    assert kinds(turn) == ["eventRaised"]


def test_an_event_is_accepted_when_the_worker_of_the_turn_is_lost(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.take()
    reply = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))
    remote.leave()
    reply.future.result(20)
    assert kinds(ProtocolClient(database).take()) == ["executionStarted", "eventRaised"]


def test_an_event_to_an_instance_that_is_terminated_meanwhile_is_refused(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "a")
    remote.take()
    reply = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId="a"))
    with pytest.raises(Rejection, match="has finished"):
        reply.future.result(20)
    assert state(database, "a").orchestrationStatus == pb.ORCHESTRATION_STATUS_TERMINATED


def test_an_event_that_waits_for_a_turn_is_answered_when_the_engine_stops_and_is_kept(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "a")
    remote.take()
    reply = begin(restartable.now, "RaiseEvent", pb.RaiseEventRequest(instanceId="a", name="e"))
    database = restartable.again()
    reply.future.result(20)
    assert kinds(ProtocolClient(database).take()) == ["executionStarted", "eventRaised"]
