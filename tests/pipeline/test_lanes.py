from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest

from bridge.pipeline.lanes import Lanes, LaneState
from tests.kit.waiting import TIMEOUT
from tests.pipeline.deliveries import Part, item


async def test_items_of_a_key_go_one_at_a_time_in_order_and_keys_side_by_side() -> None:
    lanes = Lanes()
    for number in range(3):
        lanes.push("a", item(number))
    lanes.push("b", item(10))
    first, second = await lanes.take(), await lanes.take()
    assert (first.key, second.key) == ("a", "b")
    assert first.items[0].delivery.position.offset == 0
    waiting = asyncio.ensure_future(lanes.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    lanes.settled(first)
    assert (await waiting).items[0].delivery.position.offset == 1


async def test_without_a_key_nothing_waits_for_anything() -> None:
    lanes = Lanes()
    for number in range(3):
        lanes.push(None, item(number))
    taken = [await lanes.take() for _ in range(3)]
    assert len([*lanes]) == 3
    for lane in taken:
        lanes.settled(lane)
    assert not [*lanes]


async def test_random_traffic_keeps_order_and_leaves_nothing_behind() -> None:
    lanes = Lanes()
    seen: dict[str, list[int]] = defaultdict(list)
    rng = random.Random(7)
    done = asyncio.Event()
    total = 2000

    async def worker() -> None:
        while True:
            lane = await lanes.take()
            head = lane.items[0]
            if rng.random() < 0.1:
                await asyncio.sleep(0)
            roll = rng.random()
            if roll < 0.05:
                lanes.wait(lane, 0.0001)
            elif roll < 0.1:
                lanes.hold(lane)
                asyncio.get_running_loop().call_soon(lanes.release)
            else:
                seen[str(lane.key)].append(head.delivery.position.offset)
                lanes.settled(lane)
                if sum(map(len, seen.values())) == total:
                    done.set()

    workers = [asyncio.create_task(worker()) for _ in range(8)]
    for number in range(total):
        lanes.push(rng.choice("abcdefgh"), item(number))
        if number % 50 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await done.wait()
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sum(map(len, seen.values())) == total
    assert all(offsets == sorted(offsets) for offsets in seen.values())
    assert not [*lanes]


async def test_drop_removes_what_is_gone_and_spares_what_a_worker_has() -> None:
    lanes = Lanes()
    gone, kept = Part(number=1), Part(number=2)
    running, queued, other = item(1, gone), item(2, gone), item(3, kept)
    for each in (running, queued, other):
        lanes.push("k", each)
    waiting, follower = item(4, gone), item(5, kept)
    lane = await lanes.take()
    lanes.push("w", waiting)
    lanes.push("w", follower)
    waiter = await lanes.take()
    lanes.wait(waiter, 1000)
    removed, at_work = lanes.drop(lambda each: each.delivery.partition is gone)
    assert set(removed) == {queued, waiting}
    assert at_work == [running]
    assert (await lanes.take()).items[0] is follower
    lanes.settled(lane)
    assert (await lanes.take()).items[0] is other


@pytest.mark.parametrize("state", [LaneState.READY, LaneState.WAITING, LaneState.HELD])
async def test_a_dropped_lane_is_gone_in_every_state(state: LaneState) -> None:
    lanes = Lanes()
    lanes.push("k", item(1))
    if state is not LaneState.READY:
        lane = await lanes.take()
        if state is LaneState.WAITING:
            lanes.wait(lane, 0.001)
        else:
            lanes.hold(lane)
    lanes.drop(lambda each: True)
    lanes.release()
    await asyncio.sleep(0.01)
    assert not [*lanes]
    taking = asyncio.ensure_future(lanes.take())
    await asyncio.sleep(0)
    assert not taking.done()
    taking.cancel()


async def test_a_cancelled_worker_passes_its_wake_up_on() -> None:
    lanes = Lanes()
    first, second = asyncio.ensure_future(lanes.take()), asyncio.ensure_future(lanes.take())
    await asyncio.sleep(0)
    lanes.push("k", item(1))
    first.cancel()
    async with asyncio.timeout(TIMEOUT):
        assert (await second).key == "k"


@pytest.mark.parametrize(("suspends", "woken"), [(True, 16), (False, 4)])
async def test_as_many_workers_wake_as_there_is_work_for(suspends: bool, woken: int) -> None:
    """Work that suspends gets all workers.

    The first worker does work that does not suspend; waking others costs more.
    """
    lanes = Lanes()
    wakes = 0
    end = asyncio.Event()

    async def work() -> None:
        nonlocal wakes
        lane = await lanes.take()
        wakes += 1
        while True:
            if suspends:
                await end.wait()
            lanes.settled(lane)
            if not [*lanes]:
                return
            lane = await lanes.take()

    workers = [asyncio.create_task(work()) for _ in range(16)]
    await asyncio.sleep(0)
    for number in range(100):
        lanes.push(number, item(number))
    for _ in range(16):
        await asyncio.sleep(0)
    if suspends:
        assert wakes == woken
    else:
        assert wakes <= woken
        assert not [*lanes]
    end.set()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_a_worker_that_ends_as_it_wakes_leaves_its_turn_to_another() -> None:
    lanes = Lanes()
    ending, living = (asyncio.create_task(lanes.take()) for _ in range(2))
    await asyncio.sleep(0)
    lanes.push("a", item(1))
    ending.cancel()
    async with asyncio.timeout(TIMEOUT):
        assert (await living).key == "a"
