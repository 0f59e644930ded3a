"""Operations of a server's calls reach the writer in groups, and no single caller waits for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.grouping import (
    CALLS_PACE,
    LARGEST,
    MANY,
    MOST_SKIPPED,
    RESULTS_PACE,
    OperationGroup,
)
from bridge.sqlite_engine.hub.working_set import OperationKind, WriterOperation
from bridge.sqlite_engine.model.reply import LoopReply, ThreadReply
from bridge.sqlite_engine.protocol.server import Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from tests.kit.virtual_time import in_virtual_time
from tests.kit.waiting import eventually


def nothing() -> None: ...


class Recorder:
    """Groups that reach the writer, with their times, in virtual time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.group = OperationGroup(self.loop, self._submit)
        self.sizes: list[int] = []
        self.times: list[float] = []
        self.answered: Callable[[WriterOperation], None] = lambda _: None

    def _submit(self, operations: list[WriterOperation]) -> None:
        self.sizes.append(len(operations))
        self.times.append(self.loop.time())
        for each in operations:
            self.answered(each)

    def call(self) -> LoopReply:
        reply = LoopReply(self.loop)
        self.group.add(WriterOperation(OperationKind.CALL, nothing, reply=reply))
        return reply

    def result(self) -> None:
        self.group.add(WriterOperation(OperationKind.TURN, nothing))


@in_virtual_time
async def test_operations_of_one_moment_are_one_group_in_their_order() -> None:
    it = Recorder()
    order: list[WriterOperation] = []
    it.answered = order.append
    sent = [WriterOperation(OperationKind.CALL, nothing) for _ in range(3)]

    async def late(operation: WriterOperation) -> None:
        await asyncio.sleep(0)
        it.group.add(operation)

    it.group.add(sent[0])
    await asyncio.gather(late(sent[1]), late(sent[2]))
    await asyncio.sleep(CALLS_PACE / 2)
    assert it.sizes == [3]
    assert order == sent


@in_virtual_time
async def test_a_single_caller_waits_for_nobody() -> None:
    """Calls in sequence, each as soon as the last one is answered, wait rarely however fast they are."""
    it = Recorder()

    def answer(operation: WriterOperation) -> None:
        assert operation.reply is not None
        it.loop.call_later(0.0005, operation.reply.settle, None)

    it.answered = answer
    calls = 2000
    for _ in range(calls):
        await it.call().future
    assert it.sizes == [1] * calls
    waited = it.times[-1] - calls * 0.0005
    assert waited < CALLS_PACE * (calls / MOST_SKIPPED + MOST_SKIPPED.bit_length() + 1)


@in_virtual_time
async def test_results_wait_for_each_other_while_many_arrive() -> None:
    it = Recorder()
    results = 1000
    for _ in range(results):
        it.result()
        await asyncio.sleep(RESULTS_PACE / 20)
    await asyncio.sleep(RESULTS_PACE)
    assert sum(it.sizes) == results
    assert results / len(it.sizes) > 15
    assert max(after - before for before, after in zip(it.times, it.times[1:], strict=False)) < 1.1 * RESULTS_PACE


@in_virtual_time
async def test_a_caller_among_results_waits_for_a_shorter_time() -> None:
    it = Recorder()
    waits = []
    for number in range(400):
        it.result()
        await asyncio.sleep(RESULTS_PACE / 20)
        if number % 40 == 39:
            began, before = it.loop.time(), len(it.sizes)
            it.call()
            while len(it.sizes) == before:
                await asyncio.sleep(CALLS_PACE / 10)
            waits.append(it.loop.time() - began)
    assert max(waits) <= CALLS_PACE * 1.2


@in_virtual_time
async def test_rare_results_do_not_wait() -> None:
    it = Recorder()
    for _ in range(50):
        it.result()
        await asyncio.sleep(RESULTS_PACE / (MANY - 2))
    assert it.sizes == [1] * 50


@in_virtual_time
async def test_a_large_group_does_not_wait() -> None:
    it = Recorder()
    for _ in range(3 * LARGEST):
        it.result()
        if len(it.sizes) % 2:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert it.loop.time() == 0
    assert sum(it.sizes) == 3 * LARGEST


async def test_a_stopping_database_keeps_what_waits(tmp_path: Path) -> None:
    database = Database(tmp_path / "hub.db")
    database.start()
    group = database.group(asyncio.get_running_loop())
    reply = ThreadReply()
    request = pb.CreateInstanceRequest(instanceId="i", name="work")
    database.call("StartInstance", request, reply, put=group.add)
    await asyncio.to_thread(database.stop)
    assert reply.future.result(0).instanceId == "i"
    late = ThreadReply()
    group.add(WriterOperation(OperationKind.CALL, nothing, reply=late))
    await eventually(late.future.done)
    error = late.future.exception(0)
    assert getattr(error, "code", None) is grpc.StatusCode.UNAVAILABLE


class RecordedGroups(Database):
    """Database that counts the groups of its servers and the operations in them."""

    groups = operations = 0

    def group(self, loop: asyncio.AbstractEventLoop) -> OperationGroup:
        found = self._groups.get(loop)
        if found is None:
            found = self._groups[loop] = OperationGroup(loop, self._counted)
        return found

    def _counted(self, operations: list[WriterOperation]) -> None:
        self.groups += 1
        self.operations += len(operations)
        self.writer.put_all(operations)


async def test_calls_of_a_server_reach_the_writer_in_groups(tmp_path: Path) -> None:
    """No call goes past the groups, and no group takes more than one commit."""
    database = RecordedGroups(tmp_path / "hub.db")
    database.start()
    server = Server(AioSidecarService(database), [f"unix:{tmp_path}/s"])
    server.start()
    calls, callers = 1000, 200
    left = iter(range(calls))
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            stub = TaskHubSidecarServiceStub(channel)

            async def caller() -> None:
                for number in left:
                    await stub.StartInstance(pb.CreateInstanceRequest(instanceId=f"i-{number}", name="work"))

            before = database.writer.commits
            await asyncio.gather(*(caller() for _ in range(callers)))
            commits = database.writer.commits - before
    finally:
        server.stop()
        await asyncio.to_thread(database.stop)
    assert database.operations == calls
    assert commits <= database.groups < calls
