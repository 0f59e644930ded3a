"""Limits on all waiting messages of an engine: a message beyond them is dead-lettered."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from bridge.app.serve.views.status import waiting_document
from bridge.core.errors import WaitingFull
from bridge.ops.status import OVERDUE_SECONDS
from bridge.waiting.totals import QuarantinedCount, WaitingCount, WaitingTotals
from tests.kit.daemon import ENGINES, headers, running
from tests.kit.garbage import no_frames_in_cycles
from tests.kit.waiting import TIMEOUT, eventually

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("paid"))
"""
CONFIG = """
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['kind']"}
    QUARANTINE
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: early
    from: orders
    match: {type: early}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: poison
    from: orders
    match: {type: poison}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: dead_letter}
"""


def config(quarantine: str = "") -> str:
    return CONFIG.replace("QUARANTINE", quarantine)


@pytest.mark.parametrize("engine", ENGINES)
async def test_early_messages_are_bounded_over_all_instances(tmp_path: Path, engine: str) -> None:
    settings = ", early_messages: {total_messages: 3}"
    async with running(tmp_path, config(), FLOWS, engine, settings=settings) as it:
        for number in range(5):
            await it.publish("orders", {"id": number}, kind="early")
            await it.settled(number + 1)
        assert it.outcomes() == {"early": 3, "dead_lettered": 2}
        dead_letters = [headers(each) for each in await it.read("orders.dlq", 2)]
        assert {each["bridge.reason"] for each in dead_letters} == {"waiting_full"}
        assert {each["bridge.route"] for each in dead_letters} == {"early"}
        # Delivered messages free space
        await it.publish("orders", {"id": 0}, kind="start")
        await it.client.wait_for_orchestration_completion("order-0", timeout=TIMEOUT)
        stores = it.daemon.own.waiting_entities["default"]
        await it.until(lambda: stores.totals.messages == 2, "one of three has left")
        await it.publish("orders", {"id": 9}, kind="early")
        await it.settled(7)
        assert it.outcomes()["early"] == 4
        await stores.totals.count(it.daemon.engines["default"])
        assert (stores.totals.messages, stores.refused) == (3, 2)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_restart_knows_what_waits(tmp_path: Path, engine: str) -> None:
    settings = ", early_messages: {total_bytes: 3000}"
    async with running(tmp_path, config(), FLOWS, engine, settings=settings) as it:
        await it.publish("orders", {"id": 1, "fill": "x" * 900}, kind="early")
        await it.settled(1)
        assert it.outcomes() == {"early": 1}
        known = it.daemon.own.waiting_entities["default"].totals.bytes
        assert known > 1800
    async with running(tmp_path, config(), FLOWS, engine, settings=settings) as it:
        totals = it.daemon.own.waiting_entities["default"].totals
        await it.until(lambda: totals.bytes == known, "what waits is counted")
        await it.publish("orders", {"id": 2, "fill": "x" * 900}, kind="early")
        await it.settled(1)
        assert it.outcomes() == {"dead_lettered": 1}


@pytest.mark.parametrize("engine", ENGINES)
async def test_quarantined_messages_count_too(tmp_path: Path, engine: str) -> None:
    settings = ", early_messages: {total_messages: 3}"
    text = config("quarantine: {poll: 50ms}")
    async with running(tmp_path, text, FLOWS, engine, settings=settings) as it:
        await it.publish("orders", {"id": "e"}, "e", kind="early")
        await it.settled(1)
        for number in range(4):
            await it.publish("orders", {"id": number}, f"key-{number % 2}", kind="poison")
            await it.settled(number + 2)
        assert it.outcomes() == {"early": 1, "quarantined": 2, "dead_lettered": 2}
        dead_letters = [headers(each) for each in await it.read("orders.dlq", 2)]
        assert {each["bridge.reason"] for each in dead_letters} == {"waiting_full"}
        totals = it.daemon.own.waiting_entities["default"].totals
        await totals.count(it.daemon.engines["default"])
        assert totals.messages == 3


async def test_messages_near_the_end_of_their_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.serve.waiting._COUNT", 0.1)
    async with running(tmp_path, config(), FLOWS) as it:
        for number in range(2):
            await it.publish("orders", {"id": number}, kind="early")
        await it.settled(2)
        stores, engine = it.daemon.own.waiting_entities["default"], it.daemon.engines["default"]
        await it.until(lambda: stores.waiting == 2, "what waits is counted")
        assert stores.expiring == 0
        for minutes, expiring in ((44, 0), (46, 2)):
            await stores.totals.count(engine, time.time() + 60 * minutes)
            assert (stores.totals.counted.early, stores.expiring) == (2, expiring)


def test_a_total_is_never_less_than_nothing() -> None:
    totals = WaitingTotals(2, 100)
    totals.changed(-5, -500)
    assert (totals.messages, totals.bytes) == (0, 0)
    with pytest.raises(WaitingFull):
        totals.admit(101)
    assert totals.refused == 1


async def test_errors_on_the_way_keep_no_payloads(tmp_path: Path) -> None:
    """An error that is referenced by its own traceback lives until the cyclic collector runs, which a daemon rarely
    does."""
    async with running(tmp_path, config(), FLOWS) as it:
        with no_frames_in_cycles():
            for number in range(20):
                await it.publish("orders", {"id": number}, kind="early" if number % 2 else "poison")
            await it.settled(20)
            assert it.outcomes() == {"early": 10, "dead_lettered": 10}
            stores = it.daemon.own.waiting_entities["default"]
            await it.until(lambda: stores.early_messages.events["stored"] == 10, "they are processed")


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_status_shows_what_waits_and_since_when(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, config("quarantine: {}"), FLOWS, engine) as it:
        await it.publish("orders", {"id": 1}, kind="early")
        await it.publish("orders", {"id": 2}, key="k-2", kind="poison")
        await it.publish("orders", {"id": 3}, key="k-2", kind="poison")
        await it.settled(3)
        assert it.outcomes() == {"early": 1, "quarantined": 2}

        async def shown() -> dict[str, Any] | None:
            document = await it.daemon.status.document()
            [engine] = document["engines"]
            return engine if engine["early"]["messages"] and engine["quarantined"] else None

        waiting = await eventually(shown)
        assert waiting["early"]["messages"] == 1
        assert 0 <= waiting["early"]["oldest_seconds"] < TIMEOUT
        [keys] = waiting["quarantined"]
        assert (keys["source"], keys["keys"], keys["messages"], keys["overdue"]) == ("orders", 1, 2, 0)
        assert 0 <= keys["oldest_seconds"] < TIMEOUT


def test_keys_that_nobody_released_for_an_hour_are_counted_apart() -> None:
    now = 1_000_000.0
    hour = OVERDUE_SECONDS
    keys = QuarantinedCount(3, 4, now - 3 * hour, [now - 2 * hour, now - hour + 1])
    found = waiting_document(WaitingCount(quarantined={"orders": keys}, at=now), now)
    assert found["quarantined"] == [
        {
            "source": "orders",
            "keys": 3,
            "messages": 4,
            "oldest_seconds": 3 * hour,
            "manual": 2,
            "manual_seconds": 2 * hour,
            "overdue": 1,
        }
    ]
