"""States of dead letters on an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.system_names import DEAD_LETTER_BLOCK, DEAD_LETTER_STATES, dead_letter_block, dead_letter_prefix
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.dead_letters.store import DeadLetterStates, dead_letter_states_entity
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines import entity_reads
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT


def ref(offset: int, topic: str = "orders.dlq", partition: int = 0) -> DeadLetterRef:
    return DeadLetterRef("kafka", topic, partition, offset, float(offset))


@asynccontextmanager
async def working(engine: Engine) -> AsyncIterator[None]:
    worker = engine.worker(Workflows(entities={DEAD_LETTER_STATES: dead_letter_states_entity()}), DataConverter())
    assert isinstance(worker, ContainedWorker)
    worker.use_work_item_filters()
    worker.start()
    try:
        yield
    finally:
        assert await stop_worker(worker, TIMEOUT)


@asynccontextmanager
async def embedded(path: Path) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), path, host=True)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def test_two_jobs_take_the_same_dead_letters_at_once_and_each_gets_its_own(tmp_path: Path) -> None:
    refs = [ref(offset, partition=partition) for partition in (0, 1) for offset in range(0, 3 * DEAD_LETTER_BLOCK, 911)]
    async with embedded(tmp_path) as engine, working(engine):
        states = DeadLetterStates(engine)
        first, second = await asyncio.gather(states.take("a", refs), states.take("b", list(reversed(refs))))
        assert first == second
        assert set(first) == set(refs)
        assert {mark.state for mark in first.values()} == {DeadLetterState.REPLAYING}
        assert {mark.job for mark in first.values()} <= {"a", "b"}
        assert await states.take("a", refs) == first


async def test_states_survive_a_restart_and_leave_when_all_are_open(tmp_path: Path) -> None:
    async with embedded(tmp_path) as engine, working(engine):
        states = DeadLetterStates(engine)
        await states.drop("a", [ref(1), ref(9000)], by="ann", reason="a test")
        await states.drop("a", [ref(1, "orders.dlq~x"), ref(1, "orders.dl")], by="ann", reason="another topic")
    async with embedded(tmp_path) as engine, working(engine):
        states = DeadLetterStates(engine)
        topic = await states.topic("kafka", "orders.dlq")
        assert [topic.state(0, each, float(each)) for each in (1, 2, 9000)] == ["dropped", "open", "dropped"]
        assert set(topic.blocks) == {(0, 0), (0, DEAD_LETTER_BLOCK)}
        mark = topic.mark(0, 1, 1.0)
        assert mark is not None
        assert (mark.by, mark.reason) == ("ann", "a test")
        assert set(await states.read([ref(1), ref(2)])) == {ref(1)}
        assert await states.apply("restore", [ref(1), ref(9000)], {"job": "b"}) == {}
        assert not (await states.topic("kafka", "orders.dlq")).blocks


async def test_a_change_without_a_worker_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_reads, "WITHIN", 0.2)
    async with embedded(tmp_path) as engine:
        with pytest.raises(Exception, match="no worker has processed it"):
            await DeadLetterStates(engine).take("a", [ref(1)])


@pytest.mark.parametrize("topic", ["t", "billing/$DeadLetterQueue", "a~b@c", "x" * 249])
def test_keys_fit_and_name_their_block(topic: str) -> None:
    prefix = dead_letter_prefix("broker", topic)
    for offset in (0, DEAD_LETTER_BLOCK + 1, 2**63 - 1):
        key = DeadLetterRef("broker", topic, 2**31 - 1, offset).key
        assert len(f"@{DEAD_LETTER_STATES}@{key}") <= 256
        assert dead_letter_block(prefix, key) == (2**31 - 1, offset - offset % DEAD_LETTER_BLOCK)
        assert dead_letter_block(dead_letter_prefix("broker", topic[:-1]), key) is None
