"""Lifecycle events: facts about instances, dead letters, sources, jobs and the configuration. Pure.

An event has no payload. Its id is derived from its fact: repeats, and the same event of another daemon, have the same
id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

_IDS = UUID("5d0f3c1e-6a52-4a0b-9a53-2f0f6d3a7c10")
"""Name space of the ids."""


class EventKind(StrEnum):
    """Kind of a lifecycle event."""

    INSTANCE_FAILED = "instance.failed"
    """An instance has failed, or its saga could not be compensated."""
    INSTANCE_COMPENSATED = "instance.compensated"
    """The saga of an instance was compensated."""
    DEAD_LETTER_CAUSE = "dead_letter.new_cause"
    """The first open dead letter of a cause."""
    SOURCE_HELD = "source.held"
    """An outage holds a source."""
    SOURCE_PAUSED = "source.paused"
    """A person has paused a source."""
    SOURCE_PROBING = "source.probing"
    """A source has exceeded its dead-letter limit."""
    SOURCE_STUCK = "source.stuck"
    """A source makes no progress."""
    SOURCE_RECOVERED = "source.recovered"
    """A source works again after one of these states."""
    JOB_STOPPED = "job.stopped"
    """A job was stopped by failures, and waits for a person."""
    JOB_FINISHED = "job.finished"
    """A job is done, or was aborted."""
    CONFIGURATION_RELOADED = "configuration.reloaded"
    """A daemon uses another configuration."""
    CONFIGURATION_REFUSED = "configuration.refused"
    """A daemon has refused a reload."""

    @property
    def type(self) -> str:
        """Type of the CloudEvent."""
        return f"io.durable-bridge.{self.value}.v1"


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One event. time: seconds since the Unix epoch. subject: instance, source, job or configuration."""

    kind: EventKind
    id: str
    time: float
    subject: str
    data: dict[str, Any]

    def to_text(self) -> str:
        """Stored form."""
        return json.dumps([self.kind.value, self.id, self.time, self.subject, self.data], ensure_ascii=False)

    @classmethod
    def of_text(cls, text: str) -> LifecycleEvent | None:
        """Event of its stored form; None for an event that this version does not know."""
        kind, id_, time, subject, data = json.loads(text)
        return cls(EventKind(kind), id_, time, subject, data) if kind in [*EventKind] else None


def event_id(kind: EventKind, *parts: object) -> str:
    """Id of the event of a fact. parts: identity of the fact."""
    return str(uuid5(_IDS, json.dumps([kind.value, *map(str, parts)])))
