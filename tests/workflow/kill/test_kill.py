"""SIGKILL of the engine and its worker in every phase of a saga: each decision stays, and is taken once."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from durabletask import history

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT, eventually
from tests.workflow.kill.shop import STEPS

pytestmark = pytest.mark.long


class Shop:
    """Process of the saga, and its log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: ModuleProcess | None = None

    def start(self) -> None:
        self._process = ModuleProcess("tests.workflow.kill.shop", self.directory)
        assert self._process.read() == "ready"

    def kill(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def hold(self, name: str) -> None:
        (self.directory / f"hold-{name}").touch()

    def release_all(self) -> None:
        for hold in self.directory.glob("hold-*"):
            hold.unlink()

    @property
    def log(self) -> list[dict[str, str]]:
        path = self.directory / "log"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def saw(self, name: str, moment: str = "begin") -> Callable[[], bool]:
        return lambda: any(one["name"] == name and one["moment"] == moment for one in self.log)

    async def until(self, condition: Callable[[], bool]) -> None:
        await eventually(condition, poll=0.002)


async def attached(shop: Shop) -> EmbeddedEngine:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), shop.directory / "engine", host=False)
    await engine.start()
    return engine


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    one = Shop(tmp_path)
    one.start()
    yield one
    one.kill()


async def run(shop: Shop, plan: dict[str, Any], moment: Callable[[], bool] | float, after: str | None = None) -> Any:
    """Start a saga, kill the process at the moment, restart it, and return outcome and history.

    after: an event for the instance after the restart.
    """
    engine = await attached(shop)
    await engine.client.schedule_new_orchestration("shop", input=plan, instance_id="s-1")
    if callable(moment):
        await shop.until(moment)
    else:
        await asyncio.sleep(moment)
    shop.kill()
    await engine.stop()
    shop.release_all()
    shop.start()
    engine = await attached(shop)
    if after is not None:
        await engine.client.raise_orchestration_event("s-1", after, data={"reason": "asked"})
    state = await engine.client.wait_for_orchestration_completion("s-1", timeout=int(TIMEOUT))
    assert state is not None
    state.raise_if_failed()
    events = await engine.client.get_orchestration_history("s-1")
    outcome = state.get_output()
    shown = json.loads(state.serialized_custom_status or "{}")
    await engine.stop()
    assert shown["status"] == outcome["status"]
    check(shop.log, events, outcome)
    return outcome


def check(log: list[dict[str, str]], events: Any, outcome: dict[str, Any]) -> None:
    """Assert that steps and compensations ran at least once under stable keys, and that every decision was taken
    once."""
    keys = defaultdict(set)
    for one in log:
        keys[one["name"].removeprefix("do-").removeprefix("undo-")].add(one["key"])
    assert all(len(found) == 1 for found in keys.values()), keys
    assert len(set().union(*keys.values())) == len(keys)
    ended = {one["name"] for one in log if one["moment"] == "end"}
    assert {f"do-{name}" for name in outcome["completed"]} <= ended
    assert {f"undo-{name}" for name in outcome["compensated"]} <= ended
    assert "publish" in ended

    scheduled = [
        (event.name, json.loads(event.input)) for event in events if isinstance(event, history.TaskScheduledEvent)
    ]
    undone = [given["input"]["step"] for name, given in scheduled if name == "undo"]
    assert sorted(undone) == sorted(outcome["compensated"])
    begun = [given["input"]["step"] for name, given in scheduled if name == "do"]
    if outcome["status"] == "completed":
        assert (undone, sorted(set(begun))) == ([], sorted(STEPS))
    else:
        assert sorted(undone) == sorted(set(begun))
    assert [given["type"] for name, given in scheduled if name not in ("do", "undo")] == [f"shop.{outcome['status']}"]
    kinds = [name for name, _ in scheduled]
    if "undo" in kinds:
        assert "do" not in kinds[kinds.index("undo") :]
        # No activity of a step began after the compensation had begun, either.
        first = next(at for at, one in enumerate(log) if one["name"].startswith("undo-"))
        assert not any(one["name"].startswith("do-") for one in log[first:])


async def test_forward(shop: Shop) -> None:
    shop.hold("do-stock")
    outcome = await run(shop, {}, shop.saw("do-stock"))
    assert outcome["completed"] == list(STEPS) or sorted(outcome["completed"]) == sorted(STEPS)
    assert sum(one["name"] == "do-stock" and one["moment"] == "begin" for one in shop.log) == 2


async def test_parallel(shop: Shop) -> None:
    shop.hold("do-hotel")
    outcome = await run(shop, {}, lambda: shop.saw("do-flight", "end")() and shop.saw("do-hotel")())
    assert outcome["status"] == "completed"


async def test_waiting_for_an_event(shop: Shop) -> None:
    outcome = await run(shop, {"waits": True}, shop.saw("do-hotel", "end"), after="go")
    assert outcome["status"] == "completed"


async def test_waiting_and_cancelled_afterwards(shop: Shop) -> None:
    outcome = await run(shop, {"waits": True}, shop.saw("do-hotel", "end"), after="cancel")
    assert (outcome["status"], outcome["reason"], outcome["detail"]) == ("compensated", "cancelled", "asked")


async def test_between_two_attempts(shop: Shop) -> None:
    outcome = await run(shop, {"fails": "payment"}, shop.saw("do-payment", "end"))
    assert (outcome["status"], outcome["step"]) == ("compensated", "payment")
    assert sorted(outcome["compensated"]) == ["flight", "hotel", "payment", "stock"]


async def test_a_failed_branch(shop: Shop) -> None:
    shop.hold("do-hotel")
    outcome = await run(shop, {"fails": "flight"}, lambda: shop.saw("do-flight", "end")() and shop.saw("do-hotel")())
    assert (outcome["step"], sorted(outcome["compensated"])) == ("flight", ["flight", "hotel", "stock"])


@pytest.mark.parametrize("name", ["parcel", "hotel", "stock"])
async def test_compensating(shop: Shop, name: str) -> None:
    shop.hold(f"undo-{name}")
    outcome = await run(shop, {"fails": "parcel"}, shop.saw(f"undo-{name}"))
    assert (outcome["status"], outcome["step"]) == ("compensated", "parcel")
    assert outcome["compensated"][:2] == ["parcel", "payment"]
    assert outcome["compensated"][-1] == "stock"


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 6, 12, 25])
async def test_between_decision_and_status(shop: Shop, milliseconds: int) -> None:
    """The step has failed; the kill comes before, during or after the commit of its end, the decision and the
    status."""
    failed = shop.saw("do-parcel", "end")
    since: list[float] = []

    def moment() -> bool:
        now = asyncio.get_running_loop().time()
        if not since and failed():
            since.append(now)
        return bool(since) and now - since[0] >= milliseconds / 1000

    outcome = await run(shop, {"fails": "parcel"}, moment)
    assert (outcome["status"], outcome["step"]) == ("compensated", "parcel")


async def test_telling_the_outcome(shop: Shop) -> None:
    shop.hold("publish")
    outcome = await run(shop, {"fails": "stock"}, shop.saw("publish"))
    assert outcome["compensated"] == ["stock"]
    assert sum(one["name"] == "publish" and one["moment"] == "begin" for one in shop.log) == 2
