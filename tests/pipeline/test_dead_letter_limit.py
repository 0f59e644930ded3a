"""Dead letters of one process: counted per route and minute, then one per pause."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from bridge.core.errors import EngineUnavailable
from bridge.core.pace import Paces
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.limits.dead_letter_limit import DeadLetterLimit, DeadLetterLimited
from tests.kit.waiting import eventually


class Store:
    """Paces in memory, as an engine keeps them. away: every call fails."""

    def __init__(self) -> None:
        self.paces = Paces()
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.away = False

    async def load(self) -> Paces:
        self._check()
        return Paces(self.paces.to_json())

    async def send(self, operation: str, value: dict[str, Any]) -> None:
        self._check()
        self.sent.append((operation, value))
        arguments = [value[name] for name in ("route", "by", "now", "resumes") if name in value]
        getattr(self.paces, operation)(*arguments)

    def _check(self) -> None:
        if self.away:
            raise EngineUnavailable("away")


def item() -> InFlightDelivery:
    return object.__new__(InFlightDelivery)


async def allowed(limit: DeadLetterLimit, route: str, message: object) -> bool:
    try:
        if await limit.allow(route, message):
            await limit.wrote(route)
    except DeadLetterLimited as limited:
        return limited.route != route
    return True


async def test_one_more_than_the_limit_waits_and_other_routes_are_free() -> None:
    limit = DeadLetterLimit("orders", 3)
    assert [await allowed(limit, "a", number) for number in range(5)] == [True, True, True, False, False]
    assert await allowed(limit, "b", 0)
    assert limit.pauses == {"a": 1.0}
    assert limit.reason is not None
    assert "bridge sources resume orders" in limit.reason


async def test_a_slow_trickle_is_not_limited() -> None:
    limit = DeadLetterLimit("orders", 1, window=0.0)
    assert all([await allowed(limit, "a", number) for number in range(100)])


async def test_a_message_that_comes_again_counts_once() -> None:
    limit = DeadLetterLimit("orders", 3)
    assert all([await allowed(limit, "a", number % 3) for number in range(50)])
    assert not await allowed(limit, "a", 3)


async def test_waiting_items_are_freed_one_per_pause() -> None:
    limit = DeadLetterLimit("orders", 0)
    running = asyncio.create_task(limit.run())
    freed: list[InFlightDelivery] = []
    items = [item() for _ in range(3)]
    assert not await allowed(limit, "a", "first")
    began = time.monotonic()
    for each in items:
        limit.wait("a", each, lambda each=each: freed.append(each))  # type: ignore[misc]  # mypy cannot infer it
    await eventually(lambda: freed)
    assert time.monotonic() - began > 0.8
    assert freed == items[:1]
    assert await allowed(limit, "a", "first")
    assert limit.pauses == {"a": 2.0}
    assert not await allowed(limit, "a", "second"), "one for one claim"
    limit.forget(items[1])
    await eventually(lambda: len(freed) == 2)
    assert freed == [items[0], items[2]]
    running.cancel()


async def test_an_item_that_succeeds_lets_the_next_one_try() -> None:
    limit = DeadLetterLimit("orders", 0)
    running = asyncio.create_task(limit.run())
    freed: list[InFlightDelivery] = []
    assert not await allowed(limit, "a", "first")
    for each in (item(), item()):
        limit.wait("a", each, lambda each=each: freed.append(each))  # type: ignore[misc]  # mypy cannot infer it
    await eventually(lambda: len(freed) == 1)
    limit.succeeded(["a"])
    await eventually(lambda: len(freed) == 2)
    running.cancel()


async def test_the_limit_is_shared_and_outlives_the_process() -> None:
    store = Store()
    first = DeadLetterLimit("orders", 2, store)
    running = asyncio.create_task(first.run())
    assert not await allowed(first, "a", 0), "nothing is written before the paces are known"
    await eventually(lambda: first._loaded)
    assert [await allowed(first, "a", number) for number in range(3)] == [True, True, False]
    assert [operation for operation, _ in store.sent] == ["limit"]
    running.cancel()
    second = DeadLetterLimit("orders", 2, store)
    running = asyncio.create_task(second.run())
    await eventually(lambda: second._loaded)
    assert not await allowed(second, "a", 3)
    assert second.active
    running.cancel()


async def test_only_one_daemon_writes_the_next_dead_letter() -> None:
    store = Store()
    daemons = [DeadLetterLimit("orders", 0, store) for _ in range(3)]
    tasks = [asyncio.create_task(each.run()) for each in daemons]
    await eventually(lambda: all(each._loaded for each in daemons))
    freed: list[DeadLetterLimit] = []
    for each in daemons:
        await allowed(each, "a", id(each))
        each.wait("a", item(), lambda each=each: freed.append(each))  # type: ignore[misc]  # mypy cannot infer it
    await eventually(lambda: freed)
    await asyncio.sleep(1.5)
    assert len(freed) == 1
    for task in tasks:
        task.cancel()


async def test_a_person_ends_the_limit_for_every_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.pipeline.limits.dead_letter_limit.REFRESH_SECONDS", 0.1)
    store = Store()
    limit = DeadLetterLimit("orders", 0, store)
    running = asyncio.create_task(limit.run())
    await eventually(lambda: limit._loaded)
    assert not await allowed(limit, "a", 0)
    store.paces.wrote("a", time.time())
    freed: list[int] = []
    for number in range(2):
        limit.wait("a", item(), lambda number=number: freed.append(number))  # type: ignore[misc]  # mypy cannot infer it
    store.paces.resume(None)
    await eventually(lambda: freed == [0, 1])
    assert not limit.active
    running.cancel()


async def test_an_engine_that_is_away_neither_opens_nor_ends_the_limit() -> None:
    store = Store()
    store.away = True
    limit = DeadLetterLimit("orders", 1, store)
    running = asyncio.create_task(limit.run())
    freed: list[int] = []
    assert not await allowed(limit, "a", 0)
    limit.wait("a", item(), lambda: freed.append(0))
    store.away = False
    await eventually(lambda: freed)
    assert await allowed(limit, "a", 0)
    store.away = True
    assert not await allowed(limit, "a", 1)
    assert limit.active
    running.cancel()


async def slept(monkeypatch: pytest.MonkeyPatch, daemon: DeadLetterLimit) -> None:
    """Make the state of the daemon old, as after a freeze."""
    monkeypatch.setattr(daemon, "_read_at", daemon._read_at - 30.0)


async def test_a_daemon_that_was_frozen_does_not_undo_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    frozen = DeadLetterLimit("orders", 2, store)
    await frozen._refresh()
    assert [await allowed(frozen, "a", number) for number in range(3)] == [True, True, False]
    store.paces.resume(None)
    await slept(monkeypatch, frozen)
    assert [await allowed(frozen, "a", number) for number in range(3, 6)] == [True, True, False]


async def test_a_daemon_that_was_frozen_before_its_limit_counts_anew_after_a_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    daemons = [DeadLetterLimit("orders", 2, store) for _ in range(2)]
    for each in daemons:
        await each._refresh()
    frozen, other = daemons
    assert await allowed(frozen, "a", 0)
    assert [await allowed(other, "a", number) for number in range(3)] == [True, True, False]
    store.paces.resume("a")
    await slept(monkeypatch, frozen)
    assert [await allowed(frozen, "a", number) for number in range(1, 4)] == [True, True, False]


async def test_a_limit_that_was_counted_before_a_resume_is_refused() -> None:
    store = Store()
    frozen = DeadLetterLimit("orders", 2, store)
    await frozen._refresh()
    assert [await allowed(frozen, "a", number) for number in range(2)] == [True, True]
    store.paces.limit("a", time.time())
    store.paces.resume("a")
    assert not await allowed(frozen, "a", 2)
    assert len(store.paces) == 0
    await frozen._refresh()
    assert await allowed(frozen, "a", 2)


async def test_a_limit_that_was_reached_while_the_engine_was_away_is_told_when_it_is_back() -> None:
    store = Store()
    limit = DeadLetterLimit("orders", 2, store)
    await limit._refresh()
    store.away = True
    assert [await allowed(limit, "a", number) for number in range(3)] == [True, True, False]
    store.away = False
    await limit._refresh()
    assert not await allowed(limit, "a", 3)
    assert "a" in store.paces
