"""Reading of the dead letters of a topic as rows: what the cache has is not read again."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, cast

from bridge.brokers.base import LogBroker, LogRanges, ReadableBroker, ReadOptions
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message, Position
from bridge.dead_letters.cache import RowCache
from bridge.dead_letters.rows import Facts, Rows, block_of

_REMEMBERED = 10_000
"""Details whose fingerprint is kept: most details of a cause differ only in their values, or not at all."""


_AT_ONCE = 100
"""Dead letters that are read without a pause."""


class Fingerprints:
    """Fingerprints of causes. That of a detail is computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None, str, str, str], str] = {}

    def of(self, entry: DeadLetter) -> str:
        """Fingerprint of the cause of a dead letter."""
        facts = (entry.reason, entry.route, entry.error, entry.detail, entry.stated_fingerprint)
        found = self._known.get(facts)
        if found is None:
            found = entry.fingerprint
            if len(self._known) < _REMEMBERED:
                self._known[facts] = found
        return found


@dataclass(slots=True)
class TopicRows:
    """Rows of the dead letters of a topic.

    cluster: identity of the cluster.
    partitions: blocks of each partition, oldest first.
    ranges: first offset and end of each partition; None for a queue, whose messages can leave in any order.
    is_cached: True if the rows can be kept: the topic loses its oldest messages only.
    generations: of the files in the cache, by partition.
    """

    cluster: str
    partitions: dict[int, list[Rows]]
    ranges: Mapping[int, tuple[int, int]] | None
    is_cached: bool
    generations: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(rows) for blocks in self.partitions.values() for rows in blocks)


class TopicReader:
    """Reader of the dead letters of topics.

    cache: keeps the rows between processes; None: everything is read each time.
    progress: called with the number of dead letters read so far.
    share: part of the time of a processor that reading may take.
    """

    def __init__(
        self, cache: RowCache | None, progress: Callable[[int], None] = lambda count: None, share: float = 1.0
    ) -> None:
        self._cache = cache
        self._pause = 1.0 / share - 1.0
        self._progress = progress
        self._fingerprints = Fingerprints()
        self._count = 0

    async def read(
        self, broker: ReadableBroker, topic: str, before: TopicRows | None = None, *, check: bool = True
    ) -> TopicRows:
        """Read the rows of a topic.

        before: earlier result for the topic, whose rows may be unloaded. Only with a cache.
        check: read the last known dead letter again. Otherwise a topic with the offsets of `before` has not changed.
        Raises: BrokerError, BrokerUnavailable.
        """
        ranges = await broker.ranges(topic) if isinstance(broker, LogBroker) else None
        if ranges is None or not ranges.whole:
            return await self._read_all(broker, topic, ranges)
        if before is not None and not check and (before.cluster, before.ranges) == (ranges.cluster, ranges.offsets):
            return before
        known: dict[int, tuple[str, dict[int, Rows]]] = {}
        for partition, (begin, end) in ranges.offsets.items():
            known[partition] = self._known(ranges.cluster, topic, partition, begin, end, before)
        found = TopicRows(ranges.cluster, {}, ranges.offsets, is_cached=True)
        wrong = await self._read_on(broker, topic, ranges, known, found)
        if wrong:
            for partition in wrong:
                known[partition] = ("", {})
            part = replace(ranges, offsets={partition: ranges.offsets[partition] for partition in wrong})
            await self._read_on(broker, topic, part, known, found)
        return found

    def _known(
        self, cluster: str, topic: str, partition: int, begin: int, end: int, before: TopicRows | None
    ) -> tuple[str, dict[int, Rows]]:
        """Generation and blocks of a partition that were read before. They end with a dead letter."""
        if self._cache is None:
            return "", {}
        generation, blocks = "", dict[int, Rows]()
        if before is not None and before.cluster == cluster and partition in before.generations:
            generation = before.generations[partition]
            blocks = self._kept(cluster, topic, partition, begin, end, before)
        if not blocks:
            cached = self._cache.load(cluster, topic, partition, begin, end)
            generation, blocks = cached.generation, cached.blocks
        while blocks and (last := next(reversed(blocks.values()))).anchor is None:
            del blocks[last.first]
        return (generation, blocks) if blocks else ("", {})

    def _kept(
        self, cluster: str, topic: str, partition: int, begin: int, end: int, before: TopicRows
    ) -> dict[int, Rows]:
        """Blocks of an earlier result. Those that change are loaded. Empty if one cannot be, or the log is shorter."""
        assert self._cache is not None
        kept = [rows for rows in before.partitions[partition] if rows.end > begin]
        if any(rows.end > end for rows in kept):
            return {}
        for index, rows in enumerate(kept):
            if rows.is_loaded:
                kept[index] = rows.since(begin)
                continue
            if rows.begin >= begin and index < len(kept) - 1:
                continue
            loaded = self._cache.block(cluster, topic, partition, before.generations[partition], rows.first)
            if loaded is None or loaded.anchor != rows.anchor or loaded.end != rows.end:
                return {}
            kept[index] = loaded.since(begin)
        return {rows.first: rows for rows in kept}

    async def _read_on(
        self,
        broker: ReadableBroker,
        topic: str,
        ranges: LogRanges,
        known: Mapping[int, tuple[str, dict[int, Rows]]],
        found: TopicRows,
    ) -> set[int]:
        """Add the rows behind the known ones to `found`; return the partitions that are another log than the known one.

        The last known dead letter is read again. If it has changed, the topic was created anew or truncated.
        """
        anchors = {
            partition: anchor
            for partition, (_, blocks) in known.items()
            if partition in ranges.offsets and blocks and (anchor := next(reversed(blocks.values())).anchor) is not None
        }
        starts = {
            partition: (anchors[partition][0] if partition in anchors else begin, end)
            for partition, (begin, end) in ranges.offsets.items()
        }
        wrong, last = set[int](), dict[tuple[int, int], Message]()
        options = ReadOptions(topic, ranges=starts)
        async for position, message in self._messages(broker, options):
            partition, offset = position.partition, position.offset
            if (anchor := anchors.pop(partition, None)) is not None:
                if anchor != (offset, digest_of(message)):
                    wrong.add(partition)
                continue
            if partition in wrong:
                continue
            self._add(known[partition][1], ranges.offsets[partition][0], position, message)
            last[partition, block_of(offset)] = message
        wrong |= anchors.keys()
        for (partition, first), message in last.items():
            known[partition][1][first].set_anchor(digest_of(message))
        for partition, (_, end) in ranges.offsets.items():
            if partition in wrong:
                continue
            generation, blocks = known[partition]
            ordered = list(blocks.values())
            touched = {first for each, first in last if each == partition}
            for rows, following in itertools.zip_longest(ordered, ordered[1:]):
                # Between two blocks there is nothing
                until = end if following is None else following.first
                if rows.read_up_to(until):
                    touched.add(rows.first)
            found.partitions[partition] = ordered
            fresh = ordered if not generation else [rows for rows in ordered if rows.first in touched]
            if self._cache is not None and fresh:
                generation = self._cache.save(found.cluster, topic, partition, generation, fresh)
            if ordered:
                found.generations[partition] = generation
        return wrong

    async def _read_all(self, broker: ReadableBroker, topic: str, ranges: LogRanges | None) -> TopicRows:
        offsets = None if ranges is None else ranges.offsets
        blocks: dict[int, dict[int, Rows]] = {}
        cluster = "" if ranges is None else ranges.cluster
        async for position, message in self._messages(broker, ReadOptions(topic, ranges=offsets)):
            cluster = position.cluster
            self._add(blocks.setdefault(position.partition, {}), 0, position, message)
        partitions = {partition: list(each.values()) for partition, each in blocks.items()}
        return TopicRows(cluster, partitions, offsets, is_cached=False)

    async def _messages(self, broker: ReadableBroker, options: ReadOptions) -> AsyncIterator[tuple[Position, Message]]:
        if options.ranges is not None and all(begin >= end for begin, end in options.ranges.values()):
            return
        began = time.perf_counter()
        async with aclosing(cast(Any, broker.read(options))) as messages:
            number = 0
            async for each in messages:
                yield each
                number += 1
                if self._pause and number % _AT_ONCE == 0:
                    await asyncio.sleep((time.perf_counter() - began) * self._pause)
                    began = time.perf_counter()

    def _add(self, blocks: dict[int, Rows], begin: int, position: Position, message: Message) -> None:
        entry = dead_letter.read(message, position)
        first = block_of(position.offset)
        rows = blocks.get(first)
        if rows is None:
            rows = blocks[first] = Rows(first, begin if not blocks else first, first)
        facts = Facts.of(entry, self._fingerprints.of(entry))
        rows.add(position.offset, entry.failed_at, facts, entry.detail)
        self._count += 1
        self._progress(self._count)


def digest_of(message: Message) -> str:
    """Digest of key, headers and time of a dead letter. The body is left out: it is payload."""
    digest = blake2b(repr((message.key, message.timestamp)).encode(), digest_size=12)
    for name, value in message.headers:
        digest.update(repr((name, value)).encode())
    return digest.hexdigest()
