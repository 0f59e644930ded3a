"""List of instances in parts, newest first: on the engine of the daemon, and on one behind a port."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import TIMEOUT

FLOWS = """
from bridge.workflow import Saga, Step
from durabletask import task


def nothing(ctx: task.ActivityContext, given):
    if given == "fails":
        raise ValueError("no")


def trip(ctx: task.OrchestrationContext, given):
    saga = Saga(ctx, "journey")

    def body():
        yield from saga.step(Step("stay", nothing, None, compensation=nothing, keyed=False))
        yield from saga.step(Step("go", nothing, given, keyed=False))

    return (yield from saga.run(body()))


def waits(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("go"))
"""
CONFIG = """
sources: {plain: {broker: local, topics: [plain], codec: json, no_match: ignore}}
routes: [{name: none, from: plain, ignore: {reason: nothing}}]
"""
STARTS = [
    *((f"trip-{each}", "trip", "fails" if each % 3 == 0 else None) for each in range(7)),
    *((f"waits-{each}", "waits", None) for each in range(4)),
    ("a,b c%", "trip", None),
]


async def _part(daemon: DaemonFixture, status: int = 200, **query: Any) -> Any:
    url = f"{daemon.daemon.url}/api/v1/instances"
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as response:
        assert response.status == status
        return await response.json()


async def _all(daemon: DaemonFixture, limit: int, **query: Any) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    cursor = "start"
    while cursor:
        part = await _part(daemon, cursor=cursor, limit=limit, **query)
        assert len(part["instances"]) <= limit
        assert part["all"] is None
        found += part["instances"]
        cursor = part["next"]
    return found


@pytest.mark.parametrize("engine", ENGINES)
async def test_parts_have_every_instance_once_the_newest_first(tmp_path: Path, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS, engine) as daemon:
        for instance_id, name, given in STARTS:
            await daemon.client.schedule_new_orchestration(name, input=given, instance_id=instance_id)
        for instance_id, name, _ in STARTS:
            if name == "trip":
                await daemon.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
            else:
                await daemon.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
        newest = [instance_id for instance_id, _, _ in reversed(STARTS)]
        filters: list[tuple[dict[str, Any], list[str]]] = [
            ({}, newest),
            ({"name": "trip"}, [each for each in newest if not each.startswith("waits")]),
            ({"name": "journey"}, [each for each in newest if not each.startswith("waits")]),
            ({"prefix": "waits-"}, [each for each in newest if each.startswith("waits")]),
            ({"prefix": "none"}, []),
            ({"statuses": "RUNNING"}, [each for each in newest if each.startswith("waits")]),
            ({"statuses": "FAILED,RUNNING", "name": "waits"}, [each for each in newest if each.startswith("waits")]),
            ({"outcomes": "compensated"}, ["trip-6", "trip-3", "trip-0"]),
            ({"outcomes": "compensation_failed"}, []),
            ({"created_to": "2001-01-01T00:00:00Z"}, []),
            ({"created_from": "2001-01-01T00:00:00Z"}, newest),
            ({"tags": json.dumps({"none": "x"})}, []),
            ({"completed_from": "2001-01-01T00:00:00Z"}, [each for each in newest if not each.startswith("waits")]),
        ]
        for query, expected in filters:
            for limit in (1, 5, 100):
                found = await _all(daemon, limit, **query)
                assert [each["instance_id"] for each in found] == expected, (query, limit)
        assert {each["outcome"] for each in await _all(daemon, 5, prefix="trip-")} == {"completed", "compensated"}
        assert (await _part(daemon, limit=2))["all"] == len(STARTS)


@pytest.mark.parametrize("cursor", ["x", "-1", "1e5", "9" * 19, "٣", ""])
async def test_a_foreign_cursor_and_a_large_part_are_refused(tmp_path: Path, cursor: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as daemon:
        assert "cursor" in (await _part(daemon, 422, cursor=cursor))["detail"]
        assert "limit" in (await _part(daemon, 422, cursor="start", limit=1_001))["detail"]
        assert "limit" in (await _part(daemon, 422, cursor="start", limit=0))["detail"]
