"""Index of a remote engine: what became of messages, found without a search; its bounds, and what it costs.

The engine is behind a port, as a scheduler is; BRIDGE_SCHEDULER_ENDPOINT names a real one (`make prove-scheduler`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from durabletask.client import EntityQuery
from prometheus_client.parser import text_string_to_metric_families

from bridge.app.operations.lineage.trace import TraceResult
from bridge.core.system_names import LINEAGE_INDEX
from bridge.engines.lineage_index import LineageIndex
from tests.app.test_trace import CONFIG, Bridge, short, traced
from tests.kit.waiting import TIMEOUT, eventually

ENDPOINT = os.environ.get("BRIDGE_SCHEDULER_ENDPOINT")
TASKHUB = os.environ.get("BRIDGE_SCHEDULER_TASKHUB", "default")
RUN = f"{datetime.now(UTC):%m%d%H%M%S}"
"""Part of all ids: a real task hub keeps those of earlier runs."""

_LATE = """  - name: short
    from: orders
    match: {type: short}
    raise_event: {instance_id: "never-{{ payload.id }}", name: x, on_missing: {wait: 200ms}}
"""


def own(id_: str) -> str:
    return f"{id_}-{RUN}"


@asynccontextmanager
async def indexed(directory: Path, shards: str = "number: 5, pause: 50ms", **more: Any) -> AsyncIterator[Indexed]:
    """Start a daemon whose remote engine has an index."""
    hub = {} if ENDPOINT is None else {"endpoint": ENDPOINT, "settings": f", task_hub: {TASKHUB}"}
    more = {"lineage": f"all, shards: {{{shards}}}", "engine": "behind a port", "config": CONFIG + _LATE, **hub, **more}
    async with traced(directory, **more) as it:
        yield Indexed(it.it)


class Indexed(Bridge):
    @property
    def index(self) -> LineageIndex:
        index = self.it.daemon.engines["default"].lineage
        assert index is not None
        return index

    async def send(self, kind: str, id_: str, order: str, topic: str = "orders", count: int = 1) -> None:
        await super().send(kind, own(id_), own(order), topic, count)

    async def written(self) -> None:
        """Return when all rows were written, and the entities have them."""
        query = EntityQuery(f"@{LINEAGE_INDEX}@", include_state=False, include_transient=True)
        async with asyncio.timeout(TIMEOUT):
            while True:
                await self.index.write()
                found = await self.it.client.get_all_entities(query)
                if not self.index.buffered and not any(each.backlog_queue_size for each in found):
                    return
                await asyncio.sleep(0.02)

    async def indexed(self, wanted: str) -> TraceResult:
        """Result that the index alone gives."""
        await self.written()
        found = await self.find(wanted)
        assert (found.searched, found.index, found.index_bounded) == (0, "partial", True), wanted
        return found

    async def outcome(self, wanted: str, outcome: str) -> dict[str, Any]:
        """Answer of this outcome, from the index, when it has it."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                await self.written()
                found = await self.find(wanted)
                answers = [each for each in found.answers if each.outcome == outcome]
                if answers and not found.searched:
                    assert (found.index, found.index_bounded) == ("partial", True)
                    return {name: getattr(answers[0], name) for name in answers[0].__slots__}
                await asyncio.sleep(0.02)


async def test_executed_and_duplicate(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        await it.send("created", "c-1", "1")
        await it.send("created", "c-1", "1", count=2)
        assert it.it.outcomes() == {"executed": 1, "duplicate": 1}
        for wanted in (f"/shop {own('c-1')}", own("c-1"), "orders/0@0"):
            answer = await it.outcome(wanted, "executed")
            assert (answer["instance_id"], answer["route"], answer["what"]) == (f"order-{own('1')}", "start", "start")
            assert short(answer) == "orders/0@0"
        second = await it.outcome("orders/0@1", "duplicate")
        assert short(second) == "orders/0@1"
        assert second["duplicate_of"].endswith("/orders/0@0")


async def test_commands_that_no_history_names(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        await it.send("created", "c-1", "2")
        await it.send("counted", "s-1", "7", count=2)
        await it.send("stopped", "t-1", "2", count=3)
        signal, stop = await it.outcome(own("s-1"), "executed"), await it.outcome("orders/0@2", "executed")
        assert (signal["entity"], signal["what"], signal["route"]) == (f"@counter@{own('7')}", "signal add", "count")
        assert (stop["instance_id"], stop["what"], stop["message_id"]) == (
            f"order-{own('2')}", "terminate", f"/shop {own('t-1')}",
        )  # fmt: skip


async def test_early_until_it_is_delivered(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        await it.send("early", "e-1", "3")
        for wanted in (own("e-1"), "orders/0@0"):
            answer = await it.outcome(wanted, "early")
            assert (answer["instance_id"], answer["route"]) == (f"order-{own('3')}", "late")
        await it.send("created", "c-1", "3", count=2)
        delivered = await it.outcome(own("e-1"), "executed")
        assert (delivered["instance_id"], delivered["what"]) == (f"order-{own('3')}", "event paid")


async def test_quarantined_behind_another(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        await it.send("created", "k-1", "dock", topic="keyed")
        await it.send("created", "k-2", "dock", topic="keyed", count=2)
        first, second = await it.outcome(own("k-1"), "quarantined"), await it.outcome("keyed/0@1", "quarantined")
        assert (first["reason"], first["key"]) == ("instance_not_found", own("dock"))
        assert (second["reason"], second["message_id"]) == ("follows", f"/shop {own('k-2')}")
        by_key = await it.indexed(own("dock"))
        assert [answer.message_id for answer in by_key.answers] == [f"/shop {own('k-1')}", f"/shop {own('k-2')}"]


async def test_dead_lettered_at_once_and_after_a_wait(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        await it.send("gone", "g-1", "4")
        await it.send("short", "w-1", "4", count=2)
        at_once, late = await it.outcome(own("g-1"), "dead_lettered"), await it.outcome(own("w-1"), "dead_lettered")
        for answer, reason, route in ((at_once, "instance_not_found", "gone"), (late, "early_expired", "short")):
            assert (answer["reason"], answer["route"], answer["topic"]) == (reason, route, "orders.dlq")
        assert short(await it.outcome("orders/0@1", "dead_lettered")) == "orders/0@1"


async def test_up_and_down_through_publications(tmp_path: Path) -> None:
    async with indexed(tmp_path) as it:
        one, two = f"order-{own('5')}", f"ship-{own('5')}"
        await it.send("created", "c-1", "5")
        await it.send("paid", "p-1", "5", count=2)
        await it.it.client.wait_for_orchestration_completion(one, timeout=TIMEOUT)

        async def reached() -> object:
            return (await it.find(two)).instances

        await eventually(reached)
        await it.it.client.wait_for_orchestration_completion(two, timeout=TIMEOUT)
        await it.it.settled(3)
        down, up = await it.indexed(own("c-1")), await it.indexed(two)
        assert [each.instance_id for each in down.downstream] == [two]
        assert [each.instance_id for each in up.upstream] == [one]
        [published] = down.instances[0].publications
        answers = [(each.outcome, each.instance_id) for each in (await it.indexed(published.id)).answers]
        assert sorted(answers) == [("executed", two), ("published", one)]


async def test_rows_beyond_their_bound_are_found_by_a_search(tmp_path: Path) -> None:
    async with indexed(tmp_path, "number: 1, ids: 4, pause: 50ms") as it:
        for number in range(4):
            await it.send("created", f"c-{number}", f"b{number}", count=number + 1)
            await it.written()
        assert (await it.indexed(own("c-3"))).instances
        found = await it.find(own("c-0"))
        assert (found.index, found.index_bounded) == ("partial", True)
        assert [one.instance_id for one in found.instances] == [f"order-{own('b0')}"]
        assert found.searched > 0
        assert found.index_since is not None
        assert it.index.events["removed"] >= 4


async def test_one_write_for_many_messages(tmp_path: Path) -> None:
    async with indexed(tmp_path, "number: 2, pause: 1h") as it:
        for number in range(20):
            await it.send("created", f"m-{number}", f"m{number}", count=number + 1)
        assert it.index.buffered == 40
        before = _signals(it)
        await it.written()
        assert _signals(it) - before == 2, "one for each shard"
        assert (await it.indexed(own("m-7"))).instances
        scraped = {
            (sample.name, sample.labels.get("event")): sample.value
            for family in text_string_to_metric_families((await it.it.daemon.watch.scrape()).decode())
            for sample in family.samples
        }
        assert scraped["bridge_lineage_rows_total", "written"] == 40
        assert scraped["bridge_lineage_rows_buffered", None] == 0


async def test_a_drain_writes_what_is_left(tmp_path: Path) -> None:
    async with indexed(tmp_path, "number: 2, pause: 1h") as it:
        await it.send("created", "d-1", "d1")
        index = it.index
        assert index.buffered == 2
        await it.it.daemon.engines["default"].stop()
        assert (index.buffered, index.events["written"], index.events["dropped"]) == (0, 2, 0)


async def test_without_it_the_trace_searches(tmp_path: Path) -> None:
    async with indexed(tmp_path, lineage="embedded") as it:
        assert it.it.daemon.engines["default"].lineage is None
        await it.send("created", "n-1", "n1")
        found = await it.find(own("n-1"))
        assert (found.index, found.index_bounded) == ("none", False)
        assert found.searched > 0
        query = EntityQuery(f"@{LINEAGE_INDEX}@", include_state=False, include_transient=True)
        if ENDPOINT is None:
            assert await it.it.client.get_all_entities(query) == []


def _signals(it: Indexed) -> int:
    requests = it.it.client.requests
    return sum(sum(each.counts) for (command, _), each in requests.items() if command == "signal_entity")
