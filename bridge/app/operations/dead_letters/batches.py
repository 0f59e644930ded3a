"""Selection of dead letters by a person, and its submission as jobs."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from bridge.app.dead_letters.groups import at_partition, choice_of, read_rows
from bridge.app.dead_letters.reading import DeadLetterSelection, PlaceStates, visit
from bridge.config.source import Loaded, state_engine
from bridge.core.dead_letter import DeadLetter
from bridge.core.errors import InvalidCommand
from bridge.core.message import Message
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.base import Engine
from bridge.jobs.kind import JobRequest
from bridge.jobs.store import MAX_ITEMS, JobStore


class Chosen(NamedTuple):
    """Selected dead letter.

    source: configured source on whose engine its state is. engine: name of that engine.
    read: the dead letter and its message; None where the rows of its topic have decided about it.
    """

    source: str
    engine: str
    ref: DeadLetterRef
    read: tuple[DeadLetter, Message] | None = None


@dataclass(slots=True)
class DeadLetterBatch:
    """Dead letters of one broker with their states on one engine. They become one job.

    reads_messages: the batch needs the messages of its dead letters.
    count: number of dead letters.
    offsets: by topic and partition.
    written: time of the youngest; None if a dead letter has no time.
    """

    reads_messages: ClassVar[bool] = False
    engine: str
    broker: str
    count: int = 0
    offsets: dict[tuple[str, int], array[int]] = field(default_factory=dict)
    written: float | None = 0.0

    def add(self, chosen: Chosen) -> None:
        """Add a dead letter."""
        ref = chosen.ref
        self.count += 1
        self.offsets.setdefault((ref.topic, ref.partition), array("q")).append(ref.offset)
        self.written = None if ref.written is None or self.written is None else max(self.written, ref.written)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the job."""
        return {"broker": self.broker, "written": self.written}

    async def ids(self) -> AsyncIterator[str]:
        """Items of the job, in order."""
        for (topic, partition), offsets in self.offsets.items():
            for offset in offsets:
                yield f"{topic}/{partition}@{offset}"


B = TypeVar("B", bound=DeadLetterBatch)


@dataclass(frozen=True, slots=True)
class Selected(Generic[B]):
    """Selected dead letters. foreign: number of those that state a source which the configuration lacks."""

    batches: list[B]
    foreign: int

    @property
    def count(self) -> int:
        return sum(batch.count for batch in self.batches)

    @property
    def engines(self) -> list[str]:
        return list(dict.fromkeys(batch.engine for batch in self.batches))

    @property
    def ends(self) -> dict[str, int]:
        """Offsets after the last selected dead letter, by broker, topic and partition (`kafka:orders.dlq/0`)."""
        return {
            f"{batch.broker}:{topic}/{partition}": max(offsets) + 1
            for batch in self.batches
            for (topic, partition), offsets in batch.offsets.items()
        }

    def of(self, engine: Engine) -> list[B]:
        """Batches of an engine."""
        return [batch for batch in self.batches if batch.engine == engine.name]


async def select(
    loaded: Loaded,
    selection: DeadLetterSelection,
    batch: type[B],
    limit: int | None = None,
    *,
    engines: Mapping[str, Engine] | None = None,
    ends: Mapping[str, int] | None = None,
) -> Selected[B]:
    """Select dead letters by their state and other conditions.

    batch: class of the batches. One that reads messages leaves out the dead letters of unknown sources.
    limit: number of dead letters, the first of each place.
    engines: open engines by name.
    ends: `Selected.ends` of an earlier selection; younger dead letters are left out.
    Raises: LookupError for an unknown source, InvalidCommand for too many, BrokerError, BrokerUnavailable, EngineError.
    """
    batches: dict[tuple[str, str], B] = {}
    count = foreign = 0
    async with AsyncExitStack() as opened:
        states = PlaceStates(loaded, opened, engines)
        found = _visited(loaded, selection, states)
        if selection.in_columns and not batch.reads_messages:
            found = _rows(loaded, selection, states, opened)
        async for each in await opened.enter_async_context(aclosing(found)):
            ref = each.ref
            if ends is not None and ref.offset >= ends.get(f"{ref.broker}:{ref.topic}/{ref.partition}", 0):
                continue
            if batch.reads_messages and _is_foreign(loaded, each):
                foreign += 1
                continue
            mine = batches.setdefault((each.engine, ref.broker), batch(each.engine, ref.broker))
            mine.add(each)
            count += 1
            if mine.count > MAX_ITEMS:
                raise InvalidCommand(
                    f"more than {MAX_ITEMS:,} dead letters are selected, the limit of a job; narrow the filter or use "
                    "--limit"
                )
            if count == limit:
                break
    return Selected(list(batches.values()), foreign)


def _is_foreign(loaded: Loaded, chosen: Chosen) -> bool:
    assert chosen.read is not None
    source = chosen.read[0].source
    return source is not None and source not in loaded.config.sources


async def _visited(loaded: Loaded, selection: DeadLetterSelection, states: PlaceStates) -> AsyncGenerator[Chosen, None]:
    async for place, dead_letter, message in visit(loaded, selection, states=states):
        source = place.owner(dead_letter.source)
        yield Chosen(source, state_engine(loaded, source), PlaceStates.ref(place, dead_letter), (dead_letter, message))


async def _rows(
    loaded: Loaded, selection: DeadLetterSelection, states: PlaceStates, opened: AsyncExitStack
) -> AsyncGenerator[Chosen, None]:
    async for place, rows in read_rows(loaded, selection, states, opened):
        choice = choice_of(place, selection, states)
        names = {source: state_engine(loaded, source) for source in place.owners}
        for partition, blocks in rows.partitions.items():
            here = replace(choice, states=at_partition(place, partition, states))
            for block in blocks:
                await asyncio.sleep(0)  # the daemon goes on between two blocks
                for offset, written, facts in block.chosen(here):
                    source = place.owner(facts.source)
                    ref = DeadLetterRef(place.broker, place.topic, partition, offset, written)
                    yield Chosen(source, names[source], ref)


@dataclass(frozen=True, slots=True)
class Submitted:
    """Job on dead letters. count: number of its dead letters."""

    job: str
    engine: str
    broker: str
    count: int


async def submit(engine: Engine, selected: Selected[B], request: JobRequest) -> list[Submitted]:
    """Submit the jobs of an engine. Raises: EngineError, InvalidCommand."""
    found = []
    for batch in selected.of(engine):
        stored = replace(request, arguments={**batch.arguments, **request.arguments}, cut_off=time.time())
        submitted = await JobStore(engine).submit(stored, batch.ids(), None)
        if submitted is not None:
            found.append(Submitted(submitted[0], engine.name, batch.broker, submitted[1]))
    return found
