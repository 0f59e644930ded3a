"""Recreation and deletion of a task hub: on a replacement for the emulator, and never on a daemon's own hub."""

from __future__ import annotations

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, activity, begin, call, complete, signal, start, state, timer
from tests.sqlite_engine.conftest import Restartable

WIPING = (
    ("DeleteTaskHub", pb.DeleteTaskHubRequest()),
    ("CreateTaskHub", pb.CreateTaskHubRequest(recreateIfExists=True)),
)


@pytest.mark.parametrize(("method", "request_"), WIPING)
def test_nothing_is_left_and_workers_go_on(restartable: Restartable, method: str, request_: object) -> None:
    restartable.now.stop()
    restartable.options = DatabaseOptions(disposable=True)
    database = restartable.again()
    remote = ProtocolClient(database)
    start(database, "work", "waits")
    remote.turn(remote.take(), activity(1, "x"), timer(2, SYSTEM.wall() + 60_000_000))
    held = remote.take()
    signal(database, "@c@x", "go")
    batch = remote.take()
    start(database, "work", "turn")
    turn = remote.take()
    waiting = begin(database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId="waits"))
    raised = begin(database, "RaiseEvent", pb.RaiseEventRequest(instanceId="turn", name="e"))
    call(database, method, request_)
    assert not waiting.future.result(20).exists
    error = raised.future.exception(20)
    assert isinstance(error, Rejection)
    assert error.code is grpc.StatusCode.NOT_FOUND
    for late in (
        lambda: remote.result(held, 1),
        lambda: remote.turn(turn, complete(1)),
        lambda: remote.batch(batch, 1),
    ):
        with pytest.raises(Rejection) as refused:
            late()  # type: ignore[no-untyped-call]  # it comes without types
        assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert remote.nothing()
    start(database, "work", "waits")
    remote.turn(remote.take(), complete(1, "anew"))
    assert state(database, "waits").output.value == '"anew"'
    for table in ("inbox", "tasks", "timers", "operations", "entities"):
        assert database.hub.store.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    again = restartable.again()
    assert not call(again, "GetInstance", pb.GetInstanceRequest(instanceId="turn")).exists
    assert state(again, "waits").output.value == '"anew"'


def test_creating_a_hub_that_is_there_changes_nothing(restartable: Restartable) -> None:
    start(restartable.now, "work", "a")
    call(restartable.now, "CreateTaskHub", pb.CreateTaskHubRequest())
    assert state(restartable.now, "a").name == "work"


@pytest.mark.parametrize(("method", "request_"), WIPING)
def test_a_daemons_hub_is_not_for_clients_to_delete(restartable: Restartable, method: str, request_: object) -> None:
    start(restartable.now, "work", "a")
    with pytest.raises(Rejection, match="stop the daemon") as refused:
        call(restartable.now, method, request_)
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert state(restartable.now, "a").name == "work"
