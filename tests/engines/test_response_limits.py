"""Answers of a hostile engine that are too large, endless, or about another instance: refused within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from durabletask.client import OrchestrationQuery
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.app.operations.entities import EntityOperations
from bridge.app.operations.instances.instances import InstanceFilter, InstanceOperations, StartRequest
from bridge.app.serve.admission import count
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.core.errors import EngineError, EngineOutage, EngineRejected, EngineUnavailable
from bridge.engines.commands.answers import AnswerKeys
from bridge.engines.remote.remote_limits import TOTAL
from bridge.engines.scheduler import SchedulerEngine
from bridge.waiting.totals import WaitingTotals
from tests.engines.hostile import (
    HostileEngine,
    endless_entities,
    endless_history,
    endless_ids,
    endless_instances,
    large_acknowledgement,
    own_state,
    state,
)
from tests.kit.waiting import TIMEOUT

MAX_ANSWER = 1_000_000


@pytest.fixture
def hostile() -> Iterator[HostileEngine]:
    with HostileEngine() as server:
        yield server


@asynccontextmanager
async def connected(hostile: HostileEngine, timeout: str = "20s") -> AsyncIterator[SchedulerEngine]:
    config = {
        "type": "scheduler", "endpoint": hostile.endpoint, "credential": "none", "timeout": timeout,
        "max_answer": MAX_ANSWER,
    }  # fmt: skip
    engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate(config))
    await engine.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            yield engine
    finally:
        await engine.stop()


CALLS: dict[str, tuple[type[EngineError], str, Callable[[SchedulerEngine], Awaitable[Any]]]] = {
    "a history": (EngineRejected, "a history is larger than", lambda it: InstanceOperations(it).history("i")),
    "a recording": (EngineRejected, "a history is larger than", lambda it: InstanceOperations(it).recording("i")),
    "a listing": (EngineUnavailable, "exceed", lambda it: InstanceOperations(it).list(InstanceFilter(), payloads=True)),
    "a count": (EngineUnavailable, "exceed", lambda it: count(it, "i")()),
    "a count by value": (EngineUnavailable, "exceed", lambda it: count(it, "i", values=True)()),
    "ids": (EngineUnavailable, "exceed", lambda it: InstanceOperations(it).finished_ids(InstanceFilter())),
    "entities": (
        EngineUnavailable,
        "exceed",
        lambda it: EntityOperations(it).list(None, None, None, None, state=True, transient=True),
    ),
    "keys": (EngineUnavailable, "exceed", lambda it: AnswerKeys(it).ring()),
}


@pytest.mark.parametrize("what", CALLS)
async def test_an_answer_without_end_is_refused(hostile: HostileEngine, what: str) -> None:
    hostile.answers = {
        "GetInstance": own_state, "StreamInstanceHistory": endless_history, "QueryInstances": endless_instances,
        "QueryEntities": endless_entities, "ListInstanceIds": endless_ids,
    }  # fmt: skip
    kind, text, call = CALLS[what]
    async with connected(hostile) as engine:
        for _ in range(2):  # a refused answer leaves the room that it took
            with pytest.raises(kind, match=text) as caught:
                await call(engine)
            assert "x" * 50 not in str(caught.value)


async def test_pages_that_are_counted_and_not_kept_end_with_the_time(hostile: HostileEngine) -> None:
    def slow_pages(request: bytes, number: int) -> bytes:
        time.sleep(0.02)  # the time ends the pages, not their number
        return endless_entities(request, number)

    hostile.answers = {"QueryEntities": slow_pages}
    async with connected(hostile, "300ms") as engine:
        with pytest.raises(EngineUnavailable, match="no end after 9 s"):
            await WaitingTotals(1000, 1000).count(engine)


async def test_a_token_that_is_repeated_ends_the_pages(hostile: HostileEngine) -> None:
    page = pb.QueryEntitiesResponse()
    page.continuationToken.value = "again"
    hostile.answers = {"QueryEntities": page.SerializeToString()}
    async with connected(hostile) as engine:
        await WaitingTotals(1000, 1000).count(engine)
        assert hostile.calls["QueryEntities"] == 4


async def test_states_of_own_entities_that_make_no_sense_are_an_error_of_the_engine(hostile: HostileEngine) -> None:
    for text in ("{", "[1]", '{"items": 7}', '{"size": "many"}', '{"size": [1]}'):
        page = pb.QueryEntitiesResponse()
        page.entities.add(instanceId="@bridge.parking@a").serializedState.value = text
        hostile.answers = {"QueryEntities": page.SerializeToString()}
        async with connected(hostile) as engine:
            with pytest.raises(EngineError, match="the state of an entity cannot be read"):
                await WaitingTotals(1000, 1000).count(engine)


async def test_many_answers_at_once_share_one_bound(hostile: HostileEngine) -> None:
    def history(_: bytes, __: int) -> Iterator[bytes]:
        chunk = pb.HistoryChunk()
        for number in range(50):
            chunk.events.add(eventId=number).eventRaised.input.value = "x" * 10_000
        return iter([chunk.SerializeToString()] * 10)

    hostile.answers = {"StreamInstanceHistory": history}
    async with connected(hostile) as engine:
        instances = InstanceOperations(engine)
        assert len(await instances.history("i")) == 500
        found = await asyncio.gather(*(instances.history("i") for _ in range(12)), return_exceptions=True)
        assert any(isinstance(each, EngineUnavailable) for each in found)
        assert all(isinstance(each, EngineUnavailable | list) for each in found)
        assert len(await instances.history("i")) == 500


async def test_a_single_answer_is_refused_before_it_is_read(hostile: HostileEngine) -> None:
    hostile.answers = {
        "GetInstance": state("i", 100_000_000), "StartInstance": large_acknowledgement,
        "StreamInstanceHistory": lambda _, __: iter([b"\x0a" + b"\xff" * 2_000_000]),
        "QueryEntities": b"x" * 2_000_000,
    }  # fmt: skip
    async with connected(hostile) as engine:
        instances = InstanceOperations(engine)
        with pytest.raises(EngineRejected, match="larger than the 1000000 bytes of `max_answer`"):
            await instances.show("i")
        with pytest.raises(EngineRejected, match="larger than the 1000000 bytes of `max_answer`"):
            await instances.history("i")
        with pytest.raises(EngineRejected, match="larger than the 1000000 bytes of `max_answer`"):
            await EntityOperations(engine).list(None, None, None, None, state=True, transient=True)
        # An answer that never holds a payload is no message's fault
        with pytest.raises(EngineOutage, match="does not speak the protocol"):
            await instances.start(StartRequest("o", None, "i", None, None, None, {}), None)
        with pytest.raises(EngineOutage, match="does not speak the protocol"):
            await engine.probe()


async def test_an_answer_about_another_instance_is_no_answer(hostile: HostileEngine) -> None:
    entity = pb.GetEntityResponse(exists=True)
    entity.entity.instanceId = "@stock@other"
    hostile.answers = {
        "GetInstance": state("other"),
        "StartInstance": pb.CreateInstanceResponse(instanceId="other").SerializeToString(),
        "GetEntity": entity.SerializeToString(),
    }  # fmt: skip
    async with connected(hostile) as engine:
        instances = InstanceOperations(engine)
        for call in (
            instances.show("i"),
            instances.start(StartRequest("o", None, "i", None, None, None, {}), None),
            EntityOperations(engine).show("stock", "i"),
            engine.probe(),
        ):
            with pytest.raises(EngineOutage, match="answers about another instance"):
                await call
        entity.entity.instanceId = "@stock@I"
        hostile.answers = {"GetInstance": own_state, "GetEntity": entity.SerializeToString()}
        assert (await instances.show("i")).instance_id == "i"
        assert (await EntityOperations(engine).show("Stock", "I")).key == "I"


async def test_answers_within_the_bounds_are_read(hostile: HostileEngine) -> None:
    def pages(_: bytes, number: int) -> bytes:
        page = pb.QueryInstancesResponse()
        page.orchestrationState.add(instanceId=f"i{number}").output.value = "x" * (MAX_ANSWER // 2)
        if number < TOTAL:
            page.continuationToken.value = f"t{number}"
        return bytes(page.SerializeToString())

    hostile.answers = {"QueryInstances": pages, "GetInstance": lambda _, __: state("i", MAX_ANSWER - 1000)}
    async with connected(hostile) as engine:
        found = await engine.client.get_all_orchestration_states(OrchestrationQuery())
        assert len(found) == TOTAL + 1
        assert len((await InstanceOperations(engine).show("i")).output) == MAX_ANSWER - 1000
