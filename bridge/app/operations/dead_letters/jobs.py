"""Kinds of jobs that drop and restore dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from bridge.dead_letters.state_machine import DeadLetterMark, DeadLetterState
from bridge.dead_letters.store import DeadLetterStates
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.base import Engine
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobKind
from bridge.jobs.store import JobStore

DROP_KIND = "drop"
RESTORE_KIND = "restore"

_SUCCEEDED = ItemResult(ItemOutcome.SUCCEEDED)


class DropKind:
    """Kind of the jobs that drop dead letters. Implements `bridge.jobs.kind.JobKind`.

    Items are ids (`orders.dlq/0@12`) of dead letters of one broker.
    Arguments of a job: `broker`, and `written`, the time of the youngest selected dead letter.
    """

    name = DROP_KIND
    item_space = None
    keeps_order = False

    def __init__(self, engine: Engine) -> None:
        self._states = DeadLetterStates(engine)

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        request = job.request
        refs = _refs(job, items)
        marks = await self._states.drop(job.id, refs.values(), by=request.by, reason=request.reason)
        return {item: _dropped(job.id, marks.get(ref)) for item, ref in refs.items()}


def _dropped(job: str, mark: DeadLetterMark | None) -> ItemResult:
    if mark is None:
        return ItemResult(ItemOutcome.FAILED, "the engine has not stored its state")
    if (mark.state, mark.job) == (DeadLetterState.DROPPED, job):
        return _SUCCEEDED
    return ItemResult(ItemOutcome.SKIPPED, _is(mark))


class RestoreKind:
    """Kind of the jobs that make dead letters open again. Implements `bridge.jobs.kind.JobKind`.

    Items: as of `DropKind`. Arguments of a job: `broker`, and `states`, those that it ends.
    """

    name = RESTORE_KIND
    item_space = None
    keeps_order = False

    def __init__(self, engine: Engine) -> None:
        self._states = DeadLetterStates(engine)
        self._jobs = engine

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        refs = _refs(job, items)
        states = tuple(map(DeadLetterState, job.request.arguments["states"]))
        before = await self._states.read(refs.values())
        active = await self._active({mark.job for mark in before.values() if mark.state is DeadLetterState.REPLAYING})
        wanted = [ref for ref, mark in before.items() if mark.state in states and mark.job not in active]
        after = await self._states.apply("restore", wanted, {"job": job.id, "states": states}) if wanted else {}
        results = {}
        for item, ref in refs.items():
            mark = before.get(ref)
            if mark is None:
                is_done = item in repeated
                results[item] = _SUCCEEDED if is_done else ItemResult(ItemOutcome.SKIPPED, "it is open already")
            elif mark.state not in states or mark.job in active:
                results[item] = ItemResult(ItemOutcome.SKIPPED, _is(mark))
            else:
                now = after.get(ref)
                results[item] = _SUCCEEDED if now is None else ItemResult(ItemOutcome.SKIPPED, _is(now))
        return results

    async def _active(self, jobs: set[str]) -> set[str]:
        """Unfinished ones of these jobs. Raises: EngineError."""
        store = JobStore(self._jobs)
        unfinished = await asyncio.gather(*(store.is_unfinished(each) for each in jobs))
        return {job for job, is_one in zip(jobs, unfinished, strict=True) if is_one}


def _refs(job: Job, items: Sequence[str]) -> dict[str, DeadLetterRef]:
    arguments = job.request.arguments
    return {item: DeadLetterRef.parse(arguments["broker"], item, arguments.get("written")) for item in items}


def _is(mark: DeadLetterMark) -> str:
    return f"it is {mark.state}" + (f" by job {mark.job}" if mark.job else "")


def dead_letter_kinds(engine: Engine) -> list[JobKind]:
    """Kinds of jobs on the states of dead letters of an engine."""
    return [DropKind(engine), RestoreKind(engine)]
