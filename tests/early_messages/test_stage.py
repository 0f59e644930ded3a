"""Commands for missing instances, on engines that notify of starts and on one that does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId

from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.commands import (
    Command,
    OnExisting,
    OnMissing,
    RaiseEvent,
    ScheduleOrchestration,
    SignalEntity,
    StartFirst,
    StartOrRaise,
    Terminate,
    WaitFor,
)
from bridge.core.errors import (
    AlreadyTaken,
    EarlierMessagesWait,
    EngineRejected,
    InstanceAlreadyExists,
    InstanceNotFound,
    InvalidCommand,
)
from bridge.core.origin import MessageOrigin
from bridge.core.system_names import EARLY_MESSAGES, target_key
from bridge.early_messages.executor import EarlyMessageExecutor, shortest_prefixes
from bridge.early_messages.store import EarlyMessageStore
from bridge.engines.base import Engine
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.sidecar import Sidecar
from tests.waiting.sample import stored

ORIGIN = MessageOrigin("m-1", "paid")


class StageFixture:
    """Engine without workers: signals to an entity stay queued and visible."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.store = EarlyMessageStore(engine, 4096, lambda: datetime.now(UTC))
        notifies = engine.notifies_instance_started
        self.stage = EarlyMessageExecutor(self.store, CommandRunner(engine), ("order-",), engine_notifies=notifies)

    async def waiting(self, instance_id: str) -> int:
        """Return the pending operations of an early-message entity."""
        found = await self.engine.client.find_entity(EntityInstanceId(EARLY_MESSAGES, target_key(instance_id)))
        return 0 if found is None else found.backlog_queue_size

    async def keep(self, number: int = 1, data: Any = None) -> None:
        command = RaiseEvent("order-1", "paid", data, WaitFor(60.0))
        await self.store.store(command, MessageOrigin(f"m-{number}", "paid"), stored(number), 60.0)


@asynccontextmanager
async def setup(tmp_path: Path, kind: str) -> AsyncIterator[StageFixture]:
    engine: Engine
    sidecar = None
    if kind == "embedded":
        engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    else:
        sidecar = Sidecar(tmp_path)
        sidecar.start()
        engine = SchedulerEngine("default", SchedulerEngineConfig(type="scheduler", endpoint=sidecar.endpoint))
    await engine.start()
    try:
        yield StageFixture(engine)
    finally:
        await engine.stop()
        if sidecar is not None:
            await asyncio.to_thread(sidecar.close)


@pytest.fixture(params=["embedded", "scheduler"])
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StageFixture]:
    async with setup(tmp_path, request.param) as made:
        yield made


START = ScheduleOrchestration("order", "order-1")
PAID = RaiseEvent("order-1", "paid", 1, WaitFor(60.0))


async def test_while_messages_wait_later_ones_go_behind_them(it: StageFixture) -> None:
    with pytest.raises(InstanceNotFound):
        await it.stage.execute(PAID, ORIGIN)
    await it.keep()
    with pytest.raises(EarlierMessagesWait):
        await it.stage.execute(PAID, MessageOrigin("m-2", "paid"))
    await it.stage.execute(START, MessageOrigin("m-3", "start"))
    with pytest.raises(EarlierMessagesWait):
        await it.stage.execute(PAID, MessageOrigin("m-2", "paid"))


async def test_what_waits_for_another_whose_id_begins_the_same_holds_nobody_back(it: StageFixture) -> None:
    for neighbour in ("order-10", "order-1~", "order-1~e", "order-1@"):
        command = RaiseEvent(neighbour, "paid", None, WaitFor(60.0))
        await it.store.store(command, MessageOrigin(f"m-{neighbour}", "paid"), stored(1), 60.0)
    assert await it.waiting("order-1") == 0
    with pytest.raises(InstanceNotFound):
        await it.stage.execute(PAID, ORIGIN)


@pytest.mark.parametrize(
    "command",
    [
        RaiseEvent("order-1", "paid", 1, OnMissing.RETRY),
        Terminate("order-1", on_missing=OnMissing.IGNORE),
        StartOrRaise("order", "order-1", "paid"),
        ScheduleOrchestration("order", "order-1", on_existing=OnExisting.RAISE),
    ],
    ids=lambda command: type(command).__name__,
)
async def test_what_cannot_wait_overtakes_nobody_whose_instance_is_there(it: StageFixture, command: Command) -> None:
    await it.keep()
    await it.stage.execute(START, MessageOrigin("m-3", "start"))
    with pytest.raises(EarlierMessagesWait):
        await it.stage.execute(command, ORIGIN)


async def test_who_finds_others_at_work_tells_them_nothing(it: StageFixture) -> None:
    """A retried command looks at the instance itself and adds no entry to the entity's queue."""
    await it.keep()
    await it.engine.client.schedule_new_orchestration("order", instance_id="order-1")
    waiting = await it.waiting("order-1")
    for _ in range(3):
        with pytest.raises(EarlierMessagesWait):
            await it.stage.execute(RaiseEvent("order-1", "noted", 1, OnMissing.RETRY), ORIGIN)
    assert await it.waiting("order-1") == waiting


async def test_what_cannot_wait_goes_its_own_way_while_the_instance_is_missing(it: StageFixture) -> None:
    await it.keep()
    with pytest.raises(InstanceNotFound):
        await it.stage.execute(RaiseEvent("order-1", "paid", 1, OnMissing.RETRY), ORIGIN)
    await it.stage.execute(StartOrRaise("order", "order-1", "paid"), MessageOrigin("m-9", "start"))


async def test_a_start_is_told_once_it_has_happened_and_when_it_is_repeated(it: StageFixture) -> None:
    await it.keep()
    before = await it.waiting("order-1")
    await it.stage.execute(START, MessageOrigin("m-3", "start"))
    received = before + (
        1 if it.engine.notifies_instance_started else 2
    )  # the engine behind both notifies of starts by itself
    assert await it.waiting("order-1") == received
    if not it.engine.notifies_instance_started:
        with pytest.raises(AlreadyTaken):
            await it.stage.execute(START, MessageOrigin("m-3", "start"))
        with pytest.raises(InstanceAlreadyExists):
            await it.stage.execute(START, MessageOrigin("m-4", "start"))
        assert await it.waiting("order-1") == received + 2


async def test_ids_for_which_no_rule_parks_cost_nothing(it: StageFixture) -> None:
    await it.stage.execute(ScheduleOrchestration("order", "other-1"), MessageOrigin("m-3", "start"))
    assert await it.waiting("other-1") == 0
    await it.stage.execute(SignalEntity("counter", "k", "add"), ORIGIN)
    await it.stage.execute(RaiseEvent("other-1", "paid", 1), ORIGIN)


async def test_a_missing_instance_is_started_and_then_told(it: StageFixture) -> None:
    command = RaiseEvent("made-1", "paid", 1, StartFirst("order", {"by": "paid"}))
    await it.stage.execute(command, ORIGIN)
    state = await it.engine.client.get_orchestration_state("made-1")
    assert state is not None
    assert (state.name, '"by"' in (state.serialized_input or "")) == ("order", True)
    await it.stage.execute(command, MessageOrigin("m-2", "paid"))


async def test_what_is_too_large_or_no_json_is_refused_at_once(it: StageFixture) -> None:
    with pytest.raises(InvalidCommand, match="at most 4096 are stored"):
        await it.keep(data="x" * 5000)
    with pytest.raises(EngineRejected):
        await it.keep(data=b"bytes")
    assert await it.waiting("order-1") == 0


def test_prefixes_that_another_covers_are_left_out() -> None:
    assert shortest_prefixes(["order-1", "order-", "return-", "order-"]) == ("order-", "return-")
    assert shortest_prefixes(["order-", ""]) == ("",)
    assert shortest_prefixes([]) == ()
