"""`bridge engine drain`, and the commands that find an instance on either of two engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.two_engines import FIRST, MOVED, NEW, OLD, Runs, TwoEngines, two_engines
from tests.kit.processes import bridge, run_bridge
from tests.kit.waiting import eventually

pytestmark = pytest.mark.long


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[TwoEngines]:
    async with two_engines(tmp_path) as made:
        yield made


async def _bridge(it: TwoEngines, *arguments: str, expect: int = 0) -> str:
    return await asyncio.to_thread(bridge, *arguments, cwd=it.directory, expect=expect)


async def _report(it: TwoEngines, *arguments: str, left: bool) -> Any:
    return json.loads(await _bridge(it, "engine", "drain", "old", "--json", *arguments, expect=int(left)))


async def test_a_report_names_all_that_is_left(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        for kind, id_ in (("placed", "1"), ("placed", "2"), ("ask", "1"), ("said", "early"), ("added", "stock")):
            await run.send(kind, id_, f"{kind}-{id_}", say="a", by=1)
        await run.send("cancelled", "2", "m-9")  # with a grace, whose timer is open
        await run.becomes("old", "order-1", "RUNNING")
        found = await _report(it, left=True)
        assert found["starts"][:2] == ["answered", "asking"]
        assert await _report(it, "--histories", "0", left=True) == found | {
            "timers": 0, "last_timer": None, "requests": 0, "examined": 0
        }  # fmt: skip
    async with it.daemon(MOVED) as run:

        async def is_complete() -> bool:
            found = await _report(it, left=True)
            return bool(found["requests"] == 1 and found["early"] == 1 and found["entities"] == {"counter": 1})

        await eventually(is_complete, "a report of the request, the early message and the entity", poll=0.5)
        found = await _report(it, left=True)
        assert found["starts"] == []
        assert found["instances"] == {"asks": 1, "order": 2}
        assert found["jobs"] == {"bridge.cancel": 1}
        assert found["sources"] == ["orders", "answers"]
        assert found["left"] == ["instances", "jobs", "early", "entities"]
        text = await _bridge(it, "engine", "drain", "old", expect=1)
        assert "left: unfinished instances: asks 1, order 2\n" in text
        assert text.endswith("engine old is not drained\n")


async def test_the_wait_ends_when_nothing_is_left(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("placed", "1", "m-1")
        await run.send("added", "stock", "m-2", by=1)
    async with it.daemon(MOVED) as run:
        waits = asyncio.create_task(
            _bridge(it, "engine", "drain", "old", "--wait", "--interval", "100ms", "--without-entities")
        )
        await run.send("said", "1", "m-3", say="end")
        assert (await waits).endswith("engine old is drained: remove it from `find`, then from `engines`\n")
        assert (await _report(it, left=True))["left"] == ["entities"]
        text = await _bridge(it, "engine", "drain", "old", "--wait", "--interval", "100ms", "--timeout", "1s", expect=1)
        assert "left: entities with a state: counter 1\n" in text


async def test_commands_find_an_instance_on_either_engine(it: TwoEngines) -> None:
    async with it.daemon(OLD) as run:
        await run.send("placed", "1", "m-1")
        await run.becomes("old", "order-1", "RUNNING")
    async with it.daemon(MOVED) as run:
        await run.send("placed", "2", "m-2")
        await run.becomes("new", "order-2", "RUNNING")
        for engine, id_, message in (("old", "order-1", "m-1"), ("new", "order-2", "m-2")):
            assert json.loads(await _bridge(it, "instances", "show", id_, "--json"))["instance_id"] == id_
            traced = json.loads(await _bridge(it, "trace", message, "--output", "json"))
            assert [each["instance_id"] for each in traced["instances"]] == [id_]
            await _bridge(it, "instances", "suspend", id_)
            await run.becomes(engine, id_, "SUSPENDED")
            assert await _bridge(it, "instances", "list", "--engine", engine, "--ids") == f"{id_}\n"
        for engine, id_ in (("old", "order-1"), ("new", "order-2")):
            await _bridge(it, "instances", "terminate", id_)
            await run.becomes(engine, id_, "TERMINATED")


async def test_the_state_of_sources_stays_on_the_old_engine(it: TwoEngines) -> None:
    async with it.daemon(OLD, "\n    quarantine: {}") as run:
        await run.send("revived", "none", "m-1")
        await _quarantined(run, "old", 1)
        await _bridge(it, "sources", "pause", "orders")
    async with it.daemon(MOVED, "\n    quarantine: {}") as run:
        await eventually(lambda: run.daemon.sources[0].paused, "the source is paused")
        found = await _report(it, left=True)
        assert found["quarantined"] == {"orders": 1}
        assert found["pauses"] == ["orders"]
        await _bridge(it, "sources", "resume", "orders")
        await run.daemon.engines["old"].client.schedule_new_orchestration("order", instance_id="order-none")
        await _bridge(it, "quarantine", "release", "--source", "orders", "--all", "--engine", "old")
        await _quarantined(run, "old", 0)
        await run.daemon.engines["old"].client.raise_orchestration_event("order-none", "event", data="end")
        assert (await run.becomes("old", "order-none", "COMPLETED"))["seen"][-1] == "end"


async def _quarantined(run: Runs, engine: str, wanted: int) -> None:
    totals = run.daemon.totals[engine]

    async def has_it() -> bool:
        await totals.count(run.daemon.engines[engine])
        return sum(each.keys for each in totals.counted.quarantined.values()) == wanted

    await eventually(has_it, f"{wanted} quarantined keys on {engine}")


SAMPLE = '{"body": {"type": "placed", "id": "1", "message": "m-1"}}\n'


async def test_a_comparison_notes_a_step_that_is_skipped(tmp_path: Path) -> None:
    async with two_engines(tmp_path, "scheduler to scheduler") as it:
        (it.directory / "samples.jsonl").write_text(SAMPLE)
        files = {word: it.write(engine, name=f"{word}.yaml") for word, engine in
                 (("old", OLD), ("first", FIRST), ("moved", MOVED), ("new", NEW))}  # fmt: skip
        said = {}
        for one, other in (("old", "first"), ("old", "moved"), ("old", "new"), ("first", "moved"), ("moved", "new")):
            done = await asyncio.to_thread(
                run_bridge, "diff", files[one], files[other], "--messages", "samples.jsonl", "--source", "orders",
                cwd=it.directory,
            )  # fmt: skip
            said[one, other] = [
                note for note in " ".join(done.stderr.split()).split("note: ") if note.startswith("route placed")
            ]
        assert said["old", "first"] == said["first", "moved"] == []
        assert len(said["old", "moved"]) == 1
        assert "First run all daemons with `engine: {start: old, find: [new, old]}`" in said["old", "moved"][0]
        assert len(said["old", "new"]) == 2
        assert len(said["moved", "new"]) == 1
        assert "`bridge engine drain old`" in said["moved", "new"][0]
