"""Groups of dead letters by cause, from rows that a cache in the state directory keeps."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from heapq import nlargest
from operator import itemgetter
from typing import Any, NamedTuple

from bridge import __version__
from bridge.app import state
from bridge.app.dead_letters.reading import (
    DeadLetterPlace,
    DeadLetterSelection,
    PlaceStates,
    found_places,
    offline_hint,
    visit,
)
from bridge.app.dead_letters.view import shown_time
from bridge.brokers.base import Broker, readable
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand
from bridge.core.system_names import DEAD_LETTER_BLOCK
from bridge.core.words import plural
from bridge.dead_letters.cache import DIRECTORY, RowCache
from bridge.dead_letters.reader import Fingerprints, TopicReader, TopicRows
from bridge.dead_letters.rows import DeadLetterRow, Facts, RowSelection, Summary
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.engines.base import Engine

_SHOWN = 20
"""Names of one kind that a group keeps."""
TREND_PARTS = 24
"""Parts of the time of a trend."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Equal parts of a time, in which dead letters are counted. begin, end: seconds since the Unix epoch."""

    begin: float
    end: float

    def part(self, time: float | None) -> int | None:
        """Number of the part of a time; None outside."""
        if time is None or not self.begin <= time < self.end:
            return None
        return min(TREND_PARTS - 1, int((time - self.begin) / (self.end - self.begin) * TREND_PARTS))


@dataclass(slots=True)
class CauseGroup:
    """Dead letters of one cause.

    detail: of the last one; empty for foreign formats.
    example: id of the last one.
    trend: numbers of dead letters in the parts of a `Trend`; empty without one.
    """

    fingerprint: str
    reason: str
    error: str
    format: str
    count: int = 0
    first: float | None = None
    last: float | None = None
    detail: str = ""
    example: str = ""
    sources: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)
    configs: dict[str, int] = field(default_factory=dict)
    trend: list[int] = field(default_factory=list)

    def add(self, topic: str, partition: int, facts: Facts, summary: Summary) -> None:
        """Add dead letters of one partition."""
        self.count += summary.count
        if summary.first is not None:
            self.first = summary.first if self.first is None else min(self.first, summary.first)
        if summary.last is None or self.last is None or summary.last >= self.last:
            self.last = self.last if summary.last is None else summary.last
            self.detail, self.example = summary.detail, f"{topic}/{partition}@{summary.offset}"
        named = ((self.sources, facts.source), (self.routes, facts.route), (self.configs, facts.config))
        for names, name in named:
            if name and (name in names or len(names) < _SHOWN):
                names[name] = names.get(name, 0) + summary.count

    def to_dict(self) -> dict[str, Any]:
        """Group as JSON types."""
        return {
            "group": self.fingerprint,
            "reason": self.reason,
            "error": self.error,
            "format": self.format,
            "count": self.count,
            "first": shown_time(self.first) or None,
            "last": shown_time(self.last) or None,
            "detail": self.detail,
            "example": self.example,
            "sources": self.sources,
            "routes": self.routes,
            "configs": self.configs,
            "trend": self.trend,
        }


@dataclass(slots=True)
class CauseGroups:
    """Groups of dead letters by cause.

    gone: sentences about dead letters that have a state, but are not in their topic any more.
    trend: None: the groups have no trends.
    """

    gone: list[str] = field(default_factory=list)
    trend: Trend | None = None
    _groups: dict[str, CauseGroup] = field(default_factory=dict)

    def add(self, topic: str, partition: int, facts: Facts, summary: Summary) -> None:
        """Add dead letters of one partition."""
        group = self._groups.get(facts.fingerprint)
        if group is None:
            group = self._groups[facts.fingerprint] = CauseGroup(
                facts.fingerprint, facts.reason, facts.error, facts.format
            )
            group.trend = [0] * TREND_PARTS if self.trend is not None else []
        group.add(topic, partition, facts, summary)

    def count(self, facts: Facts, time: float | None) -> None:
        """Count an added dead letter in the trend of its group."""
        part = None if self.trend is None else self.trend.part(time)
        if part is not None:
            self._groups[facts.fingerprint].trend[part] += 1

    def sorted(self) -> list[CauseGroup]:
        """All groups, most numerous first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.reason, group.fingerprint))


def row_cache(loaded: Loaded) -> RowCache:
    """Cache of a configuration on this machine."""
    directory = state.state_directory(loaded) / DIRECTORY
    return RowCache(directory, __version__, loaded.config.ops.dead_letters.cache)


async def grouped(
    loaded: Loaded,
    selection: DeadLetterSelection,
    offline: bool,
    progress: Callable[[int], None] = lambda count: None,
    engines: Mapping[str, Engine] | None = None,
    trend: Trend | None = None,
) -> CauseGroups:
    """Group the selected dead letters.

    offline: do not ask the engines; dead letters of all states are selected then.
    engines: see `PlaceStates`.
    trend: time in which the dead letters of each group are also counted by its parts.
    Raises: LookupError, BrokerError, BrokerUnavailable, EngineError.
    """
    found = CauseGroups(trend=trend)
    async with AsyncExitStack() as opened:
        opened.enter_context(offline_hint())
        states = None if offline else PlaceStates(loaded, opened, engines)
        if not selection.in_columns:
            fingerprints = Fingerprints()
            async for _, dead_letter, _ in visit(loaded, selection, states=states):
                at, summary = dead_letter.position, Summary()
                summary.add(at.offset, dead_letter.failed_at, dead_letter.detail)
                facts = Facts.of(dead_letter, fingerprints.of(dead_letter))
                found.add(at.topic, at.partition, facts, summary)
                found.count(facts, dead_letter.failed_at)
            return found
        async for place, rows in read_rows(loaded, selection, states, opened, progress):
            choice = choice_of(place, selection, states)
            for partition, blocks in rows.partitions.items():
                here = replace(choice, states=at_partition(place, partition, states))
                for block in blocks:
                    for facts, summary in block.sums(here):
                        found.add(place.topic, partition, facts, summary)
                    if trend is not None:
                        await asyncio.sleep(0)  # a daemon goes on between two blocks
                        for _, time, facts in block.chosen(here):
                            found.count(facts, time)
            if states is not None:
                found.gone += describe_missing(place, rows, states, loaded.config.ops.dead_letters.restore)
    return found


async def read_rows(
    loaded: Loaded,
    selection: DeadLetterSelection,
    states: PlaceStates | None,
    opened: AsyncExitStack,
    progress: Callable[[int], None] = lambda count: None,
) -> AsyncIterator[tuple[DeadLetterPlace, TopicRows]]:
    """Rows of the places of the selected sources. The states of a place are read before its rows."""
    brokers: dict[str, Broker] = {}
    cache = row_cache(loaded)
    reader = TopicReader(cache, progress)
    for place in await found_places(loaded, selection.sources, brokers, opened):
        broker = readable(brokers[place.broker])
        if states is not None:
            await states.load(place)
        yield place, await reader.read(broker, place.topic)
    cache.tidy()


def choice_of(place: DeadLetterPlace, selection: DeadLetterSelection, states: PlaceStates | None) -> RowSelection:
    """Choice of rows, without the states of a partition."""
    wanted = selection.states if states is not None and selection.states else frozenset(DeadLetterState)
    return RowSelection(selection.facts, lambda facts, first: None, wanted, selection.since, selection.until)


def at_partition(place: DeadLetterPlace, partition: int, states: PlaceStates | None) -> Callable[[Facts, int], Any]:
    """States of the blocks of a partition, for a `RowSelection`."""
    if states is None:
        return lambda facts, first: None
    return lambda facts, first: states.block(place, facts.source, partition, first)


def describe_missing(place: DeadLetterPlace, rows: TopicRows, states: PlaceStates, restore: float) -> list[str]:
    """Sentences about dead letters that have a state, but are not in their topic any more.

    A queue has lost those that the daemon completes: the replayed ones, and those dropped more than `restore` seconds
    ago.
    """
    retention = compaction = 0
    dropped_before = time.time() - restore
    for topic in states.topics(place).values():
        for (partition, first), block in topic.blocks.items():
            begin, end = (rows.ranges or {}).get(partition, (0, first + DEAD_LETTER_BLOCK))
            present = {
                offset for each in rows.partitions.get(partition, ()) if each.first == first
                for offset, _, _ in each.rows()
            }  # fmt: skip
            for mark, members in block.marks():
                if rows.ranges is None and mark.is_over(dropped_before):
                    continue
                retention += sum(first + each < begin or first + each >= end for each in members)
                compaction += sum(begin <= first + each < end and first + each not in present for each in members)
    found = []
    if retention:
        lost = plural(retention, "dead letter")
        found.append(f"{lost} of {place.topic} with a state are gone: their retention has ended")
    if compaction:
        why = "compaction has removed them" if rows.ranges is not None else "somebody has completed or received them"
        found.append(f"{plural(compaction, 'dead letter')} of {place.topic} with a state are gone: {why}")
    return found


@dataclass(frozen=True, slots=True)
class Newest:
    """Newest dead letters of a selection. total: number of all of them. next: of `newest`; None at the end."""

    total: int
    dead_letters: list[dict[str, Any]]
    next: str | None


async def newest(
    loaded: Loaded,
    selection: DeadLetterSelection,
    limit: int,
    before: str | None = None,
    *,
    engines: Mapping[str, Engine] | None = None,
) -> Newest:
    """Newest dead letters, from their rows; those without a time are the oldest.

    selection: without ids and keys, which rows do not have.
    before: `next` of an earlier call.
    engines: see `PlaceStates`.
    Raises: InvalidCommand, LookupError, BrokerError, BrokerUnavailable, EngineError.
    """
    end = None if before is None else _read_mark(before)
    total, kept = 0, list[tuple[_Mark, DeadLetterRow]]()
    async with AsyncExitStack() as opened:
        states = PlaceStates(loaded, opened, engines)
        async for place, rows in read_rows(loaded, selection, states, opened):
            choice = choice_of(place, selection, states)
            for partition, blocks in rows.partitions.items():
                here = replace(choice, states=at_partition(place, partition, states))
                for block in blocks:
                    await asyncio.sleep(0)  # a daemon goes on between two blocks
                    found = [
                        (_Mark(row.time or 0.0, place.topic, partition, row.offset), row) for row in block.listed(here)
                    ]
                    total += len(found)
                    earlier = found if end is None else [each for each in found if each[0] < end]
                    kept = nlargest(limit + 1, [*kept, *earlier], key=itemgetter(0))
    shown = kept[:limit]
    return Newest(total, [_listed(*each) for each in shown], str(shown[-1][0]) if len(kept) > limit else None)


class _Mark(NamedTuple):
    """Place of a dead letter in the order of their times."""

    time: float
    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.time!r} {self.topic}/{self.partition}@{self.offset}"


_MARK = re.compile(r"([0-9.e+]{1,30}) (.+)/([0-9]{1,10})@([0-9]{1,19})", re.DOTALL)


def _read_mark(text: str) -> _Mark:
    found = _MARK.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        return _Mark(float(found[1]), found[2], int(found[3]), int(found[4]))
    except ValueError:
        raise InvalidCommand("`before` is not the `next` of an answer") from None


def _listed(mark: _Mark, row: DeadLetterRow) -> dict[str, Any]:
    facts = row.facts
    return {
        "id": f"{mark.topic}/{mark.partition}@{mark.offset}",
        "time": shown_time(row.time) or None,
        "state": row.state,
        "reason": facts.reason,
        "detail": row.detail,
        "error": facts.error,
        "source": facts.source,
        "route": facts.route,
        "group": facts.fingerprint,
    }
