"""Quarantine state of a key on an engine whose worker comes and goes."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.system_names import QUARANTINE
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.quarantine.entity import QuarantineEntities
from bridge.quarantine.store import EngineQuarantineStore
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT, eventually
from tests.waiting.sample import stored

KEY = b"bk"


class QuarantineFixture:
    """Quarantine store of one source, on an engine without a worker unless a test starts one."""

    def __init__(self, engine: EmbeddedEngine) -> None:
        self.engine = engine
        self.store = EngineQuarantineStore(engine, "orders")

    async def put(self, operation: str, number: int, key: bytes = KEY) -> None:
        """Signal `hold` or `follow` with a message."""
        item = {"mark": str(number), "letter": stored(number).to_json(), "since": 0.0, "size": 10}
        value: dict[str, Any] = {"source": "orders", "key": base64.b64encode(key).decode(), "item": item}
        await self.store.signal(key, operation, value | {"cause": {"reason": "no_route"}, "until": None})

    async def done(self, number: int) -> None:
        await self.store.signal(KEY, "done", {"mark": str(number)})

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        entities = {QUARANTINE: QuarantineEntities().function()}
        worker = self.engine.worker(Workflows(entities=entities), DataConverter())
        assert isinstance(worker, ContainedWorker)
        worker.use_work_item_filters()
        worker.start()
        try:
            yield
        finally:
            assert await stop_worker(worker, TIMEOUT)

    async def processed(self, *numbers: int) -> None:
        """Wait until the key holds these messages and no operation is pending."""
        wanted = [([str(number) for number in numbers], False)] if numbers else []

        async def reached() -> object:
            return await self._held() == wanted

        await eventually(reached)

    async def _held(self) -> list[tuple[list[str], bool]]:
        return [([one.mark for one in each.messages], each.unsettled) for each in await self.store.load()]


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[QuarantineFixture]:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    await engine.start()
    yield QuarantineFixture(engine)
    await engine.stop()


async def test_what_no_worker_has_processed_yet_is_held_already(it: QuarantineFixture) -> None:
    assert not await it.store.holds(KEY)
    await it.put("hold", 0)
    assert [(each.key, each.unsettled) for each in await it.store.load()] == [(b"", True)], "the key is not known yet"
    assert await it.store.holds(KEY)
    assert not await it.store.holds(b"bk2")
    assert not await it.store.holds(b"b")
    assert not await EngineQuarantineStore(it.engine, "orders2").holds(KEY)
    assert not await EngineQuarantineStore(it.engine, "order").holds(KEY)


async def test_a_key_is_held_until_the_last_of_its_messages_is_done(it: QuarantineFixture) -> None:
    async with it.worker():
        await it.put("hold", 0)
        await it.put("follow", 1)
        await it.processed(0, 1)
        assert await it.store.holds(KEY)
        await it.done(0)
        await it.processed(1)
        assert await it.store.holds(KEY)
        await it.done(1)
        await it.processed()
        assert not await it.store.holds(KEY)


async def test_a_key_whose_last_message_is_done_while_another_is_on_its_way_is_held(it: QuarantineFixture) -> None:
    async with it.worker():
        await it.put("hold", 0)
        await it.processed(0)
        await it.done(0)
        await it.processed()
    await it.put("follow", 1)
    assert await it.store.holds(KEY)
    async with it.worker():
        await it.processed(1)
        assert await it.store.holds(KEY)


async def test_a_key_that_is_held_stays_so_while_its_end_is_on_its_way(it: QuarantineFixture) -> None:
    async with it.worker():
        await it.put("hold", 0)
        await it.processed(0)
    await it.done(0)
    assert [each.unsettled for each in await it.store.load()] == [True]
    assert await it.store.holds(KEY)
    async with it.worker():
        await it.processed()
        assert not await it.store.holds(KEY)
