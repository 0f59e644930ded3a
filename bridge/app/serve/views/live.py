"""Live stream for pages: changes of the status of this daemon, and settled messages for readers that ask for them.

All readers share one ring of changes. A reader has a place in the ring and no queue of its own: one that falls behind
the ring begins again with the whole status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bridge.app.serve.views.tap import Taps
from bridge.core.errors import InvalidCommand
from bridge.ops.access import Caller
from bridge.ops.api import LAST, ServerSentEvent
from bridge.ops.status import StatusDocument
from bridge.system.tasks import cancelled

TICK_SECONDS = 2.0
"""Seconds between two looks at the status, while there is a reader."""
BEAT_SECONDS = 5.0
"""Seconds without another event after which a reader gets a heartbeat."""
MOST_CHANGES = 64
"""Changes that the ring keeps."""
LARGEST = 256 * 1024
"""Bytes of the largest part of a status that is sent. Readers get null for a larger one, and load the page again."""

_AGES = frozenset({"seconds", "time"})
"""Members that change with the clock alone."""
_log = logging.getLogger("bridge.live")


@dataclass(slots=True)
class _Place:
    """Place of a reader: number of the last change that it has received; None: of none."""

    number: int | None

    def move_to(self, number: int) -> int | None:
        """Note the last change; return the number of those that the reader has missed, None for one without a place."""
        missed = None if self.number is None else number - self.number
        self.number = number
        return missed


class LiveStream:
    """Live stream of one daemon."""

    def __init__(
        self,
        status: Callable[[], Awaitable[StatusDocument]],
        taps: Taps,
        tick: float = TICK_SECONDS,
        beat: float = BEAT_SECONDS,
    ) -> None:
        """Create the stream. status: returns the status of the daemon. tick, beat: see the constants."""
        self._status = status
        self._taps = taps
        self._tick, self._beat = tick, beat
        self._epoch = secrets.token_hex(4)
        self._number = 0
        """Number of the last change."""
        self._compared: dict[str, Any] = {}
        """Parts of the status without ages."""
        self._parts: dict[str, bytes] = {}
        """Parts of the status as JSON."""
        self._ring: deque[ServerSentEvent] = deque(maxlen=MOST_CHANGES)
        self._changed = asyncio.Event()
        """Set at the next change; another one then follows it."""
        self._known = asyncio.Event()
        """Set when the watch has read the status."""
        self._readers = 0
        self._watching: asyncio.Task[None] | None = None

    async def events(self, given: Mapping[str, Any], caller: Caller) -> AsyncGenerator[ServerSentEvent, None]:
        """Events for one reader: `state` or the changes that it has missed, then `change`, `beat` and `tap`.

        given: `tap` has options of a tap, for settled messages too. Raises: InvalidCommand, Denied.
        """
        if unknown := given.keys() - {"tap", LAST}:
            raise InvalidCommand(f"live: there is no parameter `{min(unknown)[:100]}` (known: tap)")
        place = _Place(self._number_of(str(given.get(LAST, ""))))
        async with self._reading():
            if "tap" in given:
                async with aclosing(self._taps.events({"options": given["tap"]}, caller)) as tapped:
                    async for data in tapped:  # at least its counts each second
                        yield ServerSentEvent(data, "tap")
                        for event in self._news(place):
                            yield event
                return
            await self._known.wait()
            while True:
                for event in self._news(place):
                    yield event
                if not await self._next(place):
                    yield ServerSentEvent(b"{}", "beat")

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Watch the status while there is a reader."""
        self._readers += 1
        if self._watching is None:
            self._known.clear()
            self._watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                watching, self._watching = self._watching, None
                await cancelled(watching)

    def _number_of(self, id_: str) -> int | None:
        """Number of the change with an id; None for one of another daemon, or of an earlier process."""
        epoch, _, number = id_.partition("-")
        return int(number) if epoch == self._epoch and number.isascii() and number.isdigit() else None

    def _news(self, place: _Place) -> Iterator[ServerSentEvent]:
        """Events that a reader has not received yet."""
        if not self._known.is_set() or place.number == self._number:
            return
        missed = place.move_to(self._number)
        if missed is None or not 0 < missed <= len(self._ring):
            yield self._event("state", self._parts)
            return
        yield from list(self._ring)[-missed:]

    async def _next(self, place: _Place) -> bool:
        """Wait for a change; False after `beat` seconds without one."""
        changed = self._changed
        if place.number != self._number:
            return True
        try:
            async with asyncio.timeout(self._beat):
                await changed.wait()
        except TimeoutError:
            return False
        return True

    async def _watch(self) -> None:
        reported = False
        while True:
            try:
                self._take(await self._status())
                reported = False
            except Exception:
                if not reported:
                    _log.exception("the status cannot be made", extra={"action": "live"})
                reported = True
            await asyncio.sleep(self._tick)

    def _take(self, document: StatusDocument) -> None:
        """Compare a status with the one before it, and publish what has changed."""
        changed = {}
        for name, part in document.items():
            text = json.dumps(part).encode()
            self._parts[name] = text if len(text) <= LARGEST else b"null"
            compared = _without_ages(part)
            if name in _AGES or self._compared.get(name, self) == compared:
                continue
            self._compared[name] = compared
            changed[name] = self._parts[name]
        if changed:
            self._number += 1
            self._ring.append(self._event("change", changed))
            woken, self._changed = self._changed, asyncio.Event()
            woken.set()
        self._known.set()

    def _event(self, name: str, parts: Mapping[str, bytes]) -> ServerSentEvent:
        members = b", ".join(json.dumps(part).encode() + b": " + text for part, text in parts.items())
        return ServerSentEvent(b"{" + members + b"}", name, f"{self._epoch}-{self._number}")


def _without_ages(value: Any) -> Any:
    """Copy of a part of a status without the members that change with the clock alone."""
    if isinstance(value, Mapping):
        return {name: _without_ages(each) for name, each in value.items() if name not in _AGES}
    return [_without_ages(each) for each in value] if isinstance(value, list) else value
