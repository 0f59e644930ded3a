from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bridge.core.errors import EngineRejected, EngineTimeout, EngineUnavailable
from bridge.pipeline.breaker import Breaker
from tests.kit.virtual_time import in_virtual_time
from tests.kit.waiting import TIMEOUT, eventually


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
        changes.append(breaker.error is not None)
        if breaker.error is None:
            closed.set()

    breaker.subscribe(listen)
    breaker.trip(EngineUnavailable("away"))
    breaker.trip(EngineUnavailable("away again"))
    assert breaker.error is not None
    assert str(breaker.error) == "away"
    await eventually(lambda: probes >= 3)
    alive = True
    async with asyncio.timeout(TIMEOUT):
        await closed.wait()
    assert changes == [True, False]


async def test_an_engine_that_answers_unkindly_has_answered() -> None:
    async def probe() -> None:
        raise EngineRejected("no")

    closed = asyncio.Event()
    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.subscribe(lambda: breaker.error is not None or closed.set())  # type: ignore[arg-type, func-returns-value]  # wider than its annotation, on purpose
    breaker.trip(EngineUnavailable("away"))
    async with asyncio.timeout(TIMEOUT):
        await closed.wait()
    assert breaker.error is None


async def test_stop_ends_the_probing() -> None:
    async def probe() -> None:
        raise EngineUnavailable("away")

    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.trip(EngineUnavailable("away"))
    await asyncio.sleep(0.01)
    await breaker.stop()
    await breaker.stop()
    assert breaker.error is not None


async def test_a_probe_that_fails_unexpectedly_is_not_the_last() -> None:
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        if probes < 3:
            raise RuntimeError("a bug")

    closed = asyncio.Event()
    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.subscribe(lambda: breaker.error is not None or closed.set())  # type: ignore[arg-type, func-returns-value]  # wider than its annotation, on purpose
    breaker.trip(EngineUnavailable("away"))
    async with asyncio.timeout(TIMEOUT):
        await closed.wait()
    assert probes == 3


async def until(condition: Callable[[], bool]) -> float:
    """Return the seconds until the condition held."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await eventually(condition)
    return loop.time() - began


@in_virtual_time
async def test_an_engine_that_goes_silent_under_a_call_is_asked_and_found_away_within_a_second() -> None:
    frozen = asyncio.Event()

    async def probe() -> None:
        await frozen.wait()

    breaker = Breaker("default", probe, first_delay=0.001)
    changes: list[bool] = []
    breaker.subscribe(lambda: changes.append(breaker.error is not None))
    breaker.begin()
    took = await until(lambda: breaker.error is not None)
    assert 0.5 < took < 1.0
    assert isinstance(breaker.error, EngineTimeout)
    frozen.set()
    await until(lambda: breaker.error is None)
    assert changes == [True, False]
    breaker.end()
    await breaker.stop()


@in_virtual_time
async def test_calls_that_are_slow_on_an_engine_that_answers_are_no_outage() -> None:
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1

    breaker = Breaker("default", probe)
    breaker.begin()
    await until(lambda: probes >= 2)
    assert breaker.error is None
    breaker.end()
    await asyncio.sleep(0.3)
    seen = probes
    await asyncio.sleep(0.6)
    assert probes == seen, "nothing is asked while no call waits"
    await breaker.stop()


@in_virtual_time
async def test_answers_to_other_calls_say_that_it_lives() -> None:
    async def probe() -> None:
        raise AssertionError("not asked")

    breaker = Breaker("default", probe)
    breaker.begin()
    for _ in range(15):
        breaker.begin()
        await asyncio.sleep(0.05)
        breaker.end()
    assert breaker.error is None
    breaker.end()
    await breaker.stop()


@in_virtual_time
async def test_a_slow_engine_is_found_back_by_a_probe_that_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.pipeline.breaker._FIRST_PROBE", 0.02)

    async def probe() -> None:
        await asyncio.sleep(0.3)

    breaker = Breaker("default", probe, first_delay=0.001)
    breaker.trip(EngineUnavailable("away"))
    await until(lambda: breaker.error is None)
