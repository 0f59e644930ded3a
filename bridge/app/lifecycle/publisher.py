"""Publication of lifecycle events: a bounded queue, the ends that engines keep, and retries."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import structlog

from bridge.app.lifecycle.facts import request
from bridge.core.errors import BridgeError, MessageError, PublishRefused, UnknownTarget
from bridge.core.lifecycle import EventKind, LifecycleEvent
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.events")

BATCH = 100
"""Ends that are read at once from an engine."""

PERIOD = 1.0
"""Seconds between two looks at the ends that engines keep."""

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between attempts while the target takes no events."""


class KeptTexts(Protocol):
    """Events that an engine keeps until they are published, in their stored form."""

    @property
    def waiting(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    def read(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Position and text of the next events. Raises: OSError."""
        ...

    @property
    def confirm(self) -> Callable[[int], None]:
        """Function that deletes the events up to a position."""
        ...


class LifecycleEvents:
    """Publisher of the events of one daemon.

    published: events by kind. away: cause why the target takes none; None while it does.
    A failed publication makes no event: it is counted and logged.
    """

    def __init__(
        self, publish: Callable[[Mapping[str, Any]], Awaitable[object]], target: str, kinds: Collection[EventKind],
        most: int,
    ) -> None:  # fmt: skip
        """Create the publisher, in the event loop. most: events in memory; further ones are dropped."""
        self._publish = publish
        self._target = target
        self._kinds = frozenset(kinds)
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._queue: deque[LifecycleEvent] = deque()
        self._stores: list[KeptTexts] = []
        self._read: dict[int, int] = {}
        """Position up to which the events of a store were published, by its index."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.published: Counter[str] = Counter()
        self.away: str | None = None
        self._dropped: Counter[str] = Counter({"buffer": 0, "refused": 0, "unreadable": 0})

    def wants(self, *kinds: EventKind) -> bool:
        """True when events of one of these kinds are published."""
        return not self._kinds.isdisjoint(kinds)

    def add(self, event: LifecycleEvent) -> None:
        """Publish an event soon. Callable from any thread; never blocks."""
        if event.kind not in self._kinds:
            return
        if len(self._queue) >= self._most:
            self._dropped["buffer"] += 1
            return
        self._queue.append(event)
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop is closed
            return

    def add_store(self, store: KeptTexts) -> None:
        """Publish the events that an engine keeps."""
        self._stores.append(store)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Events that were not published, by reason."""
        return {**self._dropped, "backlog": sum(store.dropped for store in self._stores)}

    @property
    def waiting(self) -> Mapping[str, int]:
        """Events in memory, and in the files of engines."""
        return {"memory": len(self._queue), "engine": sum(store.waiting for store in self._stores)}

    def start(self) -> None:
        """Start to publish."""
        self._task = asyncio.create_task(self._run(), name="lifecycle events")

    async def stop(self, seconds: float) -> None:
        """Publish the events in memory within `seconds`, and stop. Those in files of engines stay there. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(seconds):
                while self._queue:
                    self._wake.set()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning(f"{len(self._queue)} lifecycle events are not published: {self.away}", action="stop")
        await cancelled(task)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PERIOD):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._publish_all()

    async def _publish_all(self) -> None:
        while self._queue:
            await self._send(self._queue[0])
            self._queue.popleft()
        for index, store in enumerate(self._stores):
            while await self._publish_stored(index, store):
                pass

    async def _publish_stored(self, index: int, store: KeptTexts) -> bool:
        try:
            rows = await asyncio.to_thread(store.read, self._read.get(index, 0), BATCH)
        except OSError:
            return False
        for position, text in rows:
            event = LifecycleEvent.of_text(text)
            if event is None:
                self._dropped["unreadable"] += 1
            elif event.kind in self._kinds:
                await self._send(event)
            self._read[index] = position
        if rows:
            store.confirm(rows[-1][0])
        return bool(rows)

    async def _send(self, event: LifecycleEvent) -> None:
        """Publish an event, again and again while the target is away; count one that is refused."""
        attempt = 0
        while True:
            try:
                await self._publish(request(event, self._target))
            except (PublishRefused, UnknownTarget, MessageError) as error:
                if not self._dropped["refused"]:
                    log.error(f"target {self._target} refuses lifecycle events: {error}", action="events")
                self._dropped["refused"] += 1
                return
            except BridgeError as error:
                if self.away is None:
                    log.warning(
                        f"target {self._target} does not accept lifecycle events: {error}. Work continues; events "
                        "wait, and are dropped beyond `events.buffer` and `events.backlog`",
                        action="events",
                    )
                self.away = str(error)
                await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1
            else:
                break
        self.published[event.kind] += 1
        if self.away is not None:
            self.away = None
            log.info(f"target {self._target} takes lifecycle events again", action="events")
