from __future__ import annotations

import asyncio

from bridge.errors import EngineRejected, EngineUnavailable
from bridge.pipeline.breaker import Breaker


async def test_it_opens_probes_one_at_a_time_and_closes_when_the_engine_answers() -> None:
    alive = False
    probes = 0
    at_once = 0

    async def probe() -> None:
        nonlocal probes, at_once
        at_once += 1
        assert at_once == 1
        probes += 1
        await asyncio.sleep(0)
        at_once -= 1
        if not alive:
            raise EngineUnavailable("still away")

    changes: list[bool] = []
    closed = asyncio.Event()
    breaker = Breaker("default", probe, first_delay=0.001)

    def listen() -> None:
        changes.append(breaker.open)
        if not breaker.open:
            closed.set()

    breaker.subscribe(listen)
    breaker.trip(EngineUnavailable("away"))
    breaker.trip(EngineUnavailable("away again"))
    assert breaker.open
    assert str(breaker.error) == "away"
    while probes < 3:
        await asyncio.sleep(0.001)
    alive = True
    async with asyncio.timeout(10):
        await closed.wait()
    assert changes == [True, False]
    assert breaker.openings == 1


async def test_an_engine_that_answers_unkindly_has_answered() -> None:
    async def probe() -> None:
        raise EngineRejected("no")

    closed = asyncio.Event()
    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.subscribe(lambda: breaker.open or closed.set())
    breaker.trip(EngineUnavailable("away"))
    async with asyncio.timeout(10):
        await closed.wait()
    assert not breaker.open


async def test_stop_ends_the_probing() -> None:
    async def probe() -> None:
        raise EngineUnavailable("away")

    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.trip(EngineUnavailable("away"))
    await asyncio.sleep(0.01)
    await breaker.stop()
    await breaker.stop()
    assert breaker.open


async def test_a_probe_that_fails_unexpectedly_is_not_the_last() -> None:
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if probes < 3:
            raise RuntimeError("a bug")

    closed = asyncio.Event()
    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.subscribe(lambda: breaker.open or closed.set())
    breaker.trip(EngineUnavailable("away"))
    async with asyncio.timeout(10):
        await closed.wait()
    assert probes == 3
