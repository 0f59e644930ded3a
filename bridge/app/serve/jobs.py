"""Jobs of the engines as a daemon knows them, for metrics and status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from bridge.core.errors import BridgeError
from bridge.core.states import JobState
from bridge.engines.base import Engine
from bridge.jobs.entities import JobEntities
from bridge.jobs.kind import ItemOutcome
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobStore

log = structlog.get_logger("bridge.jobs")

_PERIOD = 5.0
"""Least seconds between two reads of the records that have changed."""
_WHOLE = 600.0
"""Seconds between two reads of all records, which find the removed ones."""
_OVERLAP = 60.0
"""Seconds by which a read goes back behind the one before, because clocks differ."""


class JobFigures:
    """Records of jobs on the engines of a daemon. entities: entities of jobs that this process runs, by engine."""

    def __init__(self, engines: Mapping[str, Engine], entities: Mapping[str, JobEntities]) -> None:
        self._engines = engines
        self._entities = entities
        self._records: dict[str, dict[str, JobRecord]] = {name: {} for name in engines}
        self._read_at = dict.fromkeys(engines, 0.0)
        self._read_whole = dict.fromkeys(engines, 0.0)

    async def refresh(self) -> None:
        """Read the changed records of all engines. An engine that does not answer keeps the last known ones."""
        for name in self._engines:
            try:
                await self.refresh_engine(name)
            except (BridgeError, OSError, RuntimeError) as error:
                log.debug("jobs are not read", action="job", engine=name, detail=str(error))

    async def refresh_engine(self, name: str) -> None:
        """Read the changed records of one engine. Raises: EngineError."""
        now = time.time()
        if now - self._read_at[name] < _PERIOD:
            return
        whole = now - self._read_whole[name] > _WHOLE
        since = None if whole else datetime.fromtimestamp(self._read_at[name] - _OVERLAP, UTC)
        found = {record.id: record for record in await JobStore(self._engines[name]).records(since)}
        self._records[name] = found if whole else self._records[name] | found
        self._read_at[name] = now
        if whole:
            self._read_whole[name] = now

    @property
    def jobs(self) -> Mapping[tuple[str, str], int]:
        """Jobs of all engines by kind and state; every state of each kind."""
        found: Counter[tuple[str, str]] = Counter()
        for records in self._records.values():
            for record in records.values():
                for state in JobState:
                    found[record.request.kind, state] += state is record.state
        return found

    @property
    def items(self) -> Mapping[tuple[str, str], int]:
        """Results of items that this process has stored, by kind and result."""
        found: Counter[tuple[str, str]] = Counter()
        for entities in self._entities.values():
            found.update(entities.items.copy())
        return found

    def records(self) -> Iterator[tuple[str, JobRecord]]:
        """Records of all engines, as last read, with the name of their engine."""
        for engine, records in self._records.items():
            for record in records.values():
                yield engine, record

    def document(self, engine: str) -> list[dict[str, Any]]:
        """Unfinished jobs of an engine as JSON types."""
        return open_jobs(self._records[engine].values())


def open_jobs(records: Iterable[JobRecord]) -> list[dict[str, Any]]:
    """Unfinished jobs as JSON types, the oldest first."""
    return [
        {
            "job": record.id,
            "kind": record.request.kind,
            "state": str(record.state),
            "why": record.why,
            "selected": record.selected,
            "ended": record.finished,
            "failed": record.counts[ItemOutcome.FAILED],
        }
        for record in sorted(records, key=lambda one: one.created)
        if record.is_open
    ]
