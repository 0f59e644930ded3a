"""Operations of the bridge on an engine that applies them late, and does not count them meanwhile."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.core.states import DeadLetterState
from bridge.dead_letters.state_machine import BlockStates
from bridge.dead_letters.store import DeadLetterStates
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.base import Engine
from bridge.engines.entities.source_entities import Pause, SourcePauses
from bridge.jobs.entities import JobEntities
from bridge.replay.edits import ReplayEdits
from tests.jobs.test_on_engine import CONFIG, FLOWS, JobsFixture, ScriptedKind, named
from tests.kit.daemon import running
from tests.kit.processes import sidecar

REFS = [DeadLetterRef("local", "orders.dlq", 0, offset) for offset in range(3)]

_SECONDS = 0.2
"""Seconds of an operation: a read in the meantime shows the state before it, and no waiting operation."""


def _late(operate: Callable[..., Any]) -> Callable[..., Any]:
    def late(*arguments: Any) -> Any:
        time.sleep(_SECONDS)
        return operate(*arguments)

    return late


@pytest.fixture
async def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[JobsFixture]:
    kind = ScriptedKind()
    for name in ("_record", "_page", "_registry"):
        monkeypatch.setattr(JobEntities, name, _late(getattr(JobEntities, name)))
    monkeypatch.setattr(BlockStates, "apply", _late(BlockStates.apply))
    with sidecar() as endpoint:
        async with running(tmp_path, CONFIG, FLOWS, endpoint=f"http://{endpoint}", kinds=[kind]) as daemon:
            yield JobsFixture(daemon, kind)


@pytest.fixture
def engine(jobs: JobsFixture) -> Engine:
    return jobs.engine


@pytest.mark.parametrize("options", [{}, {"ramp": (1, 10), "stop_after_failures": 5}])
async def test_a_job_neither_ends_early_nor_waits_for_ever(jobs: JobsFixture, options: dict[str, Any]) -> None:
    items = named(230)
    job = await jobs.submit(items, **options)
    assert (await jobs.store.record(job)).id == job
    record = await jobs.done(job)
    assert record.counts["succeeded"] == len(items)
    assert sorted(jobs.kind.worked) == sorted(items)
    assert all(not repeated for _, _, repeated in jobs.kind.calls)


async def test_a_change_of_dead_letters_returns_their_states(engine: Engine) -> None:
    states = DeadLetterStates(engine)
    taken = await states.take("a", REFS[:2])
    assert {ref: (mark.state, mark.job) for ref, mark in taken.items()} == dict.fromkeys(
        REFS[:2], (DeadLetterState.REPLAYING, "a")
    )
    dropped = await states.drop("b", REFS, by="ada", reason="old")
    assert [dropped[ref].state for ref in REFS] == ["replaying", "replaying", "dropped"]
    assert await states.apply("restore", REFS[2:], {"job": "c", "states": (DeadLetterState.DROPPED,)}) == {}


async def test_a_job_gets_dead_letters_that_another_one_has_just_left(engine: Engine) -> None:
    states = DeadLetterStates(engine)
    await states.take("a", REFS)
    await states.send("open", REFS, {"job": "a"})
    taken = await states.take("b", REFS)
    assert {(mark.state, mark.job) for mark in taken.values()} == {(DeadLetterState.REPLAYING, "b")}


async def test_a_pause_and_an_edit_are_stored(engine: Engine) -> None:
    pauses, edits = SourcePauses(engine), ReplayEdits(engine)
    await pauses.pause("orders", Pause(time.time(), "ada"))
    assert set(await pauses.load()) == {"orders"}
    await pauses.resume("orders")
    assert await pauses.load() == {}
    await edits.store("one", b"body")
    assert await edits.read("one") == b"body"
