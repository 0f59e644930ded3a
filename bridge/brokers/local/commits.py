"""Commits of a group's positions to the log, gathered for an interval and written together."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from bridge.brokers.local.encoding import CommittedPosition
from bridge.brokers.local.log import Log
from bridge.brokers.local.threads import LogWriter
from bridge.core.errors import BrokerError
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class Committable(Protocol):
    """A partition whose position is committed."""

    @property
    def id(self) -> int: ...

    @property
    def stamp(self) -> int:
        """Stamp of the assignment; see `bridge.brokers.positions.Move`."""
        ...

    def snapshot(self) -> CommittedPosition:
        """Position that may be committed now."""
        ...


class Commits:
    """Commits of one subscription."""

    def __init__(self, writer: LogWriter, group: str, interval: float) -> None:
        self.writer = writer
        self.group = group
        self._interval = interval
        self._dirty: set[Committable] = set()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._background: asyncio.Task[None] | None = None
        self._failing = False

    def commit_soon(self, partition: Committable) -> None:
        """Commit the partition within the interval, because a delivery in it was completed."""
        self._dirty.add(partition)
        if self._timer is None and self._background is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval, self._start)

    def _start(self) -> None:
        self._timer = None
        self._background = asyncio.create_task(self._in_background())

    async def _in_background(self) -> None:
        delay = self._interval
        try:
            await self.commit()
        except BrokerError as error:
            delay = max(delay, RETRY_SECONDS)
            if not self._failing:
                _log.warning("group %s cannot commit and tries again: %s", self.group, error)
            self._failing = True
        else:
            self._failing = False
        finally:
            self._background = None
        if self._dirty:
            self._timer = asyncio.get_running_loop().call_later(delay, self._start)

    async def commit(self) -> None:
        """Return when every earlier completion, and every dead letter begun before the call, is durable.

        Raises: BrokerUnavailable; the positions are then kept for the next commit.
        """
        async with self._turn:
            dirty, self._dirty = self._dirty, set()
            given = [(partition, partition.snapshot()) for partition in dirty]
            try:
                # Submitted without positions too: the writer keeps the order, and this waits for earlier work
                await self.writer.submit(lambda log: _commit(log, self.group, given))
            except BaseException:
                self._dirty |= dirty
                raise

    async def stop(self) -> None:
        """Stop committing in the background. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await cancelled(self._background)


def _commit(log: Log, group: str, given: list[tuple[Committable, CommittedPosition]]) -> None:
    for partition, position in given:
        log.commit(group, partition.id, position, partition.stamp)
