"""Repeated SIGKILL at random moments of an engine and a worker with random sagas."""

from __future__ import annotations

import asyncio
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from durabletask import history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.kit.processes import ModuleProcess
from tests.workflow.invariants import Decision, check, decision, received
from tests.workflow.kill.grove import instance
from tests.workflow.trees import Wood, woods

pytestmark = pytest.mark.long


@dataclass(frozen=True, repr=False)
class Forest:
    """Sagas of one test run; their representation is short in failure reports."""

    woods: list[Wood]


async def run(directory: Path, kills: list[float]) -> None:
    """Run all sagas; kill the process each number of seconds after it was ready."""
    for lives in (*kills, None):
        with ModuleProcess("tests.workflow.kill.grove", directory) as process:
            assert await process.line() == "ready"
            try:
                async with asyncio.timeout(lives):
                    assert await process.line() == "done"
                    await process.ended()
            except TimeoutError:
                assert lives is not None


def decisions(events: Sequence[history.HistoryEvent]) -> tuple[list[Decision], list[dict[str, Any]]]:
    """Return the decisions about steps and the publications in a history."""
    ends: dict[int, tuple[int, bool]] = {}
    for at, event in enumerate(events):
        match event:
            case history.TaskCompletedEvent() | history.TaskFailedEvent():
                ends[event.task_scheduled_id] = at, isinstance(event, history.TaskCompletedEvent)
            case history.SubOrchestrationInstanceCompletedEvent() | history.SubOrchestrationInstanceFailedEvent():
                worked = isinstance(event, history.SubOrchestrationInstanceCompletedEvent)
                ends[event.task_scheduled_id] = at, worked
    found, published, turn = [], [], 0
    for at, event in enumerate(events):
        if isinstance(event, history.OrchestratorStartedEvent):
            turn += 1
        elif isinstance(event, history.TaskScheduledEvent | history.SubOrchestrationInstanceCreatedEvent):
            data = json.loads(event.input or "null")
            over, worked = ends.get(event.event_id, (None, False))
            one = decision(event.name, data, turn, at, over, worked)
            if one is not None:
                found.append(one)
            if event.name == "bridge.publish":
                published.append(data)
    return found, published


def runs(directory: Path) -> Iterator[str]:
    """Return the activities that ran, with their keys."""
    yield from (path.name for path in directory.glob("*do-*"))


async def judge(directory: Path, all_woods: list[Wood]) -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), directory / "engine", host=True)
    await engine.start()
    try:
        decided = set()
        for number, wood in enumerate(all_woods):
            state = await engine.client.get_orchestration_state(instance(number))
            assert state is not None
            state.raise_if_failed()
            outcome = state.get_output()
            steps = json.loads(state.serialized_custom_status or "{}")["steps"]
            found, published = decisions(await engine.client.get_orchestration_history(instance(number)))
            try:
                check(wood, outcome, steps, found)
                received(published, outcome)
            except AssertionError as error:
                error.add_note(f"{wood}\n{outcome}")
                raise
            decided |= {f"{'undo' if one.undo else 'do'}-{one.key.replace('/', '-')}" for one in found}
        assert set(runs(directory)) <= decided
    finally:
        await engine.stop()


forests = st.builds(Forest, st.lists(woods, min_size=16, max_size=16, unique_by=repr))
moments = st.lists(st.floats(0.0, 0.7), min_size=4, max_size=4)


def outlive(forest: Forest, kills: list[float]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "woods").write_bytes(pickle.dumps(forest.woods))
        asyncio.run(run(directory, kills))
        asyncio.run(judge(directory, forest.woods))


@settings(max_examples=2, deadline=None, phases=[Phase.generate], derandomize=True)
@given(forest=forests, kills=moments)
def test_kills_at_any_moment(forest: Forest, kills: list[float]) -> None:
    outlive(forest, kills)


@pytest.mark.prove
@pytest.mark.timeout(600)  # a limit for a hang: each wait has its own limit
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
@given(forest=forests, kills=moments)
def test_many_kills_at_any_moment(forest: Forest, kills: list[float]) -> None:
    outlive(forest, kills)
