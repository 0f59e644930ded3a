"""The SDK's programming model on the engine: with the direct worker, and with the unchanged worker over a channel."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from durabletask import task
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationStatus, TaskHubGrpcClient
from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.payload import LargePayloadStorageOptions, PayloadStore
from durabletask.worker import TaskHubGrpcWorker, VersioningOptions, VersionMatchStrategy, WorkItemFilters

from bridge.engines.embedded.inprocess import AioChannel, InProcessChannel
from bridge.engines.embedded.worker import DirectWorker
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.protocol.service import AioSidecarService, SidecarService
from tests.kit.waiting import TIMEOUT

Steps = Generator[task.Task[Any], Any, Any]
MakeWorker = Callable[..., TaskHubGrpcWorker]


def quiet() -> logging.Logger:
    logger = logging.getLogger("tests.sqlite_engine")
    logger.setLevel(logging.CRITICAL)
    return logger


@pytest.fixture(params=["direct", "channel"])
def make_worker(request: pytest.FixtureRequest, database: Database) -> Iterator[MakeWorker]:
    made: list[TaskHubGrpcWorker] = []

    def make(**options: Any) -> TaskHubGrpcWorker:
        if request.param == "direct":
            worker: TaskHubGrpcWorker = DirectWorker(database, logger=quiet(), **options)
        else:
            worker = TaskHubGrpcWorker(channel=InProcessChannel(SidecarService(database)), logger=quiet(), **options)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.stop()


@pytest.fixture
def client(database: Database) -> TaskHubGrpcClient:
    return TaskHubGrpcClient(channel=InProcessChannel(SidecarService(database)), logger=quiet())


def outcome(client: TaskHubGrpcClient, instance_id: str) -> str | None:
    found = client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
    assert found is not None
    assert found.runtime_status == OrchestrationStatus.COMPLETED, found.failure_details
    return found.serialized_output


def test_activities_are_retried_children_called_and_timers_raced(
    make_worker: MakeWorker, client: TaskHubGrpcClient
) -> None:
    attempts: list[int] = []

    def flaky(ctx: task.ActivityContext, value: int) -> int:
        attempts.append(value)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return value * 2

    def child(ctx: task.OrchestrationContext, value: int) -> Steps:
        policy = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=10), max_number_of_attempts=5)
        return (yield ctx.call_activity(flaky, input=value, retry_policy=policy))

    def parent(ctx: task.OrchestrationContext, value: int) -> Steps:
        doubled = yield ctx.call_sub_orchestrator(child, input=value)
        quick = ctx.create_timer(timedelta(milliseconds=10))
        winner = yield task.when_any([ctx.wait_for_external_event("never"), quick])
        ctx.set_custom_status("raced")
        return [doubled, winner is quick]

    worker = make_worker()
    worker.add_orchestrator(child)
    worker.add_orchestrator(parent)
    worker.add_activity(flaky)
    worker.start()
    assert outcome(client, client.schedule_new_orchestration(parent, input=21)) == "[42, true]"
    assert attempts == [21, 21, 21]


def test_events_before_the_wait_and_generations(make_worker: MakeWorker, client: TaskHubGrpcClient) -> None:
    def collect(ctx: task.OrchestrationContext, seen: list[int]) -> Steps:
        number = yield ctx.wait_for_external_event("number")
        if len(seen) == 4:
            return [*seen, number]
        ctx.continue_as_new([*seen, number], save_events=True)
        return None

    worker = make_worker()
    worker.add_orchestrator(collect)
    instance_id = client.schedule_new_orchestration(collect, input=[])
    for number in range(5):
        client.raise_orchestration_event(instance_id, "number", data=number)
    worker.start()
    assert outcome(client, instance_id) == "[0, 1, 2, 3, 4]"


def test_new_uuids_never_repeat_across_generations(make_worker: MakeWorker, client: TaskHubGrpcClient) -> None:
    def ids(ctx: task.OrchestrationContext, seen: list[str]) -> Any:
        seen = [*seen, ctx.new_uuid(), ctx.new_uuid()]
        if len(seen) < 40:
            ctx.continue_as_new(seen)
            return None
        return len(set(seen))

    worker = make_worker()
    worker.add_orchestrator(ids)
    worker.start()
    assert outcome(client, client.schedule_new_orchestration(ids, input=[])) == "40"


def test_entities_locks_and_calls_from_many_orchestrations(make_worker: MakeWorker, client: TaskHubGrpcClient) -> None:
    class Account(DurableEntity):
        def add(self, amount: int) -> int:
            total = self.get_state(int, 0) + amount
            self.set_state(total)
            return int(total)

    def move(ctx: task.OrchestrationContext, amount: int) -> Steps:
        one, two = EntityInstanceId("Account", "one"), EntityInstanceId("Account", "two")
        with (yield ctx.lock_entities([one, two])):
            before = yield ctx.call_entity(one, "add", input=-amount)
            after = yield ctx.call_entity(two, "add", input=amount)
        return before + after

    worker = make_worker()
    worker.add_orchestrator(move)
    worker.add_entity(Account)
    worker.start()
    ids = [client.schedule_new_orchestration(move, input=number) for number in range(10)]
    assert [outcome(client, each) for each in ids] == ["0"] * 10
    found = client.get_entity(EntityInstanceId("Account", "two"))
    assert found is not None
    assert found.get_state(int) == sum(range(10))


def test_a_worker_takes_versions_it_knows_and_gives_others_back(
    make_worker: MakeWorker, client: TaskHubGrpcClient
) -> None:
    def versioned(ctx: task.OrchestrationContext, _: Any) -> str | None:
        return ctx.version

    worker = make_worker()
    worker.add_orchestrator(versioned)
    worker.use_versioning(VersioningOptions(version="1.0.0", match_strategy=VersionMatchStrategy.STRICT))
    worker.start()
    new = client.schedule_new_orchestration(versioned, version="2.0.0")
    old = client.schedule_new_orchestration(versioned, version="1.0.0")
    assert outcome(client, old) == '"1.0.0"'
    found = client.get_orchestration_state(new)
    assert found is not None
    assert found.runtime_status in (OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING)


class Shelf(PayloadStore):
    """Store of large payloads in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    @property
    def options(self) -> Any:
        return LargePayloadStorageOptions(threshold_bytes=100, max_stored_payload_bytes=10_000_000)

    def upload(self, data: bytes, *, instance_id: str | None = None) -> str:
        token = f"shelf:{len(self.kept)}"
        self.kept[token] = data
        return token

    async def upload_async(self, data: bytes, *, instance_id: str | None = None) -> str:
        return self.upload(data)

    def download(self, token: str) -> bytes:
        return self.kept[token]

    async def download_async(self, token: str) -> bytes:
        return self.kept[token]

    def is_known_token(self, value: str) -> bool:
        return value in self.kept


def test_large_payloads_stay_outside(make_worker: MakeWorker, database: Database) -> None:
    shelf = Shelf()

    def echo(ctx: task.ActivityContext, value: str) -> str:
        return value

    def twice(ctx: task.OrchestrationContext, value: str) -> Steps:
        first = yield ctx.call_activity(echo, input=value)
        second = yield ctx.call_activity(echo, input=value)
        return first + second

    worker = make_worker(payload_store=shelf)
    worker.add_orchestrator(twice)
    worker.add_activity(echo)
    worker.start()
    client = TaskHubGrpcClient(channel=InProcessChannel(SidecarService(database)), logger=quiet(), payload_store=shelf)
    instance_id = client.schedule_new_orchestration(twice, input="x" * 10_000)
    assert outcome(client, instance_id) == '"' + "x" * 20_000 + '"'
    (size,) = database.hub.store.connection.execute("SELECT sum(length(events)) FROM history").fetchone()
    assert size < 5000
    assert len(client.get_orchestration_history(instance_id)) > 8


def test_a_blocked_activity_does_not_stop_turns_and_its_worker_stops_when_it_is_done(
    database: Database, client: TaskHubGrpcClient
) -> None:
    held = threading.Event()
    begun = threading.Event()

    def block(ctx: task.ActivityContext, _: Any) -> str:
        begun.set()
        held.wait(30)
        return "released"

    def blocked(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield ctx.call_activity(block))

    def free(ctx: task.OrchestrationContext, _: Any) -> str:
        return "free"

    worker = DirectWorker(database, logger=quiet(), activity_threads=1)
    worker.add_orchestrator(blocked)
    worker.add_orchestrator(free)
    worker.add_activity(block)
    worker.start()
    slow = [client.schedule_new_orchestration(blocked) for _ in range(3)]
    begun.wait(30)
    assert outcome(client, client.schedule_new_orchestration(free)) == '"free"'
    held.set()
    assert [outcome(client, each) for each in slow] == ['"released"'] * 3
    worker.stop()
    worker.stop()


def test_a_stopped_worker_gives_back_what_it_had_not_begun(database: Database, client: TaskHubGrpcClient) -> None:
    begun, held = threading.Event(), threading.Event()

    def block(ctx: task.ActivityContext, _: Any) -> str:
        begun.set()
        held.wait(30)
        return "done"

    def many(ctx: task.OrchestrationContext, _: Any) -> Steps:
        return (yield task.when_all([ctx.call_activity(block) for _ in range(4)]))

    def worker() -> DirectWorker:
        made = DirectWorker(database, logger=quiet(), activity_threads=1)
        made.add_orchestrator(many)
        made.add_activity(block)
        made.start()
        return made

    first = worker()
    instance_id = client.schedule_new_orchestration(many)
    begun.wait(30)
    threading.Timer(0.1, held.set).start()
    first.stop()
    second = worker()
    assert outcome(client, instance_id) == '["done", "done", "done", "done"]'
    second.stop()
    second.start()
    with pytest.raises(RuntimeError, match="already running"):
        second.start()
    second.stop()


def test_functions_as_entities_see_their_context(make_worker: MakeWorker, client: TaskHubGrpcClient) -> None:
    def counter(ctx: EntityContext, amount: int) -> None:
        ctx.set_state(ctx.get_state(int, 0) + amount)
        if ctx.get_state(int, 0) == 2:
            ctx.schedule_new_orchestration("received", f"at {ctx.get_state(int)}", instance_id="noted")

    def received(ctx: task.OrchestrationContext, text: str) -> str:
        return text

    worker = make_worker()
    worker.add_entity(counter)
    worker.add_orchestrator(received)
    worker.start()
    for _ in range(2):
        client.signal_entity(EntityInstanceId("counter", "x"), "add", input=1)
    assert outcome(client, "noted") == '"at 2"'


def test_the_sdk_still_has_what_the_direct_worker_uses() -> None:
    for name in ("_execute_orchestrator", "_execute_activity", "_execute_entity_batch"):
        parameters = list(inspect.signature(getattr(TaskHubGrpcWorker, name)).parameters)
        assert parameters == ["self", "req", "stub", "completionToken"], name
    worker = TaskHubGrpcWorker(logger=quiet())
    for name in (
        "_is_running",
        "_auto_generate_work_item_filters",
        "_work_item_filters",
        "_payload_store",
        "_registry",
    ):
        assert hasattr(worker, name), name
    assert worker._concurrency_options.maximum_concurrent_entity_work_items > 0
    assert WorkItemFilters._from_registry(worker._registry)._to_grpc() is not None


async def test_the_asynchronous_client_in_the_same_process(database: Database) -> None:
    def work(ctx: task.OrchestrationContext, value: int) -> Steps:
        return (yield ctx.wait_for_external_event("go"))

    worker = DirectWorker(database, logger=quiet())
    worker.add_orchestrator(work)
    worker.start()
    client = AsyncTaskHubGrpcClient(channel=AioChannel(AioSidecarService(database)), logger=quiet())
    ids = await asyncio.gather(*[client.schedule_new_orchestration(work) for _ in range(50)])
    with pytest.raises(TimeoutError):
        await client.wait_for_orchestration_completion(ids[0], timeout=0.05)
    waits = [asyncio.create_task(client.wait_for_orchestration_completion(each, timeout=TIMEOUT)) for each in ids]
    await asyncio.gather(*[client.raise_orchestration_event(each, "go", data=1) for each in ids])
    found = await asyncio.gather(*waits)
    assert {each.serialized_output for each in found if each is not None} == {"1"}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.raise_orchestration_event(ids[0], "go")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert len(await client.get_orchestration_history(ids[0])) == 5
    assert len(await client.get_all_orchestration_states()) == 50
    await client.close()
    worker.stop()
    assert len(database.hub.waiters) == 0
