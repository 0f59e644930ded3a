"""Replay of dead letters that a person has selected: their order, and an edited body."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from bridge.app.dead_letters.reading import DeadLetterSelection
from bridge.app.dead_letters.view import shown_time
from bridge.app.operations.dead_letters.batches import Chosen, DeadLetterBatch, Selected, Submitted, submit
from bridge.core.errors import InvalidCommand
from bridge.core.states import JobState
from bridge.core.words import plural
from bridge.engines.base import Engine
from bridge.engines.entities.source_entities import SourcePauses
from bridge.jobs.kind import JobRequest
from bridge.jobs.state_machine import IN_PROGRESS, JobRecord
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
class ReplayBatch(DeadLetterBatch):
    """Dead letters that are to be replayed by one job.

    owners: source for dead letters that state none, by topic.
    """

    reads_messages: ClassVar[bool] = True
    candidates: list[Candidate] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)

    def add(self, chosen: Chosen) -> None:
        DeadLetterBatch.add(self, chosen)
        assert chosen.read is not None
        dead_letter, message = chosen.read
        origin = original_position(dead_letter, message)
        self.candidates.append(Candidate(chosen.source, origin.topic, origin.partition, origin.offset, dead_letter.id))
        if dead_letter.source is None:
            self.owners[chosen.ref.topic] = chosen.source
        else:
            self.owners.setdefault(chosen.ref.topic, chosen.source)

    @property
    def arguments(self) -> dict[str, Any]:
        names = sorted({each.source for each in self.candidates})
        return {"broker": self.broker, "sources": names, "owners": self.owners}

    async def ids(self) -> AsyncIterator[str]:
        """Ids in the order in which the messages are replayed."""
        for each in sorted(self.candidates):
            yield each.id


async def submit_edited(
    engine: Engine, selected: Selected[ReplayBatch], request: JobRequest, body: bytes
) -> list[Submitted]:
    """Submit the job that replays a dead letter with another body. Raises: EngineError, InvalidCommand."""
    if len(body) > LARGEST_EDIT:
        raise InvalidCommand(f"the edited body has {len(body):,} bytes; at most {LARGEST_EDIT:,} are accepted")
    token = secrets.token_hex(16)
    await ReplayEdits(engine).store(token, body)
    return await submit(engine, selected, replace(request, arguments={**request.arguments, "edit": token}))


async def why_waiting(engine: Engine, record: JobRecord) -> str:
    """Reason why the items in progress of a job wait; empty when none is known. Raises: EngineError."""
    request = record.request
    if request.kind != REPLAY_KIND or record.state is not JobState.RUNNING or not record.counts[IN_PROGRESS]:
        return ""
    pauses = await SourcePauses(engine).load()
    paused = [name for name in request.arguments.get("sources", ()) if name in pauses]
    return "; ".join(f"source {name} is paused by {pauses[name].by}: bridge sources resume {name}" for name in paused)


def described(selection: DeadLetterSelection, limit: int | None = None) -> str:
    """Selection in words."""
    parts = [
        selection.sources and f"source {' or '.join(selection.sources)}",
        selection.routes and f"route {' or '.join(selection.routes)}",
        selection.causes and f"cause {' or '.join(selection.causes)}",
        selection.ids and f"id {' or '.join(selection.ids[:3])}" + (" …" if len(selection.ids) > 3 else ""),
        selection.keys and plural(len(selection.keys), "key"),
        selection.since is not None and f"since {shown_time(selection.since)}",
        selection.until is not None and f"until {shown_time(selection.until)}",
        limit and f"at most {limit:,}",
    ]
    return ", ".join(part for part in parts if part) or "all"
