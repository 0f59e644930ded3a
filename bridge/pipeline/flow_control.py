"""Flow control of a source's intake: limits with high and low marks, and reasons to pause."""

from __future__ import annotations

import asyncio
import time

import structlog

from bridge.brokers.base import Partition
from bridge.pipeline.shares import PerValue

log = structlog.get_logger("bridge.gate")

_LOW_WATER = 0.75
_QUIET = 60.0
"""Seconds between two warnings of a state that a sender can cause repeatedly."""


class _Level:
    """Records and bytes with their limits: full from the high mark (the limit) down to the low mark."""

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
    """Flow control of one source's intake.

    pause_reasons: reasons to pause, by cause (`engine default`, `broker`), each a sentence for a person.
    A full pipeline pauses too: from the high mark (the limit) down to the low mark (three quarters of the limit).
    """

    def __init__(self, max_records: int, max_bytes: int, max_gap: int, per: PerValue | None = None) -> None:
        """Create a flow control. per: limits of the records that wait for others of their value."""
        self._max_gap = max_gap
        self._open = asyncio.Event()
        self._open.set()
        self._at_work = _Level(max_records, max_bytes)
        self._waiting = None if per is None else _Level(per.max_waiting, per.max_waiting_bytes)
        self._warn_at = float("-inf")
        self.full = False
        self.pause_reasons: dict[str, str] = {}
        self.paused: set[Partition] = set()
        """Partitions at their gap limit: not fetched until the message that blocks their prefix is settled."""

    async def wait(self) -> None:
        """Return when intake may continue."""
        await self._open.wait()

    def hold(self, cause: str, detail: str) -> None:
        self.pause_reasons[cause] = detail
        self._open.clear()

    def release(self, cause: str) -> None:
        self.pause_reasons.pop(cause, None)
        self._update()

    def measure(self, records: int, size: int, waiting: tuple[int, int] = (0, 0)) -> None:
        """Update the records and bytes in flight. waiting: those of them that wait for others of their value."""
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
        """Pause a partition whose gap has reached the limit."""
        if partition.gap >= self._max_gap and partition not in self.paused:
            self.paused.add(partition)
            partition.pause()
            log.warning(
                f"{partition.topic}/{partition.number} is read no further: {partition.gap} records wait for a commit "
                f"behind one that is not settled (limits.max_gap {self._max_gap})",
                action="pause",
            )

    def settled(self, partition: Partition) -> None:
        """Resume a paused partition whose gap has fallen to the low mark."""
        if partition in self.paused and partition.gap <= self._max_gap * _LOW_WATER:
            self.paused.discard(partition)
            partition.resume()
            log.info(f"{partition.topic}/{partition.number} is read on", action="resume")

    def forget(self, partition: Partition) -> None:
        """Remove a revoked partition."""
        self.paused.discard(partition)

    def _update(self) -> None:
        if self.full or self.pause_reasons:
            self._open.clear()
        else:
            self._open.set()
