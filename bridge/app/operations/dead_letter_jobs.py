"""Kinds of jobs that drop and restore dead letters, their selection and their submission."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bridge.app.dead_letters.groups import at_partition, choice_of, read_rows
from bridge.app.dead_letters.reading import PlaceStates, Selection, visit
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import InvalidCommand
from bridge.dead_letters.state_machine import DeadLetterState, Mark
from bridge.dead_letters.store import DeadLetterRef, DeadLetterStates
from bridge.engines.base import Engine
from bridge.jobs.kind import ItemResult, Job, JobKind, JobRequest, Result
from bridge.jobs.store import MAX_ITEMS, JobStore

DROP_KIND = "drop"
RESTORE_KIND = "restore"

_SUCCEEDED = ItemResult(Result.SUCCEEDED)


class DropDeadLetters:
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


def _dropped(job: str, mark: Mark | None) -> ItemResult:
    if mark is None:
        return ItemResult(Result.FAILED, "the engine has not stored its state")
    if (mark.state, mark.job) == (DeadLetterState.DROPPED, job):
        return _SUCCEEDED
    return ItemResult(Result.SKIPPED, _is(mark))


class RestoreDeadLetters:
    """Kind of the jobs that make dead letters open again. Implements `bridge.jobs.kind.JobKind`.

    Items: as of `DropDeadLetters`. Arguments of a job: `broker`, and `states`, those that it ends.
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
                results[item] = _SUCCEEDED if is_done else ItemResult(Result.SKIPPED, "it is open already")
            elif mark.state not in states or mark.job in active:
                results[item] = ItemResult(Result.SKIPPED, _is(mark))
            else:
                now = after.get(ref)
                results[item] = _SUCCEEDED if now is None else ItemResult(Result.SKIPPED, _is(now))
        return results

    async def _active(self, jobs: set[str]) -> set[str]:
        """Unfinished ones of these jobs. Raises: EngineError."""
        store = JobStore(self._jobs)
        found = await asyncio.gather(*(store.find(each) for each in jobs))
        return {job for job, (record, _) in zip(jobs, found, strict=True) if record is not None and record.is_open}


def _refs(job: Job, items: Sequence[str]) -> dict[str, DeadLetterRef]:
    arguments = job.request.arguments
    return {item: DeadLetterRef.parse(arguments["broker"], item, arguments.get("written")) for item in items}


def _is(mark: Mark) -> str:
    return f"it is {mark.state}" + (f" by job {mark.job}" if mark.job else "")


def dead_letter_kinds(engine: Engine) -> list[JobKind]:
    """Kinds of jobs on the states of dead letters of an engine."""
    return [DropDeadLetters(engine), RestoreDeadLetters(engine)]


@dataclass(slots=True)
class Batch:
    """Dead letters of one broker with their states on one engine. They become one job.

    offsets: by topic and partition.
    written: time of the youngest; None if a dead letter has no time.
    """

    engine: str
    broker: str
    offsets: dict[tuple[str, int], array[int]] = field(default_factory=dict)
    written: float | None = 0.0

    def add(self, topic: str, partition: int, offset: int, written: float | None) -> None:
        self.offsets.setdefault((topic, partition), array("q")).append(offset)
        self.written = None if written is None or self.written is None else max(self.written, written)

    @property
    def count(self) -> int:
        return sum(map(len, self.offsets.values()))

    async def ids(self) -> AsyncIterator[str]:
        for (topic, partition), offsets in self.offsets.items():
            for offset in offsets:
                yield f"{topic}/{partition}@{offset}"


@dataclass(slots=True)
class Batches:
    """Selected dead letters, by engine and broker."""

    found: dict[tuple[str, str], Batch] = field(default_factory=dict)

    def add(self, engine: str, ref: DeadLetterRef) -> None:
        """Add a dead letter. engine: name of the engine with its state."""
        batch = self.found.setdefault((engine, ref.broker), Batch(engine, ref.broker))
        batch.add(ref.topic, ref.partition, ref.offset, ref.written)

    @property
    def count(self) -> int:
        return sum(batch.count for batch in self.found.values())

    @property
    def engines(self) -> list[str]:
        return list(dict.fromkeys(engine for engine, _ in self.found))

    @property
    def ends(self) -> dict[str, int]:
        """Offsets after the last selected dead letter, by broker, topic and partition (`kafka:orders.dlq/0`)."""
        return {
            f"{batch.broker}:{topic}/{partition}": max(offsets) + 1
            for batch in self.found.values()
            for (topic, partition), offsets in batch.offsets.items()
        }


async def select(
    loaded: Loaded,
    selection: Selection,
    limit: int | None = None,
    *,
    engines: Mapping[str, Engine] | None = None,
    ends: Mapping[str, int] | None = None,
) -> Batches:
    """Select dead letters by their state and other conditions.

    limit: number of the oldest of each partition.
    engines: open engines by name.
    ends: `Batches.ends` of an earlier selection; younger dead letters are left out.
    Raises: LookupError for an unknown source, InvalidCommand for too many, BrokerError, BrokerUnavailable, EngineError.
    """
    found, count = Batches(), 0
    async with AsyncExitStack() as opened:
        states = PlaceStates(loaded, opened, engines)
        chosen = await opened.enter_async_context(aclosing(_selected(loaded, selection, states, opened)))
        async for engine, ref in chosen:
            if ends is not None and ref.offset >= ends.get(f"{ref.broker}:{ref.topic}/{ref.partition}", 0):
                continue
            found.add(engine, ref)
            count += 1
            if count > MAX_ITEMS:
                raise InvalidCommand(
                    f"more than {MAX_ITEMS:,} dead letters are selected, the limit of a job; narrow the filter or use "
                    "--limit"
                )
            if count == limit:
                break
    return found


async def _selected(
    loaded: Loaded, selection: Selection, states: PlaceStates, opened: AsyncExitStack
) -> AsyncGenerator[tuple[str, DeadLetterRef], None]:
    """Engine and position of each selected dead letter."""
    if not selection.in_columns:
        async for place, letter, _ in visit(loaded, selection, states=states):
            yield state_engine(loaded, place.owner(letter.source)), PlaceStates.ref(place, letter)
        return
    async for place, rows in read_rows(loaded, selection, states, opened):
        choice = choice_of(place, selection, states)
        names = {source: state_engine(loaded, source) for source in place.owners}
        for partition, blocks in rows.partitions.items():
            here = replace(choice, states=at_partition(place, partition, states))
            for block in blocks:
                await asyncio.sleep(0)  # the daemon goes on between two blocks
                for offset, written, facts in block.chosen(here):
                    ref = DeadLetterRef(place.broker, place.topic, partition, offset, written)
                    yield names[place.owner(facts.source)], ref


@dataclass(frozen=True, slots=True)
class Submitted:
    """Job on dead letters. count: number of its dead letters."""

    job: str
    engine: str
    broker: str
    count: int


async def submit(engine: Engine, batches: Batches, request: JobRequest) -> list[dict[str, Any]]:
    """Submit the jobs of an engine; return `Submitted` of each as JSON types. Raises: EngineError, InvalidCommand."""
    found = []
    for batch in _of(batches, engine):
        arguments = {"broker": batch.broker, "written": batch.written, **request.arguments}
        stored = replace(request, arguments=arguments, cut_off=time.time())
        submitted = await JobStore(engine).submit(stored, batch.ids(), None)
        if submitted is not None:
            found.append(asdict(Submitted(submitted[0], engine.name, batch.broker, submitted[1])))
    return found


def _of(batches: Batches, engine: Engine) -> Iterator[Batch]:
    return (batch for (name, _), batch in batches.found.items() if name == engine.name)
