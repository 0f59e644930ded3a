"""Correlation contract of every engine, mixed into EngineContract; commands carry the origin of their message."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from bridge.core.commands import (
    Command,
    OnExisting,
    OnFinished,
    RaiseEvent,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.core.errors import AlreadyTaken, InstanceAlreadyExists, InstanceFinished
from bridge.core.origin import MessageOrigin
from tests.kit.waiting import eventually

FIRST, SECOND, THIRD, FOURTH = (MessageOrigin(f"m-{number}", "r") for number in range(1, 5))


def fresh() -> str:
    return f"c-{uuid.uuid4().hex}"


async def deliver(harness: Any, command: Command, origin: MessageOrigin) -> str:
    """Deliver a command. Returns the result as a word."""
    try:
        await harness.executor.execute(command, origin)
    except AlreadyTaken:
        return "repeat"
    except InstanceAlreadyExists:
        return "exists"
    except InstanceFinished:
        return "finished"
    return "done"


class CorrelationContract:
    @pytest.mark.parametrize("policy", list(OnExisting))
    async def test_redelivery_of_a_start_is_a_repeat(self, harness: Any, policy: OnExisting) -> None:
        start = ScheduleOrchestration("collect", fresh(), [1], on_existing=policy, event="item")
        assert await deliver(harness, start, FIRST) == "done"
        assert await deliver(harness, start, FIRST) == "repeat"
        await deliver(harness, RaiseEvent(start.instance_id, "item", "a"), SECOND)
        assert await harness.output(start.instance_id) == [[1], "a"]
        assert await deliver(harness, start, FIRST) == "repeat"

    async def test_another_message_about_the_same_thing(self, harness: Any) -> None:
        for policy in (OnExisting.IGNORE, OnExisting.DEAD_LETTER, OnExisting.RESTART):
            start = ScheduleOrchestration("collect", fresh(), [1], on_existing=policy)
            assert await deliver(harness, start, FIRST) == "done"
            assert await deliver(harness, start, SECOND) == "exists"
            await deliver(harness, RaiseEvent(start.instance_id, "item", "a"), THIRD)
            assert await harness.output(start.instance_id) == [[1], "a"]

    async def test_on_existing_raise(self, harness: Any) -> None:
        start = ScheduleOrchestration("collect", fresh(), [2], on_existing=OnExisting.RAISE, event="item")
        assert await deliver(harness, start, FIRST) == "done"
        assert [await deliver(harness, start, origin) for origin in (SECOND, SECOND, FIRST)] == [
            "done",
            "done",
            "repeat",
        ]
        assert await deliver(harness, start, THIRD) == "done"
        assert await harness.output(start.instance_id) == [[2], [2], [2]]
        assert await deliver(harness, start, SECOND) == "repeat"
        assert await deliver(harness, start, FOURTH) == "finished"

    async def test_restart_knows_every_message_of_before(self, harness: Any) -> None:
        instance_id = fresh()
        start = ScheduleOrchestration("collect", instance_id, [1], on_existing=OnExisting.RESTART)
        item = RaiseEvent(instance_id, "item", "a")
        assert await deliver(harness, start, FIRST) == "done"
        assert await deliver(harness, item, SECOND) == "done"
        assert await harness.output(instance_id) == [[1], "a"]
        assert await deliver(harness, start, THIRD) == "done"
        assert await deliver(harness, start, FIRST) == "repeat"
        assert await deliver(harness, start, THIRD) == "repeat"
        assert await deliver(harness, item, SECOND) == "done"  # accepted by the engine, dropped by the inbox
        assert await deliver(harness, RaiseEvent(instance_id, "item", "b"), FOURTH) == "done"
        assert await harness.output(instance_id) == [[1], "b"]
        assert await deliver(harness, start, FIRST) == "repeat"

    async def test_restart_after_more_messages_than_are_remembered(self, harness: Any) -> None:
        start = ScheduleOrchestration("forgetful", fresh(), 2, on_existing=OnExisting.RESTART)
        assert await deliver(harness, start, FIRST) == "done"
        for each in (SECOND, THIRD):
            assert await deliver(harness, RaiseEvent(start.instance_id, "item"), each) == "done"
        await harness.finished(start.instance_id)
        assert await deliver(harness, start, FOURTH) == "done"
        assert await deliver(harness, start, FOURTH) == "repeat"
        await harness.running(start.instance_id)

    async def test_start_or_raise_sees_each_message_once(self, harness: Any) -> None:
        instance_id = fresh()
        deliveries = [FIRST, FIRST, SECOND, SECOND, FIRST, THIRD]
        found = [
            await deliver(
                harness, StartOrRaise("collect", instance_id, "item", [2, each.message_id], each.message_id), each
            )
            for each in deliveries
        ]
        assert found[:3] == ["done", "repeat", "done"]
        assert await harness.output(instance_id) == [[2, "m-1"], "m-2", "m-3"]
        for each in (FIRST, SECOND, THIRD):
            assert await deliver(harness, StartOrRaise("collect", instance_id, "item"), each) == "repeat"
        assert await deliver(harness, StartOrRaise("collect", instance_id, "item"), FOURTH) == "finished"

    async def test_on_finished_restart(self, harness: Any) -> None:
        instance_id = fresh()
        again = StartOrRaise("collect", instance_id, "item", [0], on_finished=OnFinished.RESTART)
        for each in (FIRST, SECOND):
            assert await deliver(harness, again, each) == "done"
            assert await harness.output(instance_id) == [[0]]
        assert [await deliver(harness, again, each) for each in (FIRST, SECOND)] == ["repeat", "repeat"]

    async def test_an_event_restarts_a_finished_instance_and_reaches_it(self, harness: Any) -> None:
        instance_id = fresh()
        await harness.executor.execute(ScheduleOrchestration("collect", instance_id, [1], tags={"team": "x"}), FIRST)
        item = RaiseEvent(instance_id, "item", "a", on_finished=OnFinished.RESTART)
        assert await deliver(harness, item, SECOND) == "done"
        assert await harness.output(instance_id) == [[1], "a"]
        assert await deliver(harness, item, SECOND) == "repeat"
        late = RaiseEvent(instance_id, "item", "late", on_finished=OnFinished.RESTART)
        assert await deliver(harness, late, THIRD) == "done"
        assert await harness.output(instance_id) == [[1], "late"]
        assert await deliver(harness, late, THIRD) == "repeat"
        assert await deliver(harness, ScheduleOrchestration("collect", instance_id, [1]), FIRST) == "repeat"

    async def test_a_bare_instance_of_another_client_is_restarted_too(self, harness: Any) -> None:
        instance_id = fresh()
        await harness.executor.execute(ScheduleOrchestration("collect", instance_id, [1]))
        await harness.executor.execute(RaiseEvent(instance_id, "item", "bare"))
        assert await harness.output(instance_id) == [[1], "bare"]
        late = RaiseEvent(instance_id, "item", "late", on_finished=OnFinished.RESTART)
        assert await deliver(harness, late, FIRST) == "done"
        assert await harness.output(instance_id) == [[1], "late"]

    async def test_what_does_not_wait_is_restarted_once_for_an_event(self, harness: Any) -> None:
        instance_id = fresh()
        await harness.executor.execute(ScheduleOrchestration("collect", instance_id, [0]), FIRST)
        await harness.output(instance_id)
        late = RaiseEvent(instance_id, "item", "late", on_finished=OnFinished.RESTART)
        found = [await deliver(harness, late, SECOND)]
        await harness.output(instance_id)
        found.append(await deliver(harness, late, SECOND))
        # The instance may or may not have ended before the event arrived.
        assert found in (["finished", "finished"], ["done", "repeat"], ["repeat", "repeat"], ["done", "finished"])

    async def test_generations_keep_the_origin_and_what_was_seen(self, harness: Any) -> None:
        instance_id = fresh()
        start = ScheduleOrchestration("generations", instance_id, {"left": 3, "taken": []})
        assert await deliver(harness, start, FIRST) == "done"
        for number in (1, 1, 2, 1, 2):
            await deliver(harness, RaiseEvent(instance_id, "item", number), MessageOrigin(f"i-{number}", "r"))
        assert await deliver(harness, start, FIRST) == "repeat"
        for number in (2, 3):
            await deliver(harness, RaiseEvent(instance_id, "item", number), MessageOrigin(f"i-{number}", "r"))
        assert await harness.output(instance_id) == [[1, 2, 3], "m-1"]
        assert await deliver(harness, start, FIRST) == "repeat"
        assert await deliver(harness, RaiseEvent(instance_id, "item", 1), MessageOrigin("i-1", "r")) == "repeat"

    async def test_entities_take_a_message_once(self, harness: Any) -> None:
        key = uuid.uuid4().hex
        for each in (FIRST, SECOND, FIRST, SECOND):
            assert await deliver(harness, SignalEntity("remembering", key, "add", 2), each) == "done"
        await harness.executor.execute(SignalEntity("remembering", key, "add", 1))

        async def reached() -> object:
            return await harness.remembered(key) == 5

        await eventually(reached)

    async def test_many_at_once_are_each_seen_once(self, harness: Any) -> None:
        """Deliver the same messages from several sides, in any order, each more than once."""
        instance_id = fresh()
        count = 12
        commands = [
            (
                StartOrRaise("collect", instance_id, "item", [count - 1, number], number),
                MessageOrigin(f"x-{number}", "r"),
            )
            for number in range(count)
            for _ in range(3)
        ]
        found = await asyncio.gather(*(deliver(harness, command, origin) for command, origin in commands))
        first, *rest = await harness.output(instance_id)
        assert sorted([first[1], *rest]) == list(range(count))
        assert set(found) <= {"done", "repeat"}
