"""Answers of an engine that is none, or an enemy: an outage, and never an error that nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from bridge.app.operations.instances.instances import InstanceOperations, StartRequest
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.core.errors import EngineError, EngineOutage
from bridge.engines.scheduler import SchedulerEngine
from bridge.pipeline.breaker import Breaker
from tests.kit.waiting import TIMEOUT

GARBAGE = b"\xff" * 50


class Hostile(grpc.GenericRpcHandler):
    """Server that answers every call with the same bytes, or refuses it with the same status."""

    def __init__(self) -> None:
        self.answer: bytes | tuple[grpc.StatusCode, str] = GARBAGE

    def service(self, _: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._call)

    def _call(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        if isinstance(self.answer, tuple):
            context.abort(*self.answer)
        return self.answer  # type: ignore[return-value]  # wider than its annotation, on purpose


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture
def address(hostile: Hostile) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((hostile,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(0).wait()


async def connect(address: str) -> SchedulerEngine:
    config = {"type": "scheduler", "endpoint": address, "credential": "none", "timeout": "5s"}
    engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate(config))
    await engine.start()
    return engine


def calls(engine: SchedulerEngine) -> list[Any]:
    instances = InstanceOperations(engine)
    return [
        instances.start(StartRequest("o", None, "i", None, None, None, {}), None),
        instances.raise_event("i", "e", None, None), instances.terminate("i", None, recursive=True),
    ]  # fmt: skip


async def test_an_answer_that_is_none_is_an_outage(address: str) -> None:
    engine = await connect(address)
    for call in [engine.probe(), *calls(engine)]:
        with pytest.raises(EngineOutage, match="does not follow the protocol"):
            await call
    await engine.stop()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_status_of_any_kind_is_foreseen(address: str, hostile: Hostile, code: grpc.StatusCode) -> None:
    hostile.answer = code, "x" * 6_000
    engine = await connect(address)
    for call in calls(engine):
        with pytest.raises(EngineError) as caught:
            await call
        assert len(str(caught.value)) < 1_000
    await engine.stop()


async def test_an_engine_is_found_again_after_it_answered_nonsense(address: str, hostile: Hostile) -> None:
    engine = await connect(address)
    back = asyncio.Event()
    breaker = Breaker("x", engine.probe, first_delay=0.001)
    breaker.subscribe(back.set)
    with pytest.raises(EngineOutage) as caught:
        await engine.probe()
    breaker.trip(caught.value)
    while breaker._failures < 3:
        await asyncio.sleep(0)
    hostile.answer = b""
    async with asyncio.timeout(TIMEOUT):
        await back.wait()
    await engine.stop()
