"""Open dead letters of a daemon's sources: counts for metrics and status, and what ends with the dead letters."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import structlog

from bridge.app.dead_letters.groups import at_partition, choice_of, row_cache
from bridge.app.dead_letters.reading import DeadLetterPlace, DeadLetterSelection, PlaceStates, found_places, places
from bridge.brokers.base import Broker, CompletingBroker, readable
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.core.system_names import DEAD_LETTER_BLOCK
from bridge.dead_letters.reader import TopicReader, TopicRows
from bridge.dead_letters.rows import Facts, Rows, RowSelection, Summary
from bridge.dead_letters.state_machine import BlockStates, DeadLetterState
from bridge.dead_letters.store import DeadLetterStates
from bridge.dead_letters.topic_states import DeadLetterRef
from bridge.engines.base import Engine

log = structlog.get_logger("bridge.dead_letters")

_SHARE = 0.2
"""Part of a processor's time for reading dead letters."""
_PAUSES = 50.0
"""Factor between the duration of a count and the pause after it."""
_LONGEST = 10.0
"""Longest pause, in intervals: a count takes long because it reads much, or because the process was frozen."""
_FRESH = 1.0
"""Seconds after which a reader of the status causes another count."""
_REFRESH_SECONDS = 1.0
"""Most seconds for which a reader waits for the count of a dead letter that this daemon has just written."""
_CHECKED = 20
"""Counts after which a topic whose offsets have not changed is checked to be the same."""
_AGAIN = 300.0
"""Seconds until messages that could not be completed are tried again: each attempt locks the messages before them."""
_REASONS = 100
"""Most reasons in labels; others are counted as `other`."""
_OPEN = DeadLetterSelection(states=frozenset({DeadLetterState.OPEN}))


Causes = Mapping[DeadLetterPlace, Mapping[Facts, Summary]]
"""Open dead letters by their place and facts."""


class DeadLetterCounter:
    """Counter of the open dead letters of a daemon's sources. Implements `bridge.ops.metrics.DeadLetterStats`.

    A count reads only the dead letters that are new, and the states. Several daemons count the same dead letters.
    """

    def __init__(
        self,
        loaded: Loaded,
        brokers: Mapping[str, Broker],
        engines: Mapping[str, Engine],
        *,
        keeps_files: bool = True,
        on_count: Callable[[Causes], None] = lambda _: None,
        written: Callable[[], int] = lambda: 0,
    ) -> None:
        """Create the counter.

        keeps_files: cache the facts of dead letters in the state directory.
        on_count: called after each count.
        written: returns the number of dead letters that this daemon has written.
        """
        self._written = written
        self._seen = 0
        """Dead letters of this daemon that were written before the last count began."""
        self._began = -math.inf
        self._took = 0.0
        """Monotonic time at which the last count began, and its seconds."""
        self._asked = asyncio.Event()
        """Set when a reader asks for another count."""
        self._ended = asyncio.Event()
        """Set at the end of a count; the next one then has another event."""
        self._on_count = on_count
        self._causes: dict[DeadLetterPlace, dict[Facts, Summary]] = {}
        """Open dead letters by their facts."""
        self._loaded = loaded
        self._brokers = dict(brokers)
        self._engines = engines
        self._cache = row_cache(loaded) if keeps_files else None
        self._reader = TopicReader(self._cache, share=_SHARE)
        self._rows: dict[DeadLetterPlace, TopicRows] = {}
        self._open: dict[DeadLetterPlace, Counter[tuple[str, str, str]]] = {}
        self._oldest: dict[DeadLetterPlace, dict[str, float]] = {}
        self._missing: dict[DeadLetterPlace, set[tuple[str, DeadLetterRef]]] = {}
        """Dead letters of queues that have a state and were not found, with their engines."""
        self._tried: dict[DeadLetterPlace, tuple[frozenset[int], float]] = {}
        """Messages that the last attempt was to complete, and its monotonic time."""
        self._counted: float | None = None
        self._known: set[str] = set()
        """Sources whose dead letters were all counted."""
        self._reported: dict[str, str] = {}
        """Error of the last count, by topic."""
        self._counts = 0
        self._reasons: set[str] = set()
        self.cache_bytes = 0

    def use(self, loaded: Loaded) -> Mapping[str, int]:
        """Count the dead letters of the sources of another configuration from now on.

        Return numbers of open dead letters that none of its sources has, by broker and topic.
        """
        self._loaded = loaded
        owners = {(place.broker, place.topic): place.owners for place in places(loaded)}
        patterns = {name for name, each in loaded.config.sources.items() if each.kafka and each.kafka.pattern}
        left: Counter[str] = Counter()
        for place, counts in self._open.items():
            present = owners.get((place.broker, place.topic)) or patterns.intersection(place.owners)
            for key in [key for key in counts if key[0] not in present]:
                number = counts.pop(key)
                if not present:
                    left[f"{place.broker}/{place.topic}"] += number
        self._known &= loaded.config.sources.keys()
        return left

    @property
    def open(self) -> Mapping[tuple[str, str, str], int]:
        """Number of open dead letters by source, reason and route; empty before the first count."""
        found: Counter[tuple[str, str, str]] = Counter()
        for each in self._open.values():
            found.update(each)
        return found

    @property
    def oldest(self) -> Mapping[str, float]:
        """Age in seconds of the oldest open dead letter, by source; 0 without one."""
        now = time.time()
        return {name: max(0.0, now - self._first(name)) for name in self._known}

    def _first(self, source: str) -> float:
        """Time of the oldest open dead letter of a source; infinity without one."""
        return min((found.get(source, math.inf) for found in self._oldest.values()), default=math.inf)

    def document(self, source: str) -> dict[str, Any] | None:
        """Open dead letters of a source for the status, as JSON types; None before the first count."""
        if source not in self._known:
            return None
        count = sum(number for (name, _, _), number in self.open.items() if name == source)
        age = max(0.0, time.time() - self._first(source))
        return {"count": count, "oldest_seconds": round(age, 1) if count and math.isfinite(age) else None}

    @property
    def counted(self) -> float | None:
        """Time of the last count, seconds since the Unix epoch."""
        return self._counted

    async def run(self) -> None:
        """Count again and again. Never returns."""
        while True:
            loaded = self._loaded
            await self.count()
            if loaded is not self._loaded:
                continue
            interval = self._loaded.config.ops.dead_letters.interval
            pause = min(max(interval, _PAUSES * self._took), _LONGEST * interval)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()
                    await asyncio.sleep(max(0.0, self._began + self._took / _SHARE - time.monotonic()))

    @property
    def is_behind(self) -> bool:
        """True when this daemon has written dead letters since the last count."""
        return self._seen < self._written()

    async def refresh(self) -> None:
        """Cause another count for a reader, and wait for it if this daemon has written dead letters since the last one.

        Counts take a bounded share of the time, and a reader waits at most `_REFRESH_SECONDS`.
        """
        wanted = self._written()
        if time.monotonic() - self._began > _FRESH or self._seen < wanted:
            self._asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFRESH_SECONDS):
                while self._seen < wanted:
                    await self._ended.wait()

    async def count(self) -> None:
        """Count all dead letters once, as `_count_all` does, and let readers know."""
        self._asked.clear()
        self._began, seen = time.monotonic(), self._written()
        try:
            await self._count_all()
        finally:
            self._took = time.monotonic() - self._began
            self._seen = seen
            ended, self._ended = self._ended, asyncio.Event()
            ended.set()

    async def _count_all(self) -> None:
        """Count all dead letters once. A broker or engine that does not answer leaves its earlier counts.

        A count during which the configuration changes is dropped.
        """
        loaded = self._loaded
        async with AsyncExitStack() as opened:
            try:
                existing = await found_places(loaded, (), dict(self._brokers), opened)
            except BridgeError as error:
                self._report("*", str(error))
                return
            self._reported.pop("*", None)
            self._counts += 1
            for place in existing:
                states = PlaceStates(loaded, opened, self._engines)
                try:
                    await self._count(loaded, place, states)
                except BridgeError as error:
                    self._report(place.topic, str(error))
                else:
                    self._reported.pop(place.topic, None)
        if loaded is not self._loaded:
            return
        for gone in self._open.keys() - set(existing):
            for part in (self._rows, self._causes, self._open, self._oldest, self._missing, self._tried):
                part.pop(gone, None)
        self._counted = time.time()
        self._on_count(self._causes)
        self._known = {
            name
            for name in self._loaded.config.sources
            if all(place in self._open for place in existing if name in place.owners)
        }
        if self._cache is not None:
            self.cache_bytes = await asyncio.to_thread(self._cache.tidy)

    def _report(self, place: str, detail: str) -> None:
        """Log an error, once while it lasts."""
        if self._reported.get(place) != detail:
            self._reported[place] = detail
            log.info("dead letters cannot be counted", action="count", place=place, detail=detail)

    async def _count(self, loaded: Loaded, place: DeadLetterPlace, states: PlaceStates) -> None:
        broker = readable(self._brokers[place.broker])
        # States first: a dead letter that has a state exists
        await states.load(place)
        check = self._counts % _CHECKED == 0
        rows = await self._reader.read(broker, place.topic, self._rows.get(place), check=check)
        found: Counter[tuple[str, str, str]] = Counter()
        oldest: dict[str, float] = {}
        causes: dict[Facts, Summary] = {}
        for facts, summary in await asyncio.to_thread(self._sums, place, rows, states):
            if (source := facts.source if facts.source is not None else place.owners[0]) not in place.owners:
                continue  # another bridge shares the topic
            found[source, self._reason(facts), self._route(facts)] += summary.count
            if facts in causes:
                causes[facts].join(summary)
            else:
                causes[facts] = replace(summary)
            if summary.first is not None:
                oldest[source] = min(oldest.get(source, math.inf), summary.first)
        if loaded is not self._loaded:
            return
        self._open[place], self._oldest[place], self._causes[place] = found, oldest, causes
        await self._forget(place, rows, states)
        if isinstance(broker, CompletingBroker):
            await self._complete(broker, place, rows, states)
        if rows.is_cached and self._cache is not None:
            for block in (each for blocks in rows.partitions.values() for each in blocks):
                block.unload()
            self._rows[place] = rows

    def _sums(self, place: DeadLetterPlace, rows: TopicRows, states: PlaceStates) -> list[tuple[Facts, Summary]]:
        choice = choice_of(place, _OPEN, states)
        return [
            each
            for partition, block, here in self._blocks(place, rows, states, choice)
            for each in self._loaded_block(place, rows, partition, block, here).sums(here)
        ]

    def _blocks(
        self, place: DeadLetterPlace, rows: TopicRows, states: PlaceStates, choice: RowSelection
    ) -> Iterator[tuple[int, Rows, RowSelection]]:
        for partition, blocks in rows.partitions.items():
            here = replace(choice, states=at_partition(place, partition, states))
            for block in blocks:
                yield partition, block, here

    def _loaded_block(
        self, place: DeadLetterPlace, rows: TopicRows, partition: int, block: Rows, choice: RowSelection
    ) -> Rows:
        """Block with its columns, if they are needed. Raises: BridgeError when the cache has lost them."""
        if block.is_loaded or block.is_summed(choice):
            return block
        assert self._cache is not None, "rows without files are not unloaded"
        found = self._cache.block(rows.cluster, place.topic, partition, rows.generations[partition], block.first)
        if found is None or found.anchor != block.anchor:
            self._rows.pop(place, None)  # the next count reads all
            raise BridgeError(f"the cache of {place.topic} is damaged or was removed")
        return found.since(block.begin)

    def _reason(self, facts: Facts) -> str:
        reason = facts.reason if facts.format == "bridge" else "foreign"
        if reason in self._reasons or len(self._reasons) < _REASONS:
            self._reasons.add(reason)
            return reason
        return "other"

    def _route(self, facts: Facts) -> str:
        known = any(route.name == facts.route for route in self._loaded.config.routes)
        return facts.route if known and facts.route is not None else ""

    # -- states of dead letters that do not exist any more

    async def _forget(self, place: DeadLetterPlace, rows: TopicRows, states: PlaceStates) -> None:
        """Remove the states of dead letters that retention or compaction has removed, or somebody has completed."""
        missing: set[tuple[str, DeadLetterRef]] = set()
        for engine, topic in states.topics(place).items():
            store = DeadLetterStates(self._engines[engine])
            for (partition, first), block in topic.blocks.items():
                begin, end = (rows.ranges or {}).get(partition, (0, first + DEAD_LETTER_BLOCK))
                at = DeadLetterRef(place.broker, place.topic, partition, first)
                if first + DEAD_LETTER_BLOCK <= begin or first >= end:
                    await store.send("forget", [at], {"below": DEAD_LETTER_BLOCK})
                    continue
                present, before = await asyncio.to_thread(self._present, place, rows, partition, first)
                if begin > first or any(mark.written < before for mark, _ in block.marks()):
                    await store.send("forget", [at], {"below": max(0, begin - first), "before": before})
                missing |= {
                    (engine, at._replace(offset=first + each))
                    for _, members in block.marks()
                    for each in members
                    if first + each >= begin and first + each not in present
                }
        # A queue may hide a message for a moment: it must be missing twice
        sure = missing if rows.ranges is not None else missing & self._missing.get(place, set())
        self._missing[place] = missing
        for engine in {engine for engine, _ in sure}:
            refs = [ref for name, ref in sure if name == engine]
            await DeadLetterStates(self._engines[engine]).send("forget", refs, {})

    def _present(self, place: DeadLetterPlace, rows: TopicRows, partition: int, first: int) -> tuple[set[int], float]:
        """Offsets of the dead letters of a block, and the time of the oldest; minus infinity if one has no time."""
        needed = RowSelection(lambda facts: True, lambda facts, first: BlockStates(), frozenset())
        for block in rows.partitions.get(partition, ()):
            if block.first == first:
                found = list(self._loaded_block(place, rows, partition, block, needed).rows())
                times = [-math.inf if at is None else at for _, at, _ in found]
                return {offset for offset, _, _ in found}, min(times, default=-math.inf)
        return set(), -math.inf

    # -- dead letters of queues

    async def _complete(
        self, broker: CompletingBroker, place: DeadLetterPlace, rows: TopicRows, states: PlaceStates
    ) -> None:
        """Complete the messages that were replayed, or dropped before the restore time."""
        dropped_before = time.time() - self._loaded.config.ops.dead_letters.restore
        due = []
        for blocks in rows.partitions.values():
            for block in blocks:
                for offset, at, facts in block.rows():
                    found = states.block(place, facts.source, 0, block.first)
                    mark = None if found is None else found.mark(offset, at)
                    if mark is not None and mark.is_over(dropped_before):
                        due.append(offset)
        tried, at = self._tried.get(place, (frozenset[int](), -math.inf))
        if not due or (tried.issuperset(due) and time.monotonic() < at + _AGAIN):
            return
        done = await broker.complete(place.topic, frozenset(due))
        self._tried[place] = (frozenset(due), time.monotonic())
        log.info(
            f"completed {done:,} of {len(due):,} dead letters that were replayed or dropped",
            action="complete", place=place.topic, completed=done, due=len(due),
        )  # fmt: skip
