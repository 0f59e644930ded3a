"""Workers that answer without completion token: an answer is applied to its own work, or to none."""

from __future__ import annotations

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.protocol.server import Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from tests.kit.protocol_client import ProtocolClient, activity, again, call, complete, kinds, raise_event, start, state
from tests.kit.waiting import TIMEOUT, eventually_blocking
from tests.sqlite_engine.conftest import Restartable


def results(item: pb.WorkItem) -> list[str]:
    """Return the results of activities among the turn's new events."""
    events = item.orchestratorRequest.newEvents
    return [event.taskCompleted.result.value for event in events if event.HasField("taskCompleted")]


def terminate(database: Database, instance_id: str) -> None:
    call(database, "TerminateInstance", pb.TerminateRequest(instanceId=instance_id))


def continued(database: Database, remote: ProtocolClient) -> tuple[pb.WorkItem, pb.WorkItem]:
    """Let two executions of an instance call an activity of the same number. Return both activities."""
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "slow"))
    slow = remote.take()
    raise_event(database, "a", "go")
    remote.turn(remote.take(), again(2, None))
    remote.turn(remote.take(), activity(1, "quick"))
    return slow, remote.take()


@pytest.mark.parametrize("order", ["as called", "reversed"])
def test_an_activity_of_an_earlier_execution_answers_for_no_later_one(database: Database, order: str) -> None:
    remote = ProtocolClient(database, tokens=False)
    slow, quick = continued(database, remote)
    answers = [(slow, "slow"), (quick, "quick")]
    for item, value in answers if order == "as called" else reversed(answers):
        remote.result(item, value)
    turn = remote.take()
    assert results(turn) == ['"quick"']
    remote.turn(turn, complete(2))
    assert remote.nothing()


def test_an_activity_that_ran_twice_answers_for_no_later_execution(database: Database) -> None:
    gone = ProtocolClient(database, tokens=False)
    start(database, "work", "a")
    gone.turn(gone.take(), activity(1, "first"))
    twice = gone.take()
    gone.leave()
    remote = ProtocolClient(database, tokens=False)
    second = remote.take()
    assert second == twice
    gone.result(twice, "first")
    remote.turn(remote.take(), again(2, None))
    remote.turn(remote.take(), activity(1, "later"))
    later = remote.take()
    with pytest.raises(Rejection, match="no longer"):
        remote.result(second, "first")
    remote.result(later, "later")
    assert results(remote.take()) == ['"later"']


def test_an_activity_of_a_replaced_instance_answers_for_no_later_one(database: Database) -> None:
    remote = ProtocolClient(database, tokens=False)
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    old = remote.take()
    terminate(database, "a")
    start(database, "work", "a")
    remote.turn(remote.take(), activity(1, "x"))
    new = remote.take()
    remote.result(new, "new")
    assert results(remote.take()) == ['"new"']
    remote.result(old, "old")
    assert remote.nothing()


def test_numbers_change_for_no_worker_that_sends_tokens(database: Database) -> None:
    remote = ProtocolClient(database)
    slow, quick = continued(database, remote)
    assert (slow.activityRequest.taskId, quick.activityRequest.taskId) == (1, 1)


@pytest.mark.parametrize("end", ["answer", "leave"])
def test_a_turn_of_a_replaced_instance_answers_for_no_later_one(database: Database, end: str) -> None:
    old, remote = ProtocolClient(database, tokens=False), ProtocolClient(database, tokens=False)
    database.disconnect(remote.stream)
    start(database, "work", "a")
    item = old.take()
    terminate(database, "a")
    start(database, "work", "a", "new")
    database.connect(remote.stream)
    assert old.nothing()
    assert remote.nothing()
    if end == "answer":
        with pytest.raises(Rejection, match="no longer"):
            old.turn(item, complete(1, "old"))
        turn = old.take()
    else:
        old.leave()
        turn = remote.take()
    assert turn.orchestratorRequest.newEvents[1].executionStarted.input.value == '"new"'
    (old if end == "answer" else remote).turn(turn, complete(1, "new"))
    assert state(database, "a").output.value == '"new"'


def test_a_turn_of_a_replaced_instance_delays_no_worker_that_sends_tokens(database: Database) -> None:
    remote = ProtocolClient(database)
    start(database, "work", "known")
    remote.turn(remote.take(), complete(1))
    start(database, "work", "a")
    remote.take()
    terminate(database, "a")
    start(database, "work", "a")
    remote.turn(remote.take(), complete(1, "new"))
    assert state(database, "a").output.value == '"new"'


def test_a_turn_of_an_emptied_hub_answers_for_no_later_one(restartable: Restartable) -> None:
    restartable.now.stop()
    restartable.options = DatabaseOptions(disposable=True)
    database = restartable.again()
    remote = ProtocolClient(database, tokens=False, maxConcurrentOrchestrationWorkItems=2)
    start(database, "work", "a")
    item = remote.take()
    call(database, "CreateTaskHub", pb.CreateTaskHubRequest(recreateIfExists=True))
    start(database, "work", "a")
    start(database, "work", "b")
    assert remote.take().orchestratorRequest.instanceId == "b"
    assert remote.nothing()
    with pytest.raises(Rejection, match="no longer"):
        remote.turn(item, complete(1, "old"))
    remote.turn(remote.take(), complete(1, "new"))
    assert state(database, "a").output.value == '"new"'


def test_a_lost_worker_answers_for_no_later_turn(database: Database) -> None:
    gone = ProtocolClient(database, peer="one", tokens=False)
    start(database, "work", "a")
    late = gone.take()
    gone.leave()
    raise_event(database, "a", "go")
    remote = ProtocolClient(database, peer="two", tokens=False)
    turn = remote.take()
    assert kinds(turn) == ["executionStarted", "eventRaised"]
    with pytest.raises(Rejection, match="no longer"):
        gone.turn(late, again(1, "without the event"))
    remote.turn(turn, complete(1, "with the event"))
    assert state(database, "a").output.value == '"with the event"'


def test_an_answer_through_another_connection_is_taken_while_no_worker_was_lost(database: Database) -> None:
    remote = ProtocolClient(database, peer="proxy-1", tokens=False)
    start(database, "work", "a")
    item = remote.take()
    remote.stream.peer = "proxy-2"
    response = pb.OrchestratorResponse(instanceId="a", actions=[complete(1, "ok")])
    call(database, "CompleteOrchestratorTask", response, "proxy-3")
    assert item.orchestratorRequest.instanceId == "a"
    assert state(database, "a").output.value == '"ok"'


def test_a_part_of_a_response_needs_a_token(database: Database) -> None:
    remote = ProtocolClient(database, tokens=False)
    start(database, "work", "a")
    item = remote.take()
    with pytest.raises(Rejection, match="needs a completion token"):
        remote.turn(item, activity(1, "x"), isPartial=True)
    remote.turn(item, complete(1, "ok"))
    assert state(database, "a").output.value == '"ok"'


class Connection:
    """Worker of a hub on a port, on a TCP connection of its own, without completion tokens."""

    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self._stub = TaskHubSidecarServiceStub(self._channel)
        self._stream = self._stub.GetWorkItems(pb.GetWorkItemsRequest(), timeout=TIMEOUT)

    def take(self) -> pb.OrchestratorRequest:
        return next(self._stream).orchestratorRequest

    def leave(self) -> None:
        """End the stream, as after an error; the connection stays."""
        self._stream.cancel()

    def turn(self, *actions: pb.OrchestratorAction) -> None:
        response = pb.OrchestratorResponse(instanceId="a", actions=actions)
        self._stub.CompleteOrchestratorTask(response, timeout=TIMEOUT)

    def close(self) -> None:
        self._channel.close()


def test_connections_on_a_port_are_told_apart(database: Database) -> None:
    server = Server(AioSidecarService(database), ["127.0.0.1:0"])
    server.start()
    gone = Connection(server.ports[0])
    start(database, "work", "a")
    assert gone.take().instanceId == "a"
    gone.leave()
    other = Connection(server.ports[0])
    assert other.take().instanceId == "a"
    with pytest.raises(grpc.RpcError) as refused:
        gone.turn(complete(1, "late"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    other.turn(complete(1, "fine"))
    eventually_blocking(lambda: state(database, "a").output.value == '"fine"')
    gone.close()
    other.close()
    server.stop()
