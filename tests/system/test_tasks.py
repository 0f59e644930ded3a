"""`bridge.system.tasks`: tasks that a library keeps from ending end all the same."""

from __future__ import annotations

import ast
import asyncio

import pytest

from bridge.system import tasks
from bridge.system.tasks import cancelled
from tests.kit.source import trees, walk
from tests.kit.waiting import TIMEOUT


async def test_a_lost_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_SECONDS", 0.01)
    lost = 0

    async def loses_one() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost += 1

    task = asyncio.create_task(loses_one())
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await cancelled(task)
    assert task.cancelled()
    assert lost == 1


async def test_failed_and_ended_tasks_are_none_of_its_errors() -> None:
    async def fails() -> None:
        raise ValueError("on purpose")

    async def fails_late() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("on purpose")

    failed, late = asyncio.create_task(fails()), asyncio.create_task(fails_late())
    await asyncio.sleep(0)
    await cancelled(failed, None, late)
    assert failed.done()
    assert isinstance(late.exception(), ValueError)
    await cancelled()


def test_no_part_of_the_bridge_awaits_a_cancelled_task_without_it() -> None:
    """After `cancel()`, `gather` and `wait` without a timeout would wait forever for a task that has lost it."""
    found = []
    for path, tree in trees(text=".cancel("):
        for function in walk(tree):
            if isinstance(function, ast.AsyncFunctionDef):
                calls = [each for each in walk(function) if isinstance(each, ast.Call)]
                lines = [
                    each.lineno for each in calls if isinstance(each.func, ast.Attribute) and each.func.attr == "cancel"
                ]
                ends = [
                    each for each in calls
                    if isinstance(each.func, ast.Attribute)
                    and isinstance(each.func.value, ast.Name)
                    and each.func.value.id == "asyncio"
                    and (
                        (each.func.attr == "gather" and any(one.arg == "return_exceptions" for one in each.keywords))
                        or (each.func.attr == "wait" and not each.keywords)
                    )
                ]  # fmt: skip
                if lines and any(each.lineno >= min(lines) for each in ends):
                    found.append(f"{path}:{function.name}")
    assert found == []
