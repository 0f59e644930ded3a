"""When a source may take in more: bounds with high and low water marks, and what holds it."""

from __future__ import annotations

import asyncio
import time

import structlog

from bridge.brokers.base import Partition
from bridge.pipeline.shares import PerValue

log = structlog.get_logger("bridge.gate")

_LOW_WATER = 0.75
_QUIET = 60.0
"""Seconds between two warnings of what a sender can bring about again and again."""


class _Level:
    """Records and bytes against their bounds: full from the high mark (the bound) down to the low mark."""

    __slots__ = ("_max_bytes", "_max_records", "full")

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self.full = False

    def measure(self, records: int, size: int) -> bool:
        if self.full:
            self.full = records > self._max_records * _LOW_WATER or size > self._max_bytes * _LOW_WATER
        else:
            self.full = records >= self._max_records or size >= self._max_bytes
        return self.full


class FlowControl:
    """Intake passes while the gate is open.

    holds: what keeps it closed, by cause (`engine default`, `broker`), with a sentence for a person.
    Fullness closes it too: at the high mark (the limit) until the low mark (three quarters of it).
    """

    def __init__(self, max_records: int, max_bytes: int, max_gap: int, per: PerValue | None = None) -> None:
        """per: bounds of what waits for others of its value."""
        self._max_gap = max_gap
        self._open = asyncio.Event()
        self._open.set()
        self._at_work = _Level(max_records, max_bytes)
        self._waiting = None if per is None else _Level(per.max_waiting, per.max_waiting_bytes)
        self._warn_at = float("-inf")
        self.full = False
        self.pause_reasons: dict[str, str] = {}
        self.paused: set[Partition] = set()
        """Partitions at their gap limit: fetched no further until what blocks their prefix is settled."""

    async def wait(self) -> None:
        """Return when intake may go on."""
        await self._open.wait()

    def hold(self, cause: str, detail: str) -> None:
        self.pause_reasons[cause] = detail
        self._open.clear()

    def release(self, cause: str) -> None:
        self.pause_reasons.pop(cause, None)
        self._update()

    def measure(self, records: int, size: int, waiting: tuple[int, int] = (0, 0)) -> None:
        """Take note of what is in flight: records and bytes. waiting: of these, what waits for others of its value."""
        full = self._at_work.measure(records - waiting[0], size - waiting[1])
        if self._waiting is not None:
            was, now = self._waiting.full, time.monotonic()
            if self._waiting.measure(*waiting) and not was and now >= self._warn_at:
                self._warn_at = now + _QUIET
                log.warning(
                    f"the source is read no further: {waiting[0]} records of {waiting[1]} bytes wait for others of "
                    "their value (limits.per.max_waiting, max_waiting_bytes)",
                    action="pause",
                )
            full = full or self._waiting.full
        if full is not self.full:
            self.full = full
            self._update()

    def fetched(self, partition: Partition) -> None:
        """Pause a partition whose gap reached the limit."""
        if partition.gap >= self._max_gap and partition not in self.paused:
            self.paused.add(partition)
            partition.pause()
            log.warning(
                f"{partition.topic}/{partition.number} is read no further: {partition.gap} records wait for a commit "
                f"behind one that is not settled (limits.max_gap {self._max_gap})",
                action="pause",
            )

    def settled(self, partition: Partition) -> None:
        """Resume a paused partition whose gap fell to the low mark."""
        if partition in self.paused and partition.gap <= self._max_gap * _LOW_WATER:
            self.paused.discard(partition)
            partition.resume()
            log.info(f"{partition.topic}/{partition.number} is read on", action="resume")

    def forget(self, partition: Partition) -> None:
        """The partition is gone."""
        self.paused.discard(partition)

    def _update(self) -> None:
        if self.full or self.pause_reasons:
            self._open.clear()
        else:
            self._open.set()
