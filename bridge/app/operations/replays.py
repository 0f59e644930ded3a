"""Replay of dead letters: selection by a person, and submission of its jobs."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bridge.app.dead_letters.reading import PlaceStates, Selection, visit
from bridge.config.source import Loaded, state_engine
from bridge.core.errors import InvalidCommand
from bridge.core.states import JobState
from bridge.engines.base import Engine
from bridge.engines.source_entities import SourcePauses
from bridge.jobs.kind import JobRequest
from bridge.jobs.state_machine import IN_PROGRESS, JobRecord
from bridge.jobs.store import MAX_ITEMS, JobStore
from bridge.replay.edits import ReplayEdits
from bridge.replay.kind import REPLAY_KIND
from bridge.replay.original import original_position

LARGEST_EDIT = 4 * 1024 * 1024
"""Bytes of the largest edited body."""


class Candidate(NamedTuple):
    """Dead letter that is to be replayed.

    source, topic, partition, offset: origin of its message. Messages are replayed in this order.
    id: of the dead letter.
    """

    source: str
    topic: str
    partition: int
    offset: int
    id: str


@dataclass(slots=True)
class Batch:
    """Dead letters of one broker with their states on one engine. They become one job.

    owners: source for dead letters that state none, by topic.
    ends: offset after the last selected one, by topic and partition (`orders.dlq/0`).
    """

    engine: str
    broker: str
    candidates: list[Candidate] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)

    async def ids(self) -> AsyncIterator[str]:
        """Ids in the order in which the messages are replayed."""
        for each in sorted(self.candidates):
            yield each.id


@dataclass(frozen=True, slots=True)
class Selected:
    """Selected dead letters. foreign: number of those that state a source which the configuration lacks."""

    batches: Sequence[Batch]
    foreign: int

    @property
    def count(self) -> int:
        return sum(len(batch.candidates) for batch in self.batches)

    @property
    def ends(self) -> dict[str, int]:
        """Ends of all batches, by broker, topic and partition (`kafka:orders.dlq/0`)."""
        return {f"{batch.broker}:{place}": end for batch in self.batches for place, end in batch.ends.items()}


async def select(
    loaded: Loaded,
    selection: Selection,
    limit: int | None = None,
    *,
    engines: Mapping[str, Engine] | None = None,
    ends: Mapping[str, int] | None = None,
) -> Selected:
    """Select dead letters that are to be replayed.

    engines: open engines by name.
    ends: `Selected.ends` of an earlier selection; younger dead letters are left out.
    Raises: LookupError for an unknown source, InvalidCommand for too many, BrokerError, BrokerUnavailable, EngineError.
    """
    batches: dict[tuple[str, str], Batch] = {}
    foreign = 0
    async with AsyncExitStack() as opened:
        states = PlaceStates(loaded, opened, engines)
        async for place, letter, message in visit(loaded, selection, limit, states):
            at = letter.position
            partition = f"{at.topic}/{at.partition}"
            if ends is not None and at.offset >= ends.get(f"{place.broker}:{partition}", 0):
                continue
            if letter.source is not None and letter.source not in loaded.config.sources:
                foreign += 1
                continue
            source = place.owner(letter.source)
            engine = state_engine(loaded, source)
            batch = batches.setdefault((engine, place.broker), Batch(engine, place.broker))
            origin = original_position(letter, message)
            batch.candidates.append(Candidate(source, origin.topic, origin.partition, origin.offset, letter.id))
            batch.owners[at.topic] = source if letter.source is None else batch.owners.get(at.topic, source)
            batch.ends[partition] = max(at.offset + 1, batch.ends.get(partition, 0))
            if len(batch.candidates) > MAX_ITEMS:
                raise InvalidCommand(
                    f"more than {MAX_ITEMS:,} dead letters are selected, the limit of a job; narrow the filter or use "
                    "--limit"
                )
    return Selected(list(batches.values()), foreign)


@dataclass(frozen=True, slots=True)
class Submitted:
    """Job that replays dead letters. count: number of its dead letters."""

    job: str
    engine: str
    broker: str
    count: int


async def submit(
    engine: Engine, batches: Sequence[Batch], request: JobRequest, edited: bytes | None = None
) -> list[Submitted]:
    """Submit the jobs of an engine. edited: body for the only dead letter. Raises: EngineError, InvalidCommand."""
    found = []
    for batch in batches:
        names = sorted({each.source for each in batch.candidates})
        arguments = {"broker": batch.broker, "sources": names, "owners": batch.owners, **request.arguments}
        if edited is not None:
            if len(edited) > LARGEST_EDIT:
                raise InvalidCommand(
                    f"the edited body has {len(edited):,} bytes; at most {LARGEST_EDIT:,} are accepted"
                )
            token = secrets.token_hex(16)
            await ReplayEdits(engine).store(token, edited)
            arguments["edit"] = token
        stored = replace(request, arguments=arguments, cut_off=time.time())
        submitted = await JobStore(engine).submit(stored, batch.ids(), None)
        if submitted is not None:
            found.append(Submitted(submitted[0], engine.name, batch.broker, submitted[1]))
    return found


async def why_waiting(engine: Engine, record: JobRecord) -> str:
    """Reason why the items in progress of a job wait; empty when none is known. Raises: EngineError."""
    request = record.request
    if request.kind != REPLAY_KIND or record.state is not JobState.RUNNING or not record.counts[IN_PROGRESS]:
        return ""
    pauses = await SourcePauses(engine).load()
    paused = [name for name in request.arguments.get("sources", ()) if name in pauses]
    return "; ".join(f"source {name} is paused by {pauses[name].by}: bridge sources resume {name}" for name in paused)


def described(selection: Selection, limit: int | None = None) -> str:
    """Selection in words."""
    parts = [
        selection.sources and f"source {' or '.join(selection.sources)}",
        selection.routes and f"route {' or '.join(selection.routes)}",
        selection.causes and f"cause {' or '.join(selection.causes)}",
        selection.ids and f"id {' or '.join(selection.ids[:3])}" + (" …" if len(selection.ids) > 3 else ""),
        selection.keys and f"{len(selection.keys)} keys",
        selection.since is not None and f"since {selection.since:.0f}",
        selection.until is not None and f"until {selection.until:.0f}",
        limit and f"at most {limit:,}",
    ]
    return ", ".join(part for part in parts if part) or "all"
