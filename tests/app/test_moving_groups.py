"""A move between two engines with several daemons: over Kafka in rebalances, with replays, in status and page."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.app.serve.reload.reloader import Files, Reloader
from tests.app.two_engines import FIRST, KINDS, MOVED, OLD, Runs, TwoEngines, two_engines
from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually

ORDERS, PART = 30, 5


@pytest.fixture
def kafka() -> Iterator[str]:
    server = ThreadedServer()
    yield f'type: kafka, bootstrap_servers: "{server.bootstrap}", create_topics: true'
    server.stop()


class Load:
    """Starts of orders with growing numbers, each published three times."""

    def __init__(self) -> None:
        self.count = 0

    async def publish(self, run: Runs, orders: int) -> None:
        """Publish the starts of further orders, in parts between which other work runs."""
        for _ in range(orders // PART):
            part = range(self.count, self.count + PART)
            self.count = part.stop
            for _ in range(3):
                for number in part:
                    await run.publish("placed", str(number), f"m-{number}")

    async def publish_until(self, run: Runs, condition: Callable[[], object]) -> None:
        """Publish starts until a condition holds, and at most 2,000."""
        while not condition() and self.count < 2000:
            await self.publish(run, PART)


async def _move(it: TwoEngines, run: Runs) -> None:
    """Reload a daemon from the first step of a move to the second."""
    reloader = Reloader(run.daemon, Files([it.write(MOVED)]))
    answer = await reloader.reload("a test")
    assert answer["problems"] == [], answer


async def _places(run: Runs, numbers: range) -> Counter[str]:
    """Number of orders on each engine. Fails for an order on both, and waits for one on neither."""
    found: Counter[str] = Counter()
    for number in numbers:

        async def engines(number: int = number) -> list[str]:
            return [name for name in ("old", "new") if await run.status(name, f"order-{number}")]

        [name] = await eventually(engines, f"order-{number}")
        found[name] += 1
    return found


@pytest.mark.timeout(240)
async def test_starts_over_kafka_are_neither_lost_nor_doubled_by_rebalances_and_reloads(
    tmp_path: Path, kafka: str
) -> None:
    async with two_engines(tmp_path, KINDS[2]) as it:
        it.broker = kafka
        async with it.daemon(FIRST) as one:
            load = Load()
            # The second daemon joins the group under load; then each of them goes to the second step, one after another
            async with it.daemon(FIRST, name="second.yaml") as two:
                await load.publish_until(one, lambda: sum(two.outcomes().values()))
                loading = asyncio.create_task(load.publish(one, ORDERS))
                await _move(it, one)
                await loading
                loading = asyncio.create_task(load.publish(two, ORDERS))
                await _move(it, two)
                await loading
                moved = load.count
                loading = asyncio.create_task(load.publish(one, ORDERS))
            # The second daemon leaves under load
            await loading
            found = await _places(one, range(load.count))
            assert found.total() == load.count
            assert found["old"] > 0
            assert (await _places(one, range(moved, load.count)))["old"] == 0
            outcomes = Counter(one.outcomes()) + Counter(two.outcomes())
            assert outcomes["executed"] == load.count, outcomes
            assert outcomes.keys() == {"executed", "duplicate"}


async def test_a_replayed_dead_letter_reaches_its_instance_on_the_old_engine(tmp_path: Path) -> None:
    async with two_engines(tmp_path, KINDS[2]) as it:
        async with it.daemon(OLD) as run:
            assert await run.send("revived", "1", "m-1", say="a") == "dead_lettered"
            assert await run.send("placed", "1", "m-2") == "executed"
        async with it.daemon(MOVED) as run:
            replay = ("dlq", "replay", "orders", "--all", "--reason", "the order is there", "--yes")
            await asyncio.to_thread(bridge, *replay, cwd=tmp_path)
            await _sees(run, ["a"])
            assert await run.send("said", "1", "m-3", say="end") == "executed"
            assert await run.becomes("old", "order-1", "COMPLETED") == {"order": "m-2", "seen": ["a", "end"]}
            assert await run.status("new", "order-1") == ""
            # Jobs and the states of dead letters stay on the last engine of `find`
            jobs = json.loads(await asyncio.to_thread(bridge, "jobs", "list", "-o", "json", cwd=tmp_path))
            assert [each["engine"] for each in jobs] == ["old"]
            assert json.loads(await asyncio.to_thread(bridge, "dlq", "list", "-o", "json", cwd=tmp_path)) == []


async def test_status_and_page_have_both_engines(tmp_path: Path) -> None:
    async with two_engines(tmp_path, KINDS[2]) as it:
        async with it.daemon(OLD) as run:
            await run.send("placed", "1", "m-1")
        it.write(MOVED)
        with await asyncio.to_thread(DaemonProcess, tmp_path) as daemon:
            await asyncio.to_thread(bridge, "publish", "orders", "--key", "2", "--data", _placed("2"), cwd=tmp_path)
            await asyncio.to_thread(daemon.wait, lambda: daemon.settled() == 1, "a settled message")
            status = json.loads(await asyncio.to_thread(bridge, "status", "--json", cwd=tmp_path))
            assert {each["name"]: each["state"] for each in status["engines"]} == {"old": "up", "new": "up"}
            for number, engine in (("1", "old"), ("2", "new")):
                code, text = await asyncio.to_thread(daemon.get, f"/api/v1/instances/order-{number}")
                assert (code, json.loads(text)["status"]) == (200, "RUNNING")
                listed = await asyncio.to_thread(bridge, "instances", "list", "--engine", engine, "--ids", cwd=tmp_path)
                assert listed == f"order-{number}\n"
                code, text = await asyncio.to_thread(daemon.get, f"/instances/order-{number}")
                assert code == 200
                assert f"order-{number}" in text
            code, text = await asyncio.to_thread(daemon.get, "/")
            assert code == 200
            assert all(f">{name}<" in text for name in ("old", "new"))
            await asyncio.to_thread(daemon.stop)


async def _sees(run: Runs, wanted: list[str]) -> None:
    async def has_it() -> bool:
        found = await run.found("old", "order-1")
        return json.loads(found.serialized_custom_status or "{}").get("seen") == wanted

    await eventually(has_it, f"order-1 sees {wanted}")


def _placed(id_: str) -> str:
    return json.dumps({"type": "placed", "id": id_, "message": f"m-{id_}"})
