"""Limit of a source's dead letters: a number per minute and route, and beyond it one dead letter per pause."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol
from uuid import uuid4

import structlog

from bridge.core.errors import EngineError
from bridge.core.pace import NO_ROUTE, SUCCESSES, Paces
from bridge.core.words import plural
from bridge.pipeline.in_flight_delivery import InFlightDelivery

log = structlog.get_logger("bridge.source")

REFRESH_SECONDS = 5.0
"""Age in seconds after which the shared paces are read again, before a dead letter and while a route is limited."""

CREDIT = 4
"""Dead letters that one success of a limited route allows.

The sum is at most the limit, or the number of waiting messages where that is larger. Bad messages among good ones must
not fill the source's limits and stop it. A rule that fails for nearly all messages has no successes.
"""

SHARE = 10
"""Divisor of the waiting messages that one success of any route allows once they would stop the others.

One of 500 messages has to succeed then. A rule that fails for all messages of a source has no successes.
"""

AT_ONCE = 8
"""Most freed messages that workers have at once. Each may be large, and other messages of the source need workers."""

_RETRY_SECONDS = 1.0


class DeadLetterLimited(Exception):
    """Raised when a dead letter was not written because its route is beyond the limit. The delivery stays unsettled."""

    def __init__(self, route: str) -> None:
        super().__init__(route)
        self.route = route


class PaceStore(Protocol):
    """Protocol of the paces of one source, shared by all its daemons."""

    async def load(self) -> Paces:
        """Read the paces. Raises: EngineError."""
        ...

    async def send(self, operation: str, value: dict[str, Any]) -> None:
        """Apply `limit`, `claim`, `wrote` or `ease` durably. Raises: EngineError."""
        ...


class DeadLetterLimit:
    """Limit that decides when a dead letter of one source may be written. Not thread-safe: one event loop.

    Call `allow` before each dead letter, and `wrote` after it. A refused item goes to `wait` and is freed when it may
    try again. `run` claims dead letters, frees items, and applies the decisions of other daemons and people.
    """

    unloads = True

    def __init__(self, source: str, limit: int, store: PaceStore | None = None, window: float = 60.0) -> None:
        """Create a limit.

        limit: dead letters per route within `window` seconds.
        store: None keeps the paces in this process.
        """
        self.limit = limit
        self._source = source
        self._window = window
        self._store = store
        self._daemon = uuid4().hex
        self._paces = Paces()
        self._loaded = store is None
        self._read_at = time.monotonic()
        self._written: dict[str, dict[Hashable, float]] = {}
        self._claimed: set[str] = set()
        self._credit: dict[str, int] = {}
        self._successes: dict[str, int] = {}
        self._waiting: dict[str, dict[InFlightDelivery, Callable[[], None]]] = {}
        self._trying: set[InFlightDelivery] = set()
        self._eased: list[str] = []
        self._unsent: set[str] = set()
        self._reading = asyncio.Lock()
        """Lock held while paces are read or limited: a read never replaces newer state."""
        self._wake = asyncio.Event()

    @property
    def active(self) -> bool:
        """True while a route is limited."""
        return len(self._paces) > 0

    @property
    def pauses(self) -> Mapping[str, float]:
        """Seconds between two dead letters of each limited route; NO_ROUTE for messages without a route."""
        return {route: self._paces[route].pause for route in self._paces}

    @property
    def reason(self) -> str | None:
        """Sentence for a person with the next step; None while no route is limited."""
        if not self._paces:
            return None
        routes = "; ".join(
            f"{f'route {route}' if route else 'messages without a route'}: one dead letter every "
            f"{self._paces[route].pause:g} s, "
            f"{plural(len(self._waiting.get(route, ())), 'message waits', 'messages wait')}"
            for route in self._paces
        )
        return (
            f"more than {self.limit} dead letters within {self._window:g} s; {routes}. "
            f"Fix the rule or the sender, then `bridge sources resume {self._source}`"
        )

    async def allow(self, route: str, message: Hashable) -> bool:
        """Return when the dead letter may be written: True when `wrote` has to follow. Raises: DeadLetterLimited.

        message: its identity. A message that cannot be settled is redelivered, and counts once.
        """
        if not self._loaded:
            raise DeadLetterLimited(route)
        if message in self._written.get(route, ()):
            return False
        if self._refresh_in() <= 0:
            await self._refresh()
        written = self._written.setdefault(route, {})  # after the refresh, which may have begun another
        paced = False
        now = time.monotonic()
        while written and now - next(iter(written.values())) >= self._window:
            del written[next(iter(written))]
        if self._credit.get(route, 0) > 0:
            self._credit[route] -= 1
            self._successes[route] = 0
        elif route in self._claimed:
            self._claimed.discard(route)
            paced = True
        elif route in self._paces:
            raise DeadLetterLimited(route)
        elif len(written) < self.limit:
            pass
        elif not await self._limit(route):
            written = self._written.setdefault(route, {})
        else:
            log.error(
                f"source {self._source}: too many dead letters; it now writes one per pause",
                action="dead_letter_limit",
                source=self._source,
                route=route or None,
                detail=self.reason,
            )
            raise DeadLetterLimited(route)
        written[message] = now
        return paced

    async def wrote(self, route: str) -> None:
        """Double the pause: a dead letter for which `allow` returned True is written."""
        if route in self._paces:
            self._successes[route] = 0
            self._paces.wrote(route, time.time())
            self._wake.set()
            await self._send("wrote", route)

    def succeeded(self, routes: Iterable[str], *, stops_others: bool = False) -> None:
        """Count a message of these routes that did not become a dead letter. Call only while `active`.

        stops_others: waiting messages would soon stop the others; the success counts for all limited routes then.
        """
        own = {*routes, NO_ROUTE}
        for route in self._paces:
            waiting = len(self._waiting.get(route, ()))
            pays = 0
            if route in own:
                pays = CREDIT
                count = self._successes.get(route, 0) + 1
                self._successes[route] = count % SUCCESSES
                if count == SUCCESSES:
                    self._eased.append(route)
                    self._wake.set()
            if stops_others:
                pays = max(CREDIT, waiting // SHARE)
            if pays:
                self._credit[route] = min(self._credit.get(route, 0) + pays, max(self.limit, waiting))
                if waiting:
                    self._wake.set()

    def wait(self, route: str, item: InFlightDelivery, free: Callable[[], None]) -> None:
        """Call `free` when the item may try again. Call `forget` when the item leaves earlier."""
        self._trying.discard(item)
        self._waiting.setdefault(route, {})[item] = free
        item.wait_in(self)
        self._wake.set()

    def blocks(self, item: InFlightDelivery) -> bool:
        """Return True: the item is in the queue of this limit."""
        return True

    def forget(self, item: InFlightDelivery) -> None:
        """Remove an item that is gone."""
        for waiting in self._waiting.values():
            waiting.pop(item, None)
        item.leave_queue()
        self.end_attempt(item)

    def end_attempt(self, item: InFlightDelivery) -> None:
        """Note that a freed item has tried or is gone: the next one may follow."""
        if item in self._trying:
            self._trying.discard(item)
            self._wake.set()

    async def run(self) -> None:
        """Claim dead letters when they are due, and free the waiting items. Never returns."""
        while True:
            self._wake.clear()
            if not self._loaded or (self._paces and self._refresh_in() <= 0):
                await self._refresh()
            eased, self._eased = self._eased, []
            for route in eased:
                await self._ease(route)
            delays = [await self._probe(route) for route in list(self._waiting) if self._waiting[route]]
            if self._paces or not self._loaded:
                delays.append(max(0.0, min(REFRESH_SECONDS, self._refresh_in())) if self._loaded else _RETRY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(delays) if delays else None):
                    await self._wake.wait()

    async def _probe(self, route: str) -> float:
        """Free all items of an unlimited route, or one item when its dead letter is due; return the seconds to wait."""
        if not self._loaded:
            return _RETRY_SECONDS
        if route not in self._paces:
            self._free(route, len(self._waiting[route]))
            return REFRESH_SECONDS
        if (credit := self._credit.get(route, 0)) > 0:
            self._free(route, credit)
            return REFRESH_SECONDS
        if route not in self._claimed:
            early = self._paces[route].due - time.time()
            if early > 0:
                return min(early, REFRESH_SECONDS)
            if not await self._claim(route):
                return _RETRY_SECONDS
            self._claimed.add(route)
        self._free(route, 1)
        return REFRESH_SECONDS

    async def _claim(self, route: str) -> bool:
        now = time.time()
        if self._store is None:
            return self._paces.claim(route, self._daemon, now)
        try:
            await self._store.send("claim", {"route": route, "by": self._daemon, "now": now})
        except EngineError:
            return False
        await self._refresh()
        return route in self._paces and self._paces[route].claimed_by == self._daemon

    async def _ease(self, route: str) -> None:
        if route not in self._paces:
            return
        self._paces.ease(route, time.time())
        if route not in self._paces:
            self._released(route)
            log.info("dead letters are free again", action="dead_letter_limit", source=self._source, route=route)
        await self._send("ease", route)

    def _released(self, route: str) -> None:
        """Reset the counts of a route that is no longer limited: it may write its full limit again."""
        self._written.pop(route, None)
        self._claimed.discard(route)
        self._credit.pop(route, None)
        self._successes.pop(route, None)

    def _free(self, route: str, count: int) -> None:
        waiting = self._waiting[route]
        for item in list(islice(waiting, min(count, AT_ONCE - len(self._trying)))):
            free = waiting.pop(item)
            item.leave_queue()
            self._trying.add(item)
            free()

    async def _limit(self, route: str) -> bool:
        """Limit the route. False when a person has just ended the limit."""
        async with self._reading:
            if len(self._written.get(route, ())) < self.limit:
                return False
            if route in self._paces:
                return True
            self._paces.limit(route, time.time())
            if not await self._send("limit", route, resumes=self._paces.resumes.get(route, 0)):
                self._unsent.add(route)
        return True

    async def _send(self, operation: str, route: str, **more: int) -> bool:
        """Report an operation to the other daemons. False while the engine is away: only this process applies it."""
        if self._store is None:
            return True
        try:
            await self._store.send(operation, {"route": route, "now": time.time(), **more})
        except EngineError as error:
            log.info("the dead-letter pace is not shared", action=operation, source=self._source, detail=str(error))
            return False
        return True

    def _refresh_in(self) -> float:
        """Seconds until the shared paces are read again."""
        return math.inf if self._store is None else self._read_at + REFRESH_SECONDS - time.monotonic()

    async def _refresh(self) -> None:
        assert self._store is not None
        asked_at = time.monotonic()
        async with self._reading:
            if self._read_at > asked_at:
                return
            for route in tuple(self._unsent):
                if await self._send("limit", route, resumes=self._paces.resumes.get(route, 0)):
                    self._unsent.discard(route)
            if not self._unsent:
                await self._load(self._store)
            self._read_at = time.monotonic()

    async def _load(self, store: PaceStore) -> None:
        try:
            paces = await store.load()
        except EngineError as error:
            log.info("the dead-letter pace cannot be read", action="load", source=self._source, detail=str(error))
            return
        known, self._paces = self._paces, paces
        if self._loaded:
            missed = [route for route, count in paces.resumes.items() if count != known.resumes.get(route, 0)]
            for route in {*(route for route in known if route not in paces), *missed}:
                self._released(route)
        self._loaded = True
