"""Kinds of jobs that drop and restore dead letters: results of each item, also when the work is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.app.operations.dead_letters.jobs import DropKind, RestoreKind
from bridge.app.serve.daemon import Daemon
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.dead_letters.store import DeadLetterStates
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.jobs.kind import Job, JobKind, JobRequest
from bridge.jobs.store import JobStore
from tests.app.test_dead_letter_states import LOCAL, dead_letters, fill, serving


async def work(
    kind: JobKind, job: str, refs: Sequence[DeadLetterRef], repeated: bool = False, **arguments: Any
) -> list[tuple[str, str]]:
    request = JobRequest(kind.name, {"broker": "broker", "written": None, **arguments}, by="ann", reason="test")
    items = [ref.id for ref in refs]
    found = await kind.work(Job(job, request), 0, items, items if repeated else ())
    return [(found[item].result.value, found[item].detail) for item in items]


def kinds(daemon: Daemon) -> tuple[DropKind, RestoreKind, DeadLetterStates]:
    engine = daemon.engines["default"]
    return DropKind(engine), RestoreKind(engine), DeadLetterStates(engine)


async def test_each_dead_letter_has_one_result(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        await fill(daemon, 4)
        drop, restore, states = kinds(daemon)
        refs = await dead_letters(daemon, "orders.dlq")
        await states.take("replay", refs[:1])
        done = ("succeeded", "")
        expected = [("skipped", "it is replaying by job replay"), done, done, done]
        assert await work(drop, "a", refs) == expected
        assert await work(drop, "a", refs, repeated=True) == expected, "a crash repeats the work"
        assert await work(drop, "b", refs[1:]) == [("skipped", "it is dropped by job a")] * 3
        assert await work(restore, "c", refs[:3], states=["dropped"]) == [
            ("skipped", "it is replaying by job replay"), done, done,
        ]  # fmt: skip
        assert await work(restore, "c", refs[1:3], repeated=True, states=["dropped"]) == [done, done]
        assert await work(restore, "d", refs[1:3], states=["dropped"]) == [("skipped", "it is open already")] * 2


async def test_a_dead_letter_of_an_unfinished_job_is_not_restored(tmp_path: Path) -> None:
    async with serving(tmp_path, *LOCAL) as daemon:
        await fill(daemon, 3)
        _, restore, states = kinds(daemon)
        refs = await dead_letters(daemon, "orders.dlq")

        async def items() -> Any:
            for ref in refs[:2]:
                yield ref.id

        store = JobStore(daemon.engines["default"])
        request = JobRequest("drop", {"broker": "broker", "written": None}, rate=0.001, by="ann", reason="test")
        submitted = await store.submit(request, items(), None)
        assert submitted is not None
        await states.take(submitted[0], refs[2:])
        given: dict[str, Any] = {"states": ["replaying"]}
        assert await work(restore, "r", refs[2:], **given) == [("skipped", f"it is replaying by job {submitted[0]}")]
        await store.control(submitted[0], "abort", "ann", None)
        assert await work(restore, "r", refs[2:], **given) == [("succeeded", "")]
        # A job that the engine does not know any more has ended
        await states.take("unknown", refs[2:])
        assert await work(restore, "s", refs[2:], **given) == [("succeeded", "")]


async def test_a_job_whose_creation_no_worker_has_processed_is_unfinished(tmp_path: Path) -> None:
    engine = EmbeddedEngine("default", EmbeddedEngineConfig(type="embedded"), tmp_path / "engine", host=True)
    await engine.start()
    try:

        async def items() -> Any:
            yield "0:1"

        request = JobRequest("drop", {"broker": "broker", "written": None}, by="ann", reason="test")
        submitted = await JobStore(engine).submit(request, items(), None)
        assert submitted is not None
        assert await RestoreKind(engine)._active({submitted[0], "unknown"}) == {submitted[0]}
    finally:
        await engine.stop()
