"""Outages hold the source instead of dead-lettering messages; the source resumes by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.core.errors import EngineDenied, EngineMisconfigured, EngineOutage, EngineTimeout, EngineUnavailable
from tests.kit.pipeline import held_lanes, message, offsets_by_key, running_pipeline


@pytest.mark.parametrize("kind", [EngineUnavailable, EngineDenied, EngineMisconfigured, EngineTimeout])
async def test_everything_waits_and_goes_on_in_order(tmp_path: Path, kind: type[EngineUnavailable]) -> None:
    limits = "    limits: {max_in_flight: 40, concurrency: 8}\n    retry: {in_memory: 10ms}"
    async with running_pipeline(tmp_path, source=limits) as it:
        it.faults.outage = kind("away")
        await it.publish(*(message("start", f"k{number % 7}-{number}", f"k{number % 7}") for number in range(200)))
        await it.source.start()
        await it.until(lambda: held_lanes(it.source.lanes), "held")
        assert it.source.gate.pause_reasons == {"engine default": "away"}
        await asyncio.sleep(0.1)
        assert it.source.ledger.in_flight <= 40
        assert sum(it.source.ledger.outcomes.values()) == 0
        assert len(it.faults.tried) <= 8 + 8, "one probe at a time, not a command each"
        it.faults.outage = None
        await it.settled(200)
        assert it.source.ledger.outcomes["executed"] == 200
        assert not it.source.gate.pause_reasons
        assert all(numbers == sorted(numbers) for numbers in offsets_by_key(it.faults.taken).values())


async def test_an_outage_in_the_middle_loses_and_doubles_nothing(tmp_path: Path) -> None:
    outages: list[EngineOutage] = []
    async with running_pipeline(tmp_path) as it:
        it.breaker.subscribe(lambda: outages.extend([it.breaker.error] if it.breaker.error else ()))
        await it.publish(*(message("start", f"k{number % 7}-{number}", f"k{number % 7}") for number in range(600)))
        await it.source.start()
        for _ in range(5):
            done = sum(it.source.ledger.outcomes.values())
            it.faults.outage = EngineUnavailable("away")
            await it.until(
                lambda: it.breaker.error is not None or sum(it.source.ledger.outcomes.values()) == 600, "open"
            )
            it.faults.outage = None
            await it.settled(min(600, done + 100))
        await it.settled(600)
        assert it.source.ledger.outcomes["executed"] == 600
        assert len({command.instance_id for command in it.faults.taken}) == 600  # type: ignore[union-attr]  # schedules only
        assert outages


async def test_drain_during_an_outage_gives_everything_back(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path) as it:
        it.faults.outage = EngineUnavailable("away")
        await it.publish(*(message("start", f"k-{number}", "k") for number in range(10)))
        await it.source.start()
        await it.until(lambda: held_lanes(it.source.lanes), "held")
        await it.source.drain(5)
        assert it.source.ledger.abandoned["drain"] == it.source.ledger.received == 10
    async with running_pipeline(tmp_path) as again:
        await again.source.start()
        await again.settled(10)
        assert again.source.ledger.outcomes["executed"] == 10
