"""Cap on running orchestrations, and start rate: starts wait in order, and no other command waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from bridge.app.check.configuration import inspect
from bridge.app.composition import build_router, load_config
from bridge.core.commands import Command, ScheduleOrchestration
from bridge.core.errors import ConfigError, EngineRejected, EngineUnavailable
from bridge.pipeline.limits.route_limits import RouteLimit, TokenBucket
from bridge.pipeline.limits.running_instances import RECOUNT, CountRunning, RunningInstances, without_children
from tests.kit.pipeline import CONFIG, PipelineFixture, message, running_pipeline
from tests.kit.waiting import TIMEOUT, eventually

CAPPED = """
  - name: start
    from: orders
    match: {type: start}
    limits: {running: 3}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: free
    from: orders
    match: {type: free}
    schedule: {orchestration: other, instance_id: "free-{{ payload.id }}"}
"""
RATED = CAPPED.replace("running: 3", "rate: 20/s")


def started(it: PipelineFixture) -> list[str]:
    return [command.instance_id for command in it.faults.taken if isinstance(command, ScheduleOrchestration)]


async def go(it: PipelineFixture) -> None:
    it.admission.start()
    await it.source.start()


async def finish(it: PipelineFixture, *ids: str) -> None:
    for instance_id in ids:
        await it.engine.client.terminate_orchestration(instance_id)


async def test_starts_wait_at_the_cap_and_go_on_as_instances_finish(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(message("start", number, f"k{number}") for number in range(9)))
        await go(it)
        limit = it.source.route_limits["start"]
        await it.until(lambda: limit.waiting == 6 and len(started(it)) == 3, "six wait")

        assert limit.reason == "3 of 3 orchestrations run, 6 starts wait"
        await it.publish(message("free", 1, "f"))
        await it.until(lambda: "free-1" in started(it), "another route goes on")
        first = [instance_id for instance_id in started(it) if instance_id != "free-1"]
        assert limit.running_instances is not None
        limit.running_instances._count = counting = Counting(limit.running_instances._count)
        await finish(it, first[0])
        await it.until(lambda: limit.waiting == 5, "one more")
        assert not counting.asked, "the engine announced the end; nothing was counted"
        await asyncio.sleep(0.05)
        assert limit.waiting == 5, "one place, one start"
        while limit.waiting:
            await finish(it, *(instance_id for instance_id in started(it) if instance_id != "free-1"))
            await asyncio.sleep(0.01)
        await it.settled(10)
        assert it.source.ledger.outcomes["executed"] == 10
        assert not it.source.ledger.dead_letters


async def test_what_waits_keeps_its_key_in_order(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(message("start", f"a-{number}", "a") for number in range(4)), message("free", "late", "a"))
        await go(it)
        await it.until(lambda: it.source.route_limits["start"].waiting == 1, "the fourth waits")
        assert "free-late" not in started(it)
        await finish(it, "order-a-1")
        await it.settled(5)
        assert started(it) == [*(f"order-a-{number}" for number in range(4)), "free-late"]


async def test_instances_from_before_count_and_their_repeats_need_no_room(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        for number in range(5):
            await it.engine.client.schedule_new_orchestration("order", instance_id=f"order-{number}")
        await it.engine.client.schedule_new_orchestration("order", instance_id="order-1:0001")
        await it.engine.client.schedule_new_orchestration("other", instance_id="unlike-1")
        await it.publish(message("start", 2, "k2"), message("start", 9, "k9"))
        await go(it)
        await it.settled(1)
        assert it.source.ledger.outcomes["ignored"] == 1
        limit = it.source.route_limits["start"]
        await it.until(lambda: limit.waiting == 1, "the new one waits")
        assert limit.running_instances is not None
        assert len(limit.running_instances) == 5, "children and others do not count"
        await finish(it, "order-0", "order-1")
        await asyncio.sleep(0.1)
        assert limit.waiting == 1, "three still run"
        await finish(it, "order-2")
        await it.settled(2)


async def test_what_others_start_counts_at_once(tmp_path: Path) -> None:
    """Every start counts at once: of a client, of a route without limits, of a restart.

    Child orchestrations do not count.
    """
    routes = f"""{CAPPED}
  - name: beside
    from: orders
    match: {{type: beside}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}"}}
"""
    async with running_pipeline(tmp_path, routes) as it:
        client = it.engine.client
        await client.schedule_new_orchestration("order", instance_id="order-again")
        await finish(it, "order-again")
        await go(it)
        limit = it.source.route_limits["start"]
        running_instances = limit.running_instances
        assert running_instances is not None
        await it.until(lambda: running_instances.known, "counted")
        assert len(running_instances) == 0

        await client.schedule_new_orchestration("order", instance_id="order-client")
        await client.schedule_new_orchestration("order", instance_id="order-client:0001")
        await client.schedule_new_orchestration("other", instance_id="unlike-1")
        await client.restart_orchestration("order-again")
        await it.publish(message("beside", "route", "r"))
        await it.settled(1)
        async with asyncio.timeout(RECOUNT / 3):
            await it.until(lambda: len(running_instances) == 3, "all three are counted")
        await it.publish(message("start", 1, "k1"))
        await it.until(lambda: limit.waiting == 1, "there is no room")
        await finish(it, "order-client:0001")
        await finish(it, "order-again")
        await it.settled(2)
        assert len(running_instances) == 3


async def test_a_start_that_finds_a_finished_instance_gives_its_room_back(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        for number in range(10):
            await it.engine.client.schedule_new_orchestration("order", instance_id=f"order-{number}")
            await it.engine.client.terminate_orchestration(f"order-{number}")
        await it.publish(*(message("start", number, f"k{number}") for number in range(13)))
        await go(it)
        await it.settled(13)
        assert it.source.ledger.outcomes["ignored"] == 10
        assert it.source.ledger.outcomes["executed"] == 3


@pytest.mark.parametrize("written", [True, False])
async def test_a_start_that_is_dead_lettered_gives_its_room_back(tmp_path: Path, written: bool) -> None:
    """The slot is released at once, also while the dead letter waits for the dead-letter limit."""

    async def refuse(command: Command) -> None:
        if "bad" in command.instance_id:  # type: ignore[union-attr]  # schedules only
            raise EngineRejected("too large")

    async with running_pipeline(tmp_path, CAPPED) as it:
        it.faults.before = refuse
        await it.publish(*(message("start", f"bad-{number}", f"b{number}") for number in range(3)))
        if not written:
            it.source.dead_letter_limit.limit = 0
        await go(it)
        if written:
            await it.settled(3)
            await it.publish(*(message("start", number, f"k{number}") for number in range(3)))
            await it.settled(6)
        else:
            await it.until(lambda: len(it.faults.tried) == 3 and not it.source.at_work, "all are refused")
            assert it.source.ledger.in_flight == 3
        running_instances = it.source.route_limits["start"].running_instances
        assert running_instances is not None
        assert len(running_instances) == (3 if written else 0)


async def test_drain_gives_back_what_waits(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(message("start", number, f"k{number}") for number in range(5)))
        await go(it)
        await it.until(lambda: it.source.route_limits["start"].waiting == 2 and len(started(it)) == 3, "two wait")
        await it.source.drain(5)
        assert it.source.ledger.abandoned["drain"] == 2
        assert it.source.route_limits["start"].waiting == 0


async def test_an_outage_keeps_the_place_in_the_queue(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        await it.publish(*(message("start", number, f"k{number}") for number in range(5)))
        await go(it)
        limit = it.source.route_limits["start"]
        await it.until(lambda: limit.waiting == 2 and len(started(it)) == 3, "two wait")
        it.faults.outage = EngineUnavailable("away")
        it.breaker.trip(it.faults.outage)
        await it.until(lambda: it.source.gate.pause_reasons, "held")
        it.faults.outage = None
        await it.until(lambda: not it.source.gate.pause_reasons, "goes on")
        await it.until(lambda: limit.waiting == 2, "they still wait")
        await finish(it, *started(it))
        await it.settled(5)
        assert it.source.ledger.outcomes["executed"] == 5


async def test_a_rate_spreads_commands(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, RATED) as it:
        await it.publish(*(message("start", number, f"k{number}") for number in range(11)))
        began = time.monotonic()
        await go(it)
        await it.settled(11)
        assert time.monotonic() - began >= 0.5, "ten intervals of 50 ms"
        assert it.source.route_limits["start"].delayed == 10
        assert it.source.ledger.outcomes["executed"] == 11


def test_a_rate_gives_tokens_in_time() -> None:
    rate = TokenBucket(10.0, burst=3)
    assert [round(rate.take(100.0) - 100.0, 6) for _ in range(5)] == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert round(rate.take(200.0), 6) == 199.8, "the pause filled the bucket, no further than the burst"
    even = TokenBucket(10.0)
    assert [round(even.take(0.0), 6) for _ in range(3)] == [0.0, 0.1, 0.2]


class Counting:
    """Count of running instances that records its number of calls."""

    def __init__(self, count: CountRunning) -> None:
        self._count = count
        self.asked = 0

    async def __call__(self) -> Collection[str]:
        self.asked += 1
        return await self._count()


class Clockless:
    """Counter that returns its given ids, and records its number of calls."""

    def __init__(self, *ids: str) -> None:
        self.ids = set(ids)
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def __call__(self) -> set[str]:
        self.asked += 1
        ids = set(self.ids)
        await self.answer.wait()
        return ids


async def test_commands_that_wait_for_a_rate_go_on_when_it_is_gone(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED.replace("running: 3", "rate: 6/h")) as it:
        limit = it.admission.limits["start"]
        await it.publish(*(message("start", number, f"k{number % 5}") for number in range(20)))
        await it.source.start()
        await it.until(lambda: limit.reason == "5 commands wait for the rate", "one of each key")
        assert len(it.faults.taken) == 1
        limit.change(None, TokenBucket(600.0), None, None)
        await it.settled(20)
        assert it.source.ledger.outcomes["executed"] == 20
        assert limit.reason is None


async def test_starts_that_wait_for_a_slot_go_on_when_the_limit_is_gone(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, CAPPED) as it:
        it.admission.start()
        limit = it.admission.limits["start"]
        await it.publish(*(message("start", number, f"k{number}") for number in range(9)))
        await it.source.start()
        await it.until(lambda: limit.waiting == 6, "three run")
        limit.change(None, None, None, None)
        await it.settled(9)
        assert it.source.ledger.outcomes["executed"] == 9


async def test_an_engine_that_does_not_tell_is_asked_while_somebody_waits() -> None:
    count = Clockless("order-1")
    running_instances = RunningInstances("default", "order-", count)
    limit = RouteLimit("start", 1, running_instances)
    running_instances.start()
    try:
        await eventually(lambda: running_instances.known)
        await asyncio.sleep(0.6)
        assert count.asked == 1, "nobody waits, nobody asks"
        running_instances.request_recount()
        assert limit.running == 1
        count.ids.clear()
        await eventually(lambda: len(running_instances) == 0)
    finally:
        await running_instances.stop()


async def test_a_start_that_was_not_needed_leaves_what_runs() -> None:
    count = Clockless()
    running_instances = RunningInstances("default", "order-", count)
    running_instances.start()
    try:
        await eventually(lambda: running_instances.known)
        for instance_id in ("order-mine", "order-theirs"):
            running_instances.reserve(instance_id)
        running_instances.started(["order-theirs", "order-theirs:0001", "unlike-1"])
        for instance_id in ("order-mine", "order-theirs"):
            running_instances.release(instance_id)
        assert "order-theirs" in running_instances, "another had started it"
        assert len(running_instances) == 1
        running_instances.leave(["order-theirs"])
        assert len(running_instances) == 0
    finally:
        await running_instances.stop()


async def test_what_runs_again_while_it_is_counted_is_kept() -> None:
    count = Clockless("order-again")
    count.answer.clear()
    running_instances = RunningInstances("default", "order-", count)
    running_instances.start()
    try:
        await eventually(lambda: count.asked == 1)
        running_instances.leave(["order-again"])
        running_instances.started(["order-again"])
        count.answer.set()
        await eventually(lambda: running_instances.known)
        assert "order-again" in running_instances
    finally:
        await running_instances.stop()


async def test_a_count_keeps_what_came_and_went_while_it_ran() -> None:
    count = Clockless("order-old", "order-gone")
    count.answer.clear()
    running_instances = RunningInstances("default", "order-", count)
    running_instances.start()
    try:
        await eventually(lambda: count.asked == 1)
        running_instances.reserve("order-new")
        running_instances.leave(["order-gone", "unlike-1"])
        count.answer.set()
        await eventually(lambda: running_instances.known)
        assert "order-new" in running_instances
        assert "order-old" in running_instances
        assert len(running_instances) == 2
    finally:
        await running_instances.stop()


def test_children_are_told_by_their_parents_id() -> None:
    assert set(without_children({"a", "a:0001", "a:0001:0002", "b:1", "c:x:1", "c:x"})) == {"a", "b:1", "c:x"}


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ('schedule: {orchestration: order, instance_id: "{{ payload.id }}"}', "constant prefix"),
        ('raise_event: {instance_id: "order-{{ payload.id }}", name: x}', "starts nothing"),
    ],
)
def test_a_cap_needs_something_to_count(tmp_path: Path, route: str, said: str) -> None:
    path = tmp_path / "bridge.yaml"
    rule = f"\n  - name: start\n    from: orders\n    limits: {{running: 5}}\n    {route}\n"
    path.write_text(CONFIG.format(codec="json", source="", routes=rule))
    with pytest.raises(ConfigError, match=said) as caught:
        build_router(load_config([path]), "orders")
    [problem] = caught.value.problems
    assert problem.path == "routes[0].limits.running"
    assert problem.line > 0


async def test_what_is_revoked_with_its_room_gives_it_back(tmp_path: Path) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(command: Command) -> None:
        if command.instance_id == "free-first":  # type: ignore[union-attr]  # schedules only
            reached.set()
            await go_on.wait()

    async with running_pipeline(tmp_path, CAPPED, source="    limits: {concurrency: 1}") as it:
        it.faults.before = slow
        limit = it.source.route_limits["start"]
        assert limit.running_instances is not None
        await it.publish(*(message("start", f"a-{number}", f"k{number}") for number in range(5)))
        await go(it)
        await it.until(lambda: limit.waiting == 2 and len(started(it)) == 3, "two wait")
        # The only worker is busy when a slot becomes free: the admitted start still waits for a worker, and is revoked
        await it.publish(message("free", "first", "f"))
        await asyncio.wait_for(reached.wait(), TIMEOUT)
        await finish(it, "order-a-0", "order-a-1")
        await it.until(lambda: limit.waiting == 0, "both have their room")
        assert len(limit.running_instances) == 3
        revoked = asyncio.create_task(it.source.revoked(list(it.source.assignment)))
        await it.until(lambda: len(limit.running_instances) == 1, "given back")
        go_on.set()
        await revoked


@pytest.mark.parametrize("when", ["delay: 1h", 'start_at: "{{ payload.at }}"', ""])
def test_a_cap_on_starts_that_wait_for_their_time_is_warned_of(tmp_path: Path, when: str) -> None:
    path = tmp_path / "bridge.yaml"
    rule = CAPPED.replace(
        "orchestration: order,", f"orchestration: order, {when}," if when else "orchestration: order,"
    )
    path.write_text(CONFIG.format(codec="json", source="", routes=rule))
    found = [each for each in inspect(load_config([path])).problems if each.path == "routes[0].limits.running"]
    assert [each.severity for each in found] == (["warning"] if when else [])
