"""Instances that move to another engine: starts go to the new one, everything else to the instance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from durabletask.entities import EntityInstanceId

from bridge.core.message import Message
from bridge.pipeline.breaker import Breaker
from tests.app.two_engines import FIRST, KINDS, MOVED, OLD, Runs, TwoEngines, two_engines
from tests.kit.waiting import eventually

pytestmark = pytest.mark.long


@pytest.fixture(params=KINDS)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TwoEngines]:
    async with two_engines(tmp_path, request.param) as made:
        yield made


async def test_starts_go_to_the_new_engine_and_events_to_the_instance(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        assert await run.send("placed", "1", "m-1") == "executed"
        assert await run.send("added", "stock", "m-2", by=2) == "executed"
        await run.becomes("old", "order-1", "RUNNING")
    async with it.daemon(MOVED) as run:
        assert await run.send("placed", "2", "m-3") == "executed"
        assert await run.send("placed", "1", "m-1") == "duplicate"
        assert await run.send("said", "1", "m-4", say="a") == "executed"
        assert await run.send("said", "2", "m-5", say="b") == "executed"
        assert await run.send("opened", "1", "m-6", say="c") == "executed"
        assert await run.send("cancelled", "1", "m-7") == "executed"
        assert await run.send("paused", "1", "m-8") == "executed"
        await run.becomes("old", "order-1", "SUSPENDED")
        assert await run.send("resumed", "1", "m-9") == "executed"
        assert await run.send("said", "1", "m-10", say="end") == "executed"
        assert await run.send("killed", "2", "m-11") == "executed"
        cancelled = {"reason": "because"}
        output = await run.becomes("old", "order-1", "COMPLETED")
        assert output == {"order": "m-1", "seen": ["a", "c", cancelled, "end"]}
        await run.becomes("new", "order-2", "TERMINATED")
        assert await run.status("new", "order-1") == await run.status("old", "order-2") == ""


async def test_entities_live_where_they_have_a_state(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("added", "stock", "m-1", by=2)
        await _counts(run, "old", "stock", 2)
    async with it.daemon(MOVED) as run:
        await run.send("added", "stock", "m-2", by=3)
        await run.send("added", "other", "m-3", by=5)
        await _counts(run, "old", "stock", 5)
        await _counts(run, "new", "other", 5)


async def test_repeats_of_the_messages_of_a_kept_instance_have_no_effect(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("opened", "1", "m-1")
        await run.send("opened", "1", "m-2", say="a")
        await run.send("said", "1", "m-3", say="end")
        await run.becomes("old", "order-1", "COMPLETED")
    async with it.daemon(MOVED) as run:
        for kind, message in (("opened", "m-1"), ("opened", "m-2"), ("said", "m-3")):
            assert await run.send(kind, "1", message) == "duplicate"
        # The policy of the route decides about other messages, as on one engine
        assert await run.send("placed", "1", "m-4") == "ignored"
        assert await run.send("said", "1", "m-5", say="late") == "dead_lettered"
        assert await run.status("new", "order-1") == ""
        assert await run.send("replaced", "1", "m-6") == "executed"
        await run.becomes("new", "order-1", "RUNNING")
        # The new run remembers the messages of the old one
        for kind, message in (("opened", "m-1"), ("opened", "m-2"), ("replaced", "m-6")):
            assert await run.send(kind, "1", message) == "duplicate", message
        assert await run.send("said", "1", "m-7", say="end") == "executed"
        assert await run.becomes("new", "order-1", "COMPLETED") == {"order": "m-6", "seen": ["end"]}
        assert await run.send("said", "1", "m-7", say="end") == "duplicate"


async def test_an_event_that_restarts_a_finished_instance_starts_it_on_the_new_engine(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("placed", "1", "m-1")
        await run.send("said", "1", "m-2", say="end")
        await run.becomes("old", "order-1", "COMPLETED")
    async with it.daemon(MOVED) as run:
        assert await run.send("revived", "1", "m-3", say="end") == "executed"
        assert await run.becomes("new", "order-1", "COMPLETED") == {"order": "m-1", "seen": ["end"]}
        assert await run.send("revived", "1", "m-3", say="end") == "duplicate"
        assert await run.send("said", "1", "m-2", say="end") == "duplicate"


async def test_early_messages_of_the_old_engine_follow_their_instance(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        assert await run.send("said", "1", "m-1", say="a") == "early"
    async with it.daemon(MOVED) as run:
        # Later messages wait behind them, on the old engine
        assert await run.send("said", "1", "m-2", say="b") == "early"
        assert await run.send("said", "2", "m-3", say="c") == "early"
        await _waits(run, "old", 2)
        await _waits(run, "new", 1)
        assert await run.send("placed", "1", "m-4") == "executed"
        assert await run.send("opened", "2", "m-5") == "executed"
        await _sees(run, "new", "order-1", ["a", "b"])
        await _sees(run, "new", "order-2", ["c"])
        await _waits(run, "old", 0)
        assert await run.send("said", "1", "m-6", say="end") == "executed"
        assert await run.becomes("new", "order-1", "COMPLETED") == {"order": "m-4", "seen": ["a", "b", "end"]}
        assert await run.send("said", "1", "m-1", say="a") == "duplicate"


async def test_early_messages_of_the_new_engine_find_an_instance_on_the_old_one(it: TwoEngines) -> None:
    async with it.daemon(MOVED) as run:
        assert await run.send("said", "1", "m-1", say="a") == "early"
        await _waits(run, "new", 1)
        # As a daemon with the former configuration would start it
        await run.daemon.engines["old"].client.schedule_new_orchestration("order", instance_id="order-1")
        await _sees(run, "old", "order-1", ["a"])
        await _waits(run, "new", 0)
        assert await run.send("said", "1", "m-2", say="end") == "executed"
        assert await run.becomes("old", "order-1", "COMPLETED") == {"order": None, "seen": ["a", "end"]}


async def test_an_answer_reaches_the_instance_that_asked(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("ask", "1", "m-1")
        correlation = await _request_of(run)
    async with it.daemon(MOVED) as run:
        await run.daemon.brokers["local"].publish(
            "answers", [Message(b'{"fine": true}', None, (("correlation-id", correlation.encode()),))]
        )
        assert await run.becomes("old", "asks-1", "COMPLETED") == {"fine": True}


async def test_the_first_configuration_reads_both_and_starts_on_the_old_engine(it: TwoEngines) -> None:
    async with it.daemon(MOVED) as run:
        await run.send("placed", "1", "m-1")
    async with it.daemon(FIRST) as run:
        assert await run.send("placed", "2", "m-2") == "executed"
        assert await run.send("placed", "1", "m-1") == "duplicate"
        assert await run.send("said", "1", "m-3", say="end") == "executed"
        await run.becomes("new", "order-1", "COMPLETED")
        await run.becomes("old", "order-2", "RUNNING")
        assert await run.send("said", "3", "m-4", say="a") == "early"
        await _waits(run, "old", 1)


async def test_while_one_engine_is_away_messages_wait_and_start_nothing(tmp_path: Path) -> None:
    async with two_engines(tmp_path, KINDS[2]) as it:
        async with it.daemon(OLD) as run:
            await run.send("placed", "1", "m-1")
        async with it.daemon(MOVED) as run:
            for name, other in (("old", "new"), ("new", "old")):
                await it.hosts[name].stop()
                await run.publish("placed", f"at-{name}", f"{name}-1")
                await run.publish("said", "1", f"{name}-2", say=name)
                breaker = run.daemon.breakers[name]
                await _until_open(breaker, True)
                assert run.daemon.breakers[other].error is None
                assert await run.status(other, f"order-at-{name}") == ""
                await it.hosts[name].start()
                await _until_open(breaker, False)
                await run.becomes("new", f"order-at-{name}", "RUNNING")
            await _sees(run, "old", "order-1", ["old", "new"])
            assert await run.status("old", "order-at-old") == await run.status("old", "order-at-new") == ""


async def test_daemons_of_the_first_and_the_second_step_find_the_instances_of_each_other(tmp_path: Path) -> None:
    async with (
        two_engines(tmp_path, KINDS[2]) as it,
        it.daemon(FIRST) as first,
        it.daemon(MOVED, name="b.yaml") as second,
    ):
        # Both are in one consumer group: each message goes to one of them, whichever that is
        for number in range(8):
            await first.publish("opened", str(number), f"a-{number}")
        await _settled(8, first, second)
        for number in range(8):
            await second.publish("opened", str(number), f"b-{number}", say="a")
            await first.publish("said", str(number), f"c-{number}", say="end")
        await _settled(24, first, second)
        for number in range(8):
            found = [await first.status(engine, f"order-{number}") for engine in ("old", "new")]
            assert sorted(found)[0] == "", f"order-{number} is on both engines: {found}"


async def test_a_daemon_that_knows_the_old_engine_only_starts_an_instance_again(tmp_path: Path) -> None:
    """The reason for the first step: without it nothing tells the old daemon of an instance on the new engine."""
    async with two_engines(tmp_path, KINDS[2]) as it:
        async with it.daemon(MOVED) as run:
            await run.send("placed", "1", "m-1")
        async with it.daemon(OLD) as run:
            assert await run.send("placed", "1", "m-2") == "executed"
        async with it.daemon(MOVED) as run:
            assert await run.status("old", "order-1") == await run.status("new", "order-1") == "RUNNING"
            # Messages then go to the old engine, until its instance ends
            assert await run.send("said", "1", "m-3", say="end") == "executed"
            await run.becomes("old", "order-1", "COMPLETED")
            assert await run.send("said", "1", "m-4", say="end") == "executed"
            await run.becomes("new", "order-1", "COMPLETED")


async def _until_open(breaker: Breaker, is_open: bool) -> None:
    await eventually(lambda: (breaker.error is not None) is is_open, f"{breaker.name} {'away' if is_open else 'back'}")


async def _settled(count: int, *runs: Runs) -> None:
    await eventually(lambda: sum(sum(run.outcomes().values()) for run in runs) == count, f"{count} settled messages")


async def _counts(run: Runs, engine: str, key: str, wanted: int) -> None:
    async def has_it() -> bool:
        found = await run.daemon.engines[engine].client.get_entity(EntityInstanceId("counter", key))
        return found is not None and orjson.loads(found.get_state() or "null") == wanted

    await eventually(has_it, f"{key} = {wanted} on {engine}")


async def _waits(run: Runs, engine: str, wanted: int) -> None:
    """Wait until this number of early messages waits on an engine."""
    totals = run.daemon.totals[engine]

    async def has_it() -> bool:
        await totals.count(run.daemon.engines[engine])
        return totals.counted.early == wanted

    await eventually(has_it, f"{wanted} early messages on {engine}")


async def _sees(run: Runs, engine: str, instance_id: str, wanted: list[str]) -> None:
    async def has_it() -> bool:
        found = await run.found(engine, instance_id)
        status = found and found.serialized_custom_status
        return bool(status) and orjson.loads(status)["seen"] == wanted

    await eventually(has_it, f"{instance_id} sees {wanted} on {engine}")


async def _request_of(run: Runs) -> str:
    """Return the correlation id of the request that a workflow has sent."""
    from bridge.brokers.base import SubscribeOptions
    from tests.kit.listener import NullListener

    subscription = await run.daemon.brokers["local"].subscribe(SubscribeOptions(("service",), "reader"), NullListener())
    try:
        [delivery] = await subscription.receive(1)
        return dict(delivery.message.headers)["correlation-id"].decode()
    finally:
        await subscription.close()
