"""Accepted data can be read again: after a restart, by queries and exports, and by a worker over a socket."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.upkeep import check, export
from bridge.sqlite_engine.model.failures import MAX_LEVELS
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.protocol.server import Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from bridge.system.clock import SYSTEM
from tests.kit.protocol_client import ProtocolClient, begin
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.test_fuzz import REQUESTS, messages

pytestmark = pytest.mark.long

make_stub: Any = stubs.TaskHubSidecarServiceStub
IDS = st.sampled_from(["a", "b", "c", "é\u202e", "x" * 1024])
ENTITIES = st.sampled_from(["@c@x", "@c@y", "@C@x"])

FAILURES = st.builds(
    lambda levels, size, stack: (levels, size, stack),
    st.sampled_from([1, 2, MAX_LEVELS, 97, 400, 3000]),
    st.sampled_from([0, 10, 100_000]),
    st.sampled_from([0, 10, 100_000]),
)


def nested(levels: int, size: int, stack: int) -> bytes:
    """Serialize a failure from its innermost cause outwards: protobuf itself writes no more than 100 levels."""
    data = b""
    for level in range(levels):
        failure = pb.TaskFailureDetails(errorType=f"E{level}", errorMessage="é" * (size if level > levels - 4 else 1))
        failure.stackTrace.value = "line\n" * (stack // 5 if level > levels - 4 else 1)
        inner = b"" if level == 0 else b"\x22" + _length(len(data)) + data
        data = failure.SerializeToString() + inner
    return data


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(number: int, data: bytes) -> bytes:
    """Encode one length-delimited field of a message."""
    return _length(number << 3 | 2) + _length(len(data)) + data


class Remote:
    """Worker and client over a socket with the limits of SDKs; its answers are arbitrary bytes."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.stub = make_stub(self.channel)

    def raw(self, method: str, data: bytes) -> None:
        call_ = self.channel.unary_unary(
            f"/TaskHubSidecarService/{method}", request_serializer=None, response_deserializer=None
        )
        call_(data, timeout=TIMEOUT)

    def work(self, failure: bytes) -> None:
        """Take all work; every activity and operation fails with this failure, orchestrations end with the received
        data."""
        self.stream = self.stub.GetWorkItems(pb.GetWorkItemsRequest())
        self.thread = threading.Thread(target=self._work, args=(failure,), daemon=True)
        self.thread.start()

    def _work(self, failure: bytes) -> None:
        try:
            for item in self.stream:
                self._answer(item, failure)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                self.error = error

    error: grpc.RpcError | None = None

    def _answer(self, item: pb.WorkItem, failure: bytes) -> None:
        token = item.completionToken
        try:
            if item.HasField("activityRequest"):
                request = item.activityRequest
                answer = pb.ActivityResponse(
                    instanceId=request.orchestrationInstance.instanceId, taskId=request.taskId, completionToken=token
                )
                self.raw("CompleteActivityTask", answer.SerializeToString() + field(4, failure))
            elif item.HasField("entityRequestV2"):
                one = field(1, field(2, field(1, failure)))
                whole = pb.EntityBatchResult(completionToken=token).SerializeToString()
                self.raw("CompleteEntityTask", whole + one * len(item.entityRequestV2.operationRequests))
            elif item.HasField("orchestratorRequest"):
                status = pb.CompleteOrchestrationAction(orchestrationStatus=pb.ORCHESTRATION_STATUS_FAILED)
                action = pb.OrchestratorAction(id=99).SerializeToString()
                action += field(6, status.SerializeToString() + field(6, failure))
                answer_ = pb.OrchestratorResponse(
                    instanceId=item.orchestratorRequest.instanceId, completionToken=token
                ).SerializeToString()
                self.raw("CompleteOrchestratorTask", answer_ + field(2, action))
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED):
                raise

    def close(self) -> None:
        self.stream.cancel()
        self.thread.join(TIMEOUT)
        self.channel.close()


SIZES = st.sampled_from(["", "1", "é*1000", "x*1000000", "€*900000", "y*3100000", "y*3500000"])


def text_of(size: str) -> str:
    character, _, times = size.partition("*")
    return character * int(times or 1)


CALLS = st.lists(
    st.one_of(
        st.sampled_from(sorted(REQUESTS)).flatmap(
            lambda name: st.tuples(st.just(name), messages(REQUESTS[name].DESCRIPTOR))
        ),
        st.tuples(
            st.sampled_from(
                [
                    "StartInstance",
                    "RaiseEvent",
                    "SuspendInstance",
                    "ResumeInstance",
                    "RewindInstance",
                    "TerminateInstance",
                ]
            ),
            IDS,
            SIZES,
        ),
        st.tuples(st.just("SignalEntity"), ENTITIES, SIZES),
    ),
    min_size=1,
    max_size=8,
)
PAYLOAD = {
    "SuspendInstance": "reason",
    "ResumeInstance": "reason",
    "RewindInstance": "reason",
    "TerminateInstance": "output",
}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["activity", "child", "call", "lock", "event", "timer"]),
        st.integers(1, 5),
        IDS,
        ENTITIES,
        SIZES,
    ),
    max_size=4,
)


def action_of(kind: str, number: int, instance: str, entity: str, size: str) -> pb.OrchestratorAction:
    match kind:
        case "activity":
            return pb.OrchestratorAction(id=number, scheduleTask={"name": "act", "input": {"value": text_of(size)}})
        case "child":
            return pb.OrchestratorAction(id=number, createSubOrchestration={"name": "work", "instanceId": instance})
        case "call":
            called = {"requestId": f"r{number}", "operation": "o", "targetInstanceId": {"value": entity}}
            return pb.OrchestratorAction(id=number, sendEntityMessage={"entityOperationCalled": called})
        case "lock":
            lock = {"criticalSectionId": f"s{number}", "lockSet": [entity, "@c@z"]}
            return pb.OrchestratorAction(id=number, sendEntityMessage={"entityLockRequested": lock})
        case "event":
            sent = {"instance": {"instanceId": instance}, "name": "e", "data": {"value": text_of(size)}}
            return pb.OrchestratorAction(id=number, sendEvent=sent)
    return pb.OrchestratorAction(id=number, createTimer={"fireAt": {"seconds": 1}})


@settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(calls=CALLS, actions=st.lists(ACTIONS, max_size=4), more=CALLS, status=SIZES, failure=FAILURES)
def test_what_is_accepted_can_be_read_and_delivered(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[tuple[Any, ...]],
    actions: list[list[Any]],
    more: list[tuple[Any, ...]],
    status: str,
    failure: tuple[int, int, int],
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "hub.db"
    database = Database(path)
    database.start()
    peer = ProtocolClient(database)
    tried(database, calls)
    for each in actions:
        peer.nothing()
        if peer.idle():
            break
        item = peer.take()
        with suppress(Rejection):  # withdrawn meanwhile
            if item.HasField("orchestratorRequest"):
                peer.turn(item, *(action_of(*one) for one in each), customStatus={"value": text_of(status)})
            elif item.HasField("activityRequest"):
                peer.result(item, text_of(status))
    tried(database, more)
    peer.leave()
    assert database.writer.given_up == {}
    assert check(path) == []
    database.stop()
    read(path)
    database = Database(path)
    database.start()
    server = Server(AioSidecarService(database), ["127.0.0.1:0"])
    server.start()
    remote = Remote(f"127.0.0.1:{server.ports[0]}")
    try:
        remote.work(nested(*failure))
        listed = list(pages(remote))
        for each in listed:
            for _ in remote.stub.StreamInstanceHistory(
                pb.StreamInstanceHistoryRequest(instanceId=each.instanceId), timeout=TIMEOUT
            ):
                pass
        for each in listed:
            if each.orchestrationStatus in (pb.ORCHESTRATION_STATUS_PENDING, pb.ORCHESTRATION_STATUS_RUNNING):
                if (
                    each.HasField("scheduledStartTimestamp")
                    and each.scheduledStartTimestamp.seconds * 1_000_000 > SYSTEM.wall()
                ):
                    continue
                try:
                    remote.stub.RaiseEvent(pb.RaiseEventRequest(instanceId=each.instanceId, name="go"), timeout=TIMEOUT)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                        raise
                ended = remote.stub.WaitForInstanceCompletion(
                    pb.GetInstanceRequest(instanceId=each.instanceId), timeout=TIMEOUT
                )
                assert ended.orchestrationState.failureDetails.errorType, ended
        assert remote.error is None, remote.error
        assert database.writer.given_up == {}
        assert check(path) == []
    finally:
        remote.close()
        server.stop()
        database.stop()
    read(path)


def tried(database: Database, calls: list[tuple[Any, ...]]) -> None:
    for name, *given_ in calls:
        if len(given_) == 1:
            fields = given_[0]
        else:
            fields = {"instanceId": given_[0], PAYLOAD.get(name, "input"): {"value": text_of(given_[1])}}
            if name in ("StartInstance", "RaiseEvent", "SignalEntity"):
                fields["name"] = "work"
        try:
            request = REQUESTS[name](**fields)
        except (ValueError, TypeError):
            continue
        # An event raised during a turn is answered at its end: the test does not wait for answers.
        with suppress(Rejection):
            begin(database, name, request)


def pages(remote: Remote) -> Iterator[pb.OrchestrationState]:
    token = None
    while True:
        query = pb.InstanceQuery(continuationToken=token, fetchInputsAndOutputs=False)
        page = remote.stub.QueryInstances(pb.QueryInstancesRequest(query=query), timeout=TIMEOUT)
        yield from page.orchestrationState
        if not page.HasField("continuationToken"):
            return
        token = page.continuationToken


def read(path: Path) -> None:
    out = io.StringIO()
    export(path, out)
    for line in out.getvalue().splitlines():
        json.loads(line)
