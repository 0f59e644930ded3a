"""Accepted data can be delivered: to clients, to workers over the wire, and from an older file."""

from __future__ import annotations

import io
import json
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.worker import TaskHubGrpcWorker

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.upkeep import check, export
from bridge.sqlite_engine.model.failures import MARK, MAX_CAUSE_MESSAGE, MAX_LEVELS, MAX_MESSAGE, MAX_STACK, bound
from bridge.sqlite_engine.protocol.server import Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from tests.kit.protocol_client import ProtocolClient, activity, again, begin, call, child, kinds, start, state, text
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_entity import calling

pytestmark = pytest.mark.long


def nested(levels: int, message: str = "no", **fields: Any) -> pb.TaskFailureDetails:
    """Create a failure with this number of nested causes."""
    failure = pb.TaskFailureDetails(errorType=f"E{levels}", errorMessage=message, **fields)
    for level in range(levels - 1, 0, -1):
        failure = pb.TaskFailureDetails(
            errorType=f"E{level}", errorMessage=message, innerFailure=failure, isNonRetriable=True, **fields
        )
    return failure


def levels(failure: pb.TaskFailureDetails) -> list[pb.TaskFailureDetails]:
    found = [failure]
    while found[-1].HasField("innerFailure"):
        found.append(found[-1].innerFailure)
    return found


def failed(details: pb.TaskFailureDetails) -> pb.OrchestratorAction:
    return helpers.new_complete_orchestration_action(9, pb.ORCHESTRATION_STATUS_FAILED, None, details)


@pytest.fixture
def server(restartable: Restartable) -> Iterator[Server]:
    found = Server(AioSidecarService(restartable.now), ["127.0.0.1:0"])
    found.start()
    yield found
    found.stop()


def delivered(restartable: Restartable, instance_id: str) -> None:
    """Assert that every request about an instance can read it, before and after a restart."""
    for again_ in (False, True):
        database = restartable.again() if again_ else restartable.now
        request = pb.GetInstanceRequest(instanceId=instance_id, getInputsAndOutputs=True)
        sent = [call(database, "GetInstance", request), call(database, "QueryInstances", pb.QueryInstancesRequest())]
        sent += call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId=instance_id))
        for message in sent:
            assert type(message).FromString(message.SerializeToString()) == message
            assert message.ByteSize() <= 4 * 1024 * 1024
        assert database.writer.given_up == {}
    assert check(restartable.path) == []
    export(restartable.path, io.StringIO())


def by_activity(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), failure=failure)
    item = remote.take()
    assert kinds(item) == ["taskFailed"]
    remote.turn(item, failed(item.orchestratorRequest.newEvents[1].taskFailed.failureDetails))


def by_orchestrator(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    remote.turn(remote.take(), failed(failure))


def by_child(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    remote.turn(remote.take(), child(1, "work", "kid"))
    remote.turn(remote.take(), failed(failure))
    item = remote.take()
    assert kinds(item) == ["subOrchestrationInstanceFailed"]
    remote.turn(item, failed(failure))


def by_entity(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    remote.turn(remote.take(), calling(1, "@c@x", "go", "r"))
    remote.batch(remote.take(), results=[pb.OperationResult(failure={"failureDetails": failure})])
    item = remote.take()
    assert kinds(item) == ["entityOperationFailed"]
    remote.turn(item, failed(failure))


def by_carried_event(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    carried = pb.HistoryEvent(eventId=-1, taskFailed=pb.TaskFailedEvent(taskScheduledId=1, failureDetails=failure))
    remote.turn(remote.take(), again(1, None, carried))
    remote.turn(remote.take(), failed(failure))


def by_rewritten_history(remote: ProtocolClient, failure: pb.TaskFailureDetails) -> None:
    item = remote.take()
    history = [*item.orchestratorRequest.newEvents]
    history.append(
        pb.HistoryEvent(eventId=-1, taskFailed=pb.TaskFailedEvent(taskScheduledId=1, failureDetails=failure))
    )
    remote.turn(item, pb.OrchestratorAction(id=1, rewindOrchestration={"newHistory": history}))
    remote.turn(remote.take(), failed(failure))


WAYS = [by_activity, by_orchestrator, by_child, by_entity, by_carried_event, by_rewritten_history]


@pytest.mark.parametrize(
    ("way", "depth"), [*[(way, depth) for way in WAYS for depth in (31, 33, 94, 96)], (by_activity, 98)]
)
def test_a_failure_of_any_depth_is_delivered_however_it_comes(
    restartable: Restartable, way: Callable[[ProtocolClient, pb.TaskFailureDetails], None], depth: int
) -> None:
    start(restartable.now, "work", "i")
    way(ProtocolClient(restartable.now), nested(depth))
    received = state(restartable.now, "i").failureDetails
    found = levels(received)
    assert [each.errorType for each in found] == [f"E{n + 1}" for n in range(min(depth, MAX_LEVELS))]
    assert found[-1].properties[MARK].bool_value == (depth > MAX_LEVELS)
    delivered(restartable, "i")


def test_the_ends_of_long_texts_are_kept() -> None:
    stack = "".join(f"  File {number}\n" for number in range(10_000))
    failure = nested(5, "begin" + "x" * 200_000 + "end", stackTrace=text(stack))
    failure.errorType = "T" * 5000
    bound(failure)
    for number, each in enumerate(levels(failure)):
        longest, longest_stack = (MAX_MESSAGE, MAX_STACK) if number < 2 else (MAX_CAUSE_MESSAGE, MAX_CAUSE_MESSAGE)
        assert len(each.errorMessage) <= longest
        assert each.errorMessage.startswith("begin")
        assert each.errorMessage.endswith("end")
        lines = each.stackTrace.value.splitlines()
        assert len(each.stackTrace.value) <= longest_stack
        assert (lines[0], lines[-1]) == ("  File 0", "  File 9999")
        assert all(line.startswith("  File ") or "truncated" in line for line in lines)
        assert each.properties[MARK].bool_value
    once = failure.SerializeToString(deterministic=True)
    assert bound(failure).SerializeToString(deterministic=True) == once


def test_the_outer_two_levels_are_left_alone() -> None:
    failure = nested(2, "m" * MAX_MESSAGE, stackTrace=text("s" * MAX_STACK))
    before = failure.SerializeToString(deterministic=True)
    assert bound(failure).SerializeToString(deterministic=True) == before
    long = pb.TaskFailureDetails(errorType="E", errorMessage="m" * 1_000_000)
    step = bound(pb.TaskFailureDetails.FromString(long.SerializeToString()))
    whole = pb.TaskFailureDetails(
        errorType="TaskFailedError", errorMessage=f"Activity task #1 failed: {step.errorMessage}", innerFailure=step
    )
    bound(whole, own=True)
    assert whole.errorMessage.endswith(f" task #1 failed: {step.errorMessage}")
    assert whole.innerFailure.errorMessage == step.errorMessage


def test_properties_are_kept_while_they_are_small_and_flat() -> None:
    failure = pb.TaskFailureDetails(errorType="E", errorMessage="m")
    failure.properties["code"].number_value = 7
    failure.properties["list"].list_value.extend([1, [2, {"a": [3]}]])
    kept = failure.SerializeToString(deterministic=True)
    assert bound(failure).SerializeToString(deterministic=True) == kept
    value = failure.properties["deep"]
    for _ in range(30):
        value = value.list_value.values.add()
    bound(failure)
    assert list(failure.properties) == [MARK]
    failure.properties["long"].string_value = "x" * 100_000
    assert list(bound(failure).properties) == [MARK]


def test_a_long_failure_is_still_recognised_by_a_rewind(restartable: Restartable) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "i")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage="m" * 500_000))
    item = remote.take()
    step = item.orchestratorRequest.newEvents[1].taskFailed.failureDetails
    message = f"Activity task #1 failed: {step.errorMessage}"
    whole = pb.TaskFailureDetails(errorType="durabletask.task.TaskFailedError", errorMessage=message, innerFailure=step)
    remote.turn(item, failed(whole))
    delivered(restartable, "i")
    remote = ProtocolClient(restartable.now)
    call(restartable.now, "RewindInstance", pb.RewindInstanceRequest(instanceId="i"))
    found = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    assert found["activityRequest"].activityRequest.name == "x"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def raw(depth: int) -> bytes:
    """Encode failure details in the wire format, deeper than any library writes them."""
    last = pb.TaskFailureDetails(errorType="last", errorMessage="m").SerializeToString()
    own = pb.TaskFailureDetails(errorType="E", errorMessage="m").SerializeToString()
    parts, size = [last], len(last)
    for _ in range(depth - 1):
        head = own + b"\x22" + varint(size)
        parts.append(head)
        size += len(head)
    return b"".join(reversed(parts))


def framed(kind: Any, name: str, content: bytes) -> bytes:
    """Encode a field of a message in the wire format."""
    return varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("depth", [97, 99, 100, 2000, 100_000])
def test_an_answer_nested_deeper_than_protobuf_reads_is_taken_over_the_wire(
    restartable: Restartable, server: Server, depth: int
) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "i")
    remote.turn(remote.take(), activity(1, "x"), calling(2, "@c@x", "go", "r"))
    items = {item.WhichOneof("request"): item for item in (remote.take(), remote.take())}
    deep = raw(depth)
    failure = framed(pb.ActivityResponse, "failureDetails", deep)
    result = framed(pb.OperationResult, "failure", framed(pb.OperationResultFailure, "failureDetails", deep))
    own = framed(
        pb.OrchestratorAction,
        "completeOrchestration",
        pb.CompleteOrchestrationAction(orchestrationStatus=pb.ORCHESTRATION_STATUS_FAILED).SerializeToString()
        + framed(pb.CompleteOrchestrationAction, "failureDetails", deep),
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:

        def answer(method: str, message: Any, more: bytes) -> None:
            send = channel.unary_unary(f"/TaskHubSidecarService/{method}")
            send(message.SerializeToString() + more, timeout=TIMEOUT)

        token = items["activityRequest"].completionToken
        answer("CompleteActivityTask", pb.ActivityResponse(taskId=1, completionToken=token), failure)
        turn = remote.take()
        answer(
            "CompleteEntityTask",
            pb.EntityBatchResult(completionToken=items["entityRequestV2"].completionToken),
            framed(pb.EntityBatchResult, "results", result),
        )
        remote.turn(turn)
        news = [*turn.orchestratorRequest.newEvents, *(last := remote.take()).orchestratorRequest.newEvents]
        answer(
            "CompleteOrchestratorTask",
            pb.OrchestratorResponse(instanceId="i", completionToken=last.completionToken),
            framed(pb.OrchestratorResponse, "actions", own),
        )
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/TaskHubSidecarService/CompleteActivityTask")(b"\xff\xff\xff", timeout=TIMEOUT)
    found = [event.taskFailed.failureDetails for event in news if event.HasField("taskFailed")]
    found += [event.entityOperationFailed.failureDetails for event in news if event.HasField("entityOperationFailed")]
    found.append(state(restartable.now, "i").failureDetails)
    assert len(found) == 3
    for each in found:
        assert len(levels(each)) == MAX_LEVELS
        assert levels(each)[-1].properties[MARK].bool_value
    server.stop()
    delivered(restartable, "i")


@pytest.mark.parametrize("depth", [96, 97, 98, 150])
def test_an_older_file_with_deeper_failures_is_read(restartable: Restartable, depth: int) -> None:
    remote = ProtocolClient(restartable.now)
    start(restartable.now, "work", "ended")
    remote.turn(remote.take(), failed(nested(2)))
    start(restartable.now, "work", "waits")
    remote.turn(remote.take(), activity(1, "x"))
    remote.result(remote.take(), failure=nested(2))
    remote.take()
    restartable.now.stop()
    marker = nested(2).SerializeToString()
    deep = raw(depth)

    def deepened(blob: bytes) -> bytes:
        """Return the stored message with the deep failure in place of the shallow one."""
        return _replaced(blob, marker, deep)

    with sqlite3.connect(restartable.path) as file:
        assert file.execute("UPDATE instances SET failure=? WHERE id='ended'", (deep,)).rowcount == 1
        for table, column in (("history", "events"), ("inbox", "event")):
            for row, blob in file.execute(f"SELECT key, {column} FROM {table}").fetchall():
                file.execute(f"UPDATE {table} SET {column}=? WHERE key=? AND {column}=?", (deepened(blob), row, blob))
    file.close()
    restartable.now = restartable._started()
    delivered(restartable, "ended")
    assert len(levels(state(restartable.now, "ended").failureDetails)) == MAX_LEVELS
    item = ProtocolClient(restartable.now).take()
    assert len(levels(item.orchestratorRequest.newEvents[1].taskFailed.failureDetails)) == MAX_LEVELS


def _replaced(blob: bytes, old: bytes, new: bytes) -> bytes:
    """Return the wire format with one nested message replaced and all enclosing sizes corrected."""
    if old not in blob:
        return blob
    out, at = b"", 0

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = blob[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    while at < len(blob):
        begin = at
        tag, at = number(at)
        if tag & 7 == 0:
            _, at = number(at)
            out += blob[begin:at]
            continue
        size, at = number(at)
        content = blob[at : at + size]
        at += size
        content = new if content == old else _replaced(content, old, new)
        out += varint(tag) + varint(len(content)) + content
    return out


ODD = ["", "a", "\n", "\0", "\x1b[31m", "é", "\u202e", "\U0010ffff", "truncated", " task #1 failed: "]


def some_text(source: random.Random) -> str:
    return "".join(source.choices(ODD, k=source.choice([0, 1, 5, 20]))) * source.choice([1, 1, 1, 3000])


def some_failure(source: random.Random) -> pb.TaskFailureDetails:
    failure = nested(source.choice([1, 2, 3, 20, 32, 33, 60]), some_text(source))
    for each in [*source.sample(levels(failure), k=1), failure]:
        each.errorType = some_text(source)
        each.errorMessage = some_text(source)
        each.stackTrace.value = "\n".join(some_text(source) for _ in range(source.choice([0, 3, 50])))
        value = each.properties[some_text(source)]
        for _ in range(source.choice([0, 1, 5, 12])):
            value = value.list_value.values.add()
        value.string_value = some_text(source)
    return failure


@pytest.mark.parametrize("seed", range(6))
def test_whatever_was_accepted_is_delivered(restartable: Restartable, seed: int) -> None:
    source = random.Random(seed)
    remote = ProtocolClient(restartable.now)
    ids = [f"i{number}" for number in range(8)]
    for instance_id in ids:
        start(
            restartable.now,
            "work",
            instance_id,
            some_text(source),
            tags={some_text(source)[:99]: some_text(source)[:99]},
        )
        turn = remote.take()
        asked = source.choice([activity(1, "step"), child(1, "kid", f"{instance_id}:kid")])
        remote.turn(turn, asked, customStatus=text(json.dumps(some_text(source))))
        item = remote.take()
        failure = some_failure(source)
        if item.HasField("activityRequest"):
            remote.result(item, failure=failure)
        else:
            remote.turn(item, failed(failure))
        remote.take()
        name = some_text(source)[:1000] or "e"
        begin(restartable.now, "RaiseEvent", pb.RaiseEventRequest(instanceId=instance_id, name=name, input=text("x")))
        call(restartable.now, "SuspendInstance", pb.SuspendRequest(instanceId=instance_id, reason=text("é\0")))
        call(
            restartable.now, "ResumeInstance", pb.ResumeRequest(instanceId=instance_id, reason=text(some_text(source)))
        )
    remote.leave()
    for instance_id in ids:
        delivered(restartable, instance_id)
    _finish_with_sdk(restartable.now, ids)
    for instance_id in ids:
        delivered(restartable, instance_id)


def _finish_with_sdk(database: Database, ids: list[str]) -> None:
    """Finish the started instances with a worker and a client of the SDK, as from another process."""

    def work(ctx: task.OrchestrationContext, _: Any) -> Any:
        asked = steps[ctx.instance_id]
        try:
            yield (
                ctx.call_activity("step")
                if asked
                else ctx.call_sub_orchestrator("kid", instance_id=f"{ctx.instance_id}:kid")
            )
        except task.TaskFailedError as error:
            return [error.details.error_type, error.details.message]

    steps = {
        each: any(
            event.HasField("taskScheduled")
            for chunk in call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId=each))
            for event in chunk.events
        )
        for each in ids
    }
    logger = logging.getLogger("tests.delivery")
    logger.setLevel(logging.CRITICAL)
    server = Server(AioSidecarService(database), ["127.0.0.1:0"])
    server.start()
    options: dict[str, Any] = {"host_address": f"127.0.0.1:{server.ports[0]}", "logger": logger}
    try:
        with TaskHubGrpcWorker(**options) as worker, TaskHubGrpcClient(**options) as client:
            worker.add_orchestrator(work)
            worker.start()
            for instance_id in ids:
                done = client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
                assert done is not None
                assert done.runtime_status is OrchestrationStatus.COMPLETED
                client.get_orchestration_history(instance_id)
            assert len(client.get_all_orchestration_states()) >= len(ids)
    finally:
        server.stop()
