"""An open consumer of the log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from bridge.brokers.base import Partition
from bridge.brokers.local.commits import Commits
from bridge.brokers.local.ownership import Ownership
from bridge.brokers.local.partition import LocalDelivery
from bridge.brokers.local.threads import LogReader
from bridge.brokers.local.waker import Wake
from bridge.brokers.positions import Move, Moved, Place
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message
from bridge.system.tasks import cancelled

_log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Seconds between polls by a consumer: a killed member wakes no other, and a datagram may be lost."""

RETRY_SECONDS = 1.0
"""Pause of a consumer after a failure, in seconds."""

BUFFER_BYTES = 32 * 1024 * 1024
"""Bytes read ahead by one subscription, over all its partitions; a single record may be larger."""


class LocalSubscription:
    """Implementation of `bridge.brokers.base.Subscription`, `AgingSubscription`, `RereadableSubscription` and
    `bridge.brokers.positions.MovableSubscription`.
    """

    def __init__(
        self, *, ownership: Ownership, commits: Commits, reader: LogReader, check: float, closed: Callable[[], None]
    ) -> None:
        """Create a local subscription.

        check: seconds between polls for records without a wake-up.
        closed: called once, at the end of `close`.
        """
        self._ownership = ownership
        self._commits = commits
        self._reader = reader
        self._check = check
        self._on_closed = closed
        self._closed = False
        self._failure: BrokerUnavailable | None = None
        self._ready = asyncio.Event()
        self._records = asyncio.Event()
        self._members = asyncio.Event()
        self._assigned = asyncio.Event()
        """Set after the first attempt to take partitions has succeeded or failed."""
        self._polled = 0.0
        self._first = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group. Raises: BrokerUnavailable."""
        await self._ownership.join()
        self._tasks = [
            asyncio.create_task(self._keep(self._rebalance, self._members, CHECK_SECONDS)),
            asyncio.create_task(self._keep(self._read, self._records, self._check)),
        ]
        try:
            await self._assigned.wait()
        except BaseException:
            await self.close()
            raise

    def wake(self, wake: Wake) -> None:
        """Check the log for records, or the group for changes."""
        (self._records if wake is Wake.RECORDS else self._members).set()

    def changed(self) -> None:
        """Check partitions again, since they may have records to hand out, or space to read more."""
        self._ready.set()
        self._records.set()

    async def receive(self, limit: int) -> Sequence[LocalDelivery]:
        """See `Subscription.receive`."""
        while not self._closed:
            taken = self._take(limit)
            if taken:
                return taken
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            self._ready.clear()
            await self._ready.wait()
        return ()

    def _take(self, limit: int) -> list[LocalDelivery]:
        partitions = list(self._ownership.partitions.values())
        taken: list[LocalDelivery] = []
        if partitions:
            # A different partition comes first each time, so none starves behind a full one
            self._first = (self._first + 1) % len(partitions)
            for partition in itertools.chain(partitions[self._first :], partitions[: self._first]):
                taken += partition.take(limit - len(taken))
                if partition.has_room and partition.next_fetch < partition.end:
                    self._records.set()
                if len(taken) >= limit:
                    break
        return taken

    async def reread(
        self, partition: Partition, offsets: Sequence[int], size: int
    ) -> Sequence[tuple[int, Message | None]]:
        """See `RereadableSubscription.reread`."""
        topic, number = partition.topic, partition.number
        return await self._reader.query(lambda log: log.at(log.partitions(topic)[number], offsets, size))

    async def move(self, moves: Mapping[Place, Move]) -> dict[Place, Moved]:
        """See `MovableSubscription.move`. Raises: BrokerUnavailable."""
        try:
            return await self._ownership.move(moves)
        finally:
            self.changed()

    async def flush(self) -> None:
        """See `Subscription.flush`."""
        await self._commits.commit()

    def lag(self) -> dict[tuple[str, int], int]:
        """See `Subscription.lag`."""
        known = (each for each in self._ownership.partitions.values() if each.is_end_known)
        return {(each.topic, each.number): each.lag for each in known}

    def oldest(self) -> dict[tuple[str, int], float]:
        """See `AgingSubscription.oldest`."""
        found = ((each, each.oldest) for each in self._ownership.partitions.values())
        return {(each.topic, each.number): oldest for each, oldest in found if oldest is not None}

    def stopped(self) -> dict[str, str]:
        """See `StoppableSubscription.stopped`."""
        return {
            f"{each.topic}/{each.number}": each.stopped for each in self._ownership.partitions.values() if each.stopped
        }

    async def close(self) -> None:
        """See `Subscription.close`. The listener is not notified: the caller has nothing in flight, or abandons it."""
        if self._closing is None:
            self._closed = True
            self._ready.set()
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await cancelled(*self._tasks)
        await self._commits.stop()
        await self._ownership.leave()
        self._on_closed()

    async def _keep(self, work: Callable[[], Awaitable[bool]], event: asyncio.Event, check: float) -> None:
        """Run `work` when `event` is set or `check` seconds have passed, and again at once while `work` returns
        True.
        """
        while True:
            event.clear()
            try:
                again = await work()
                self._failure = None
            except Exception as error:
                self._fail(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not again:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(check):
                        await event.wait()

    def _fail(self, error: Exception) -> None:
        """Let `receive` raise the error: a broken consumer must not look idle."""
        if not isinstance(error, BrokerUnavailable):
            _log.error("the local consumer failed unexpectedly", exc_info=error)
            error = BrokerUnavailable(
                f"the local consumer failed with an unexpected {type(error).__name__}, see the log"
            )
        self._failure = error
        self._ready.set()

    async def _rebalance(self) -> bool:
        try:
            if await self._ownership.rebalance():
                self.changed()
        finally:
            self._assigned.set()
        return False

    async def _read(self) -> bool:
        """Read for the partitions that have room; return whether there is more to read at once."""
        partitions = list(self._ownership.partitions.values())
        if not partitions:
            return False
        for partition in partitions:
            partition.set_share(BUFFER_BYTES // len(partitions))
        fetches = [partition.next_fetch_request() for partition in partitions if partition.has_room]
        now = asyncio.get_running_loop().time()
        if not fetches and now < self._polled + self._check:
            return False
        self._polled = now
        keys = [partition.id for partition in partitions]
        ends, batches = await self._reader.query(lambda log: log.fetch(keys, fetches))
        for partition in partitions:
            partition.note_end(ends[partition.id])
            batch = batches.get(partition.id)
            if batch is not None:
                partition.add(batch)
        if batches:
            self._ready.set()
        return any(partition.has_room and partition.next_fetch < partition.end for partition in partitions)
