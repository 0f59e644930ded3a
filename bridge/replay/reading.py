"""Reading of single dead letters by their positions, in the order of a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, cast

from bridge.brokers.base import Broker, ReadableBroker, ReadOptions, readable
from bridge.core.errors import BrokerError
from bridge.core.message import Message, Position

_OPEN = 16
"""Most readings that stay open for the next page of a job."""

_IDLE = 30.0
"""Seconds after which an unused reading is closed."""

_GAP = 5000
"""Offsets that a reading passes, rather than to open another one."""


class _Reading:
    """Open reading of one partition.

    position: first offset that was not read yet.
    """

    def __init__(self, broker: ReadableBroker, topic: str, partition: int, start: int) -> None:
        options = ReadOptions(topic, start=start, partition=partition)
        self._messages: AsyncIterator[tuple[Position, Message]] = broker.read(options)
        self._ahead: tuple[Position, Message] | None = None
        self.position = start
        self.is_over = False
        """The end of the topic, as of the start of the reading, is reached."""
        self.used_at = time.monotonic()

    async def take(self, offsets: Iterable[int]) -> dict[int, tuple[Position, Message]]:
        """Read on to the last one of these ascending offsets; return those that exist."""
        self.used_at = time.monotonic()
        found: dict[int, tuple[Position, Message]] = {}
        for offset in offsets:
            while self._ahead is None or self._ahead[0].offset < offset:
                self._ahead = await anext(self._messages, None)
                if self._ahead is None:
                    self.is_over = True
                    return found
            if self._ahead[0].offset == offset:
                found[offset] = self._ahead
            self.position = offset + 1
        return found

    async def close(self) -> None:
        await cast(Any, self._messages).aclose()


class DeadLetterReader:
    """Reader of dead letters by position. A reading stays open for the following positions of a job."""

    def __init__(self, brokers: Mapping[str, Broker]) -> None:
        self._brokers = brokers
        self._open: dict[tuple[str, str, int], _Reading] = {}
        self._lock = asyncio.Lock()
        self._closing: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(
        self, broker: str, places: Iterable[tuple[str, int, int]]
    ) -> dict[tuple[str, int, int], tuple[Position, Message]]:
        """Messages at these places (topic, partition, offset) that exist.

        Raises: BrokerError when a topic cannot be read, BrokerUnavailable.
        """
        wanted: dict[tuple[str, int], list[int]] = {}
        for topic, partition, offset in places:
            wanted.setdefault((topic, partition), []).append(offset)
        found: dict[tuple[str, int, int], tuple[Position, Message]] = {}
        async with self._lock:
            for (topic, partition), offsets in wanted.items():
                for offset, each in (await self._partition(broker, topic, partition, sorted(set(offsets)))).items():
                    found[topic, partition, offset] = each
        return found

    async def _partition(
        self, name: str, topic: str, partition: int, offsets: list[int]
    ) -> dict[int, tuple[Position, Message]]:
        configured = self._brokers.get(name)
        if configured is None:
            raise BrokerError(f"the broker {name!r} is not configured here")
        broker = readable(configured)
        found: dict[int, tuple[Position, Message]] = {}
        at = 0
        while at < len(offsets):
            until = at + 1
            while until < len(offsets) and offsets[until] - offsets[until - 1] <= _GAP:
                until += 1
            found |= await self._run(broker, (name, topic, partition), offsets[at:until])
            at = until
        return found

    async def _run(
        self, broker: ReadableBroker, key: tuple[str, str, int], offsets: list[int]
    ) -> dict[int, tuple[Position, Message]]:
        reading = self._open.pop(key, None)
        if reading is not None and not reading.position <= offsets[0] <= reading.position + _GAP:
            await reading.close()
            reading = None
        is_old = reading is not None
        if reading is None:
            reading = _Reading(broker, key[1], key[2], offsets[0])
        try:
            found = await reading.take(offsets)
        except BaseException:
            await reading.close()
            raise
        if reading.is_over:
            await reading.close()
            # The topic may have grown since the start of an old reading
            left = [offset for offset in offsets if offset >= reading.position]
            return found | await self._run(broker, key, left) if is_old and left else found
        self._open[key] = reading
        if len(self._open) > _OPEN:
            await self._open.pop(next(iter(self._open))).close()
        self._watch()
        return found

    def _watch(self) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(_IDLE, self._expire)

    def _expire(self) -> None:
        self._closing = None
        task = asyncio.get_running_loop().create_task(self._close_idle())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_idle(self) -> None:
        async with self._lock:
            now = time.monotonic()
            for key in [key for key, each in self._open.items() if now - each.used_at >= _IDLE]:
                await self._open.pop(key).close()
        if self._open:
            self._watch()

    async def close(self) -> None:
        """Close all readings."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        async with self._lock:
            while self._open:
                await self._open.popitem()[1].close()
