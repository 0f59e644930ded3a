"""Messages that race to restart the same finished instance, each from a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import RaiseEvent, ScheduleOrchestration
from bridge.core.origin import MessageOrigin
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.engines.contract import harness
from tests.engines.correlation import deliver
from tests.engines.restart_child import INSTANCE, command
from tests.kit.processes import ModuleProcess

MESSAGES = ("m-1", "m-2")


class Member:
    """Process that delivers one message."""

    def __init__(self, directory: Path, verb: str, message: str) -> None:
        self._process = ModuleProcess("tests.engines.restart_child", directory, verb, message)

    async def says(self) -> str:
        return await self._process.line()

    async def go_on(self) -> str:
        """Let the member continue. Returns the result of its delivery."""
        self._process.write()
        said = await self.says()
        assert await self._process.ended() == 0
        self._process.end()
        return said


@pytest_asyncio.fixture(name="hosted")
async def _hosted(tmp_path: Path) -> AsyncIterator[Any]:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    await engine.start()
    async with harness(engine) as running:
        yield running, tmp_path / "engine"
    await engine.stop()


@pytest_asyncio.fixture(name="held")
async def _held(hosted: Any, verb: str) -> list[Member]:
    """Members that have read the state of the same finished instance and are about to replace it."""
    running, directory = hosted
    first = ScheduleOrchestration("ledger", INSTANCE, "m-0+" if verb == "raise_event" else "m-0")
    assert await deliver(running, first, MessageOrigin("m-0", "r")) == "done"
    if verb == "raise_event":
        assert await deliver(running, RaiseEvent(INSTANCE, "entry", "e-0"), MessageOrigin("e-0", "r")) == "done"
    await running.finished(INSTANCE)
    members = [Member(directory, verb, message) for message in MESSAGES]
    assert await asyncio.gather(*(member.says() for member in members)) == ["held"] * len(MESSAGES)
    return members


async def noted_after_redelivery(running: Any, verb: str) -> list[str]:
    """Redeliver each message, then return the notes of all generations."""
    await running.finished(INSTANCE)
    for message in ("m-0", *MESSAGES):
        assert await deliver(running, command(verb, message), MessageOrigin(message, "r")) == "repeat"
    await running.finished(INSTANCE)
    return await running.noted(1 + len(MESSAGES))


@pytest.mark.parametrize(
    ("verb", "noted"),
    [
        ("schedule", ["m-0", "m-1", "m-2"]),
        ("start_or_raise", ["m-0", "m-1", "m-2"]),
        ("raise_event", ["m-0+e-0", "m-0+m-1", "m-0+m-2"]),
    ],
)
async def test_who_comes_late_knows_what_has_run_between(
    hosted: Any, held: list[Member], verb: str, noted: list[str]
) -> None:
    running, _ = hosted
    for member in held:
        assert await member.go_on() == "done"
        await running.finished(INSTANCE)
    assert await noted_after_redelivery(running, verb) == noted


@pytest.mark.parametrize("verb", ["schedule"])
async def test_all_at_the_same_moment(hosted: Any, held: list[Member], verb: str) -> None:
    running, _ = hosted
    assert await asyncio.gather(*(member.go_on() for member in held)) == ["done"] * len(MESSAGES)
    first, *others = await noted_after_redelivery(running, verb)
    assert (first, sorted(others)) == ("m-0", list(MESSAGES))
