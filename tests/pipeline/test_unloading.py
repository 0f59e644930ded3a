"""A route beyond the dead-letter limit does not stop other routes: its messages leave memory and return whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bridge.core.commands import Command
from bridge.core.errors import EngineRejected, EngineUnavailable
from bridge.core.message import Message
from bridge.pipeline.limits.dead_letter_limit import AT_ONCE
from bridge.pipeline.unloading import UNLOADED
from tests.kit.pipeline import START, PipelineFixture, is_balanced, message, offsets_by_key, running_pipeline
from tests.kit.waiting import TIMEOUT

SMALL = "    limits: {dead_letter_limit: 3, max_in_flight: 20}"
REST = START + "  - {name: rest, from: orders, ignore: {}}\n"
TWO = START + (
    "  - name: other\n    from: orders\n    match: {type: other}\n"
    '    schedule: {orchestration: other, instance_id: "other-{{ payload.id }}"}\n'
)


async def refuse_others(command: Command) -> None:
    if command.instance_id.startswith("other"):  # type: ignore[union-attr]  # schedules only
        raise EngineRejected("too large")


async def limited(it: PipelineFixture) -> None:
    await it.source.start()
    await it.until(lambda: it.source.dead_letter_limit.active, "limited")


def all_wait(it: PipelineFixture) -> bool:
    """Return whether each message in flight was refused once; a message that was only read looks idle, too."""
    return sum(map(len, it.source.dead_letter_limit._waiting.values())) == it.source.ledger.in_flight


async def resumed(it: PipelineFixture) -> None:
    """Resume the route repeatedly, as a person does, until no message waits."""
    it.source.dead_letter_limit._paces.resume(None)
    it.source.dead_letter_limit.limit = 100_000
    it.source.dead_letter_limit._wake.set()


async def test_more_than_the_source_may_hold_waits_and_others_go_on(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source=SMALL) as it:
        await it.publish(*(message("unknown", f"k-{number}", f"k{number}") for number in range(150)))
        await limited(it)
        await it.until(lambda: it.source.ledger.in_flight >= 140, "read past the bound")
        await it.publish(*(message("start", f"g-{number}", f"g{number}") for number in range(5)))
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 5, "others go on")
        assert it.source.unloading.in_memory <= 20


async def test_their_bytes_count_no_more(tmp_path: Path) -> None:
    settings = "    limits: {dead_letter_limit: 3, max_in_flight_bytes: 200KiB}"
    async with running_pipeline(tmp_path, source=settings) as it:
        await it.publish(*(message("unknown", n, f"k{n}", fill="z" * 50_000) for n in range(40)))
        await limited(it)
        await it.until(lambda: it.source.ledger.in_flight >= 36, "read past the bound")
        await it.publish(*(message("start", f"g-{number}", f"g{number}") for number in range(5)))
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 5, "others go on")
        await it.until(lambda: it.source.unloading.bytes_in_memory <= 100 * 1024, "half of the bound at most")


async def test_they_come_back_whole(tmp_path: Path) -> None:
    """Each message is dead-lettered once, with body, key and headers, whether or not its body was in memory."""
    async with running_pipeline(tmp_path, source=SMALL) as it:
        sent = [
            Message(bytes([number]) * 1000, f"k{number % 50}".encode(), (("type", b"unknown"), ("n", bytes([number]))))
            for number in range(150)
        ]
        await it.publish(*sent)
        await limited(it)
        await it.until(lambda: it.source.unloading.count > 100, "unloaded")
        await resumed(it)
        await it.settled(150)
        dead_letters = await it.read("orders.dlq", 150)
        assert sorted((each.body, each.key, dict(each.headers)["n"]) for each in dead_letters) == sorted(
            (each.body, each.key, dict(each.headers)["n"]) for each in sent
        )
        assert it.source.unloading.count == 0
        assert it.source.unloading.bytes_in_memory == 0
        assert not it.source.unloading.has_blocked


async def test_what_is_behind_them_keeps_its_order(tmp_path: Path) -> None:
    """A repaired rule executes the waiting messages in the order of each key."""
    async with running_pipeline(tmp_path, TWO, source=SMALL) as it:
        ill = True

        async def refuse(command: Command) -> None:
            if ill:
                raise EngineRejected("too large")

        it.faults.before = refuse
        await it.publish(*(message("start", f"{key}-{n}", f"k{key}") for n in range(10) for key in range(15)))
        await limited(it)
        await it.until(lambda: it.source.unloading.count > 100, "unloaded")
        ill = False
        it.faults.tried.clear()
        await resumed(it)
        await it.settled(150)
        written = it.source.ledger.dead_letters["engine_rejected"]
        assert it.source.ledger.outcomes["executed"] == 150 - written
        found = offsets_by_key(it.faults.taken)
        assert all(numbers == sorted(numbers) for numbers in found.values())


async def test_other_routes_pay_before_they_are_stopped(tmp_path: Path) -> None:
    """The messages of the limited route exceed the limit of the source even without their bodies."""
    async with running_pipeline(tmp_path, TWO, source=SMALL) as it:
        it.faults.before = refuse_others
        bad = UNLOADED * 20 * 3
        batch = [message("other", n, f"k{n}") if n % 10 else message("start", f"g-{n}", f"g{n}") for n in range(bad)]
        await it.publish(*batch)
        await it.source.start()
        await it.until(lambda: it.source.ledger.outcomes["executed"] == bad // 10, "every good message")
        assert it.source.dead_letter_limit.active


async def test_a_rule_that_fails_for_all_writes_no_more_than_before(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, TWO, source=SMALL) as it:
        it.faults.before = refuse_others
        await it.publish(*(message("other", number, f"k{number}") for number in range(2 * UNLOADED * 20)))
        await limited(it)
        await it.until(lambda: it.source.unloading.count == UNLOADED * 20, "the bound of its own")
        await it.until(lambda: it.source.gate.full, "the source waits in the end")
        assert it.source.ledger.dead_letters["engine_rejected"] <= 5


async def test_the_end_of_an_outage_reads_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pipeline(tmp_path, source=SMALL) as it:
        await it.publish(*(message("unknown", number, f"k{number}") for number in range(100)))
        await limited(it)
        await it.until(lambda: it.source.unloading.count > 60, "unloaded")
        loaded: list[Any] = []
        load = it.source.unloading.load

        async def counted(item: Any) -> None:
            loaded.append(item)
            await load(item)

        monkeypatch.setattr(it.source.unloading, "load", counted)
        it.faults.outage = EngineUnavailable("away")
        await it.publish(message("start", "g", "g"))
        await it.until(lambda: it.source.gate.pause_reasons, "held")
        it.faults.outage = None
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 1, "back")
        assert len(loaded) <= 5


async def test_what_the_log_has_no_more_is_a_dead_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_pipeline(tmp_path, source=SMALL) as it:
        await it.publish(*(message("unknown", number, f"k{number}") for number in range(60)))
        await limited(it)
        await it.until(lambda: it.source.unloading.count > 30, "unloaded")
        await it.broker._writer.submit(lambda log: log.connection.execute("DELETE FROM records").rowcount)  # type: ignore[attr-defined]
        await resumed(it)
        await it.settled(60)
        assert it.source.ledger.dead_letters["unreadable"] > 30
        assert is_balanced(it.source.ledger)


async def test_a_drain_gives_them_back(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source=SMALL) as it:
        await it.publish(*(message("unknown", f"k-{number}", f"k{number}") for number in range(100)))
        await limited(it)
        await it.until(lambda: it.source.unloading.count > 60, "unloaded")
        await asyncio.wait_for(it.source.drain(5), TIMEOUT)
        written = it.source.ledger.dead_letters["no_route"]
        assert it.source.unloading.count == 0
    async with running_pipeline(tmp_path, REST) as again:
        await again.source.start()
        await again.settled(100 - written)
        assert again.source.ledger.outcomes["ignored"] == 100 - written


async def test_what_is_freed_leaves_workers_to_the_others(tmp_path: Path) -> None:
    """Thousands of messages may be released at once, and each write may take long."""
    async with running_pipeline(tmp_path, TWO, source=SMALL) as it:
        it.faults.before = refuse_others
        await it.publish(*(message("other", number, f"k{number}") for number in range(150)))
        await limited(it)
        await it.until(lambda: it.source.ledger.received == 150 and all_wait(it), "all are read and wait")
        slow = asyncio.Event()

        async def wait(command: Command) -> None:
            if command.instance_id.startswith("other"):  # type: ignore[union-attr]  # schedules only
                await slow.wait()
                raise EngineRejected("too large")

        it.faults.before = wait
        await resumed(it)
        await it.until(lambda: it.source.at_work == AT_ONCE, "as many as may be")
        await it.publish(*(message("start", f"g-{number}", f"g{number}") for number in range(5)))
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 5, "others go on")
        assert it.source.at_work == AT_ONCE
        slow.set()
        await it.settled(155)
