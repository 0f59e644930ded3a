"""Poisoned keys of one source: held on an engine with their later messages, taken up again when they are released."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from uuid import uuid4

import structlog

from bridge.brokers.base import Partition
from bridge.errors import BrokerUnavailable, EngineError
from bridge.message import Message, Position
from bridge.parking.key import decode, encode
from bridge.parking.key_quarantine import LEASE, delivery_id
from bridge.parking.quarantined_key import QuarantinedKey, QuarantinedMessage
from bridge.parking.stored_message import StoredMessage
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.provenance import Cause
from bridge.settlement import Park, Wait

log = structlog.get_logger("bridge.quarantine")


_REMEMBERED = 10_000
"""Settled messages that are known again when the engine still lists them."""


class QuarantineStore(Protocol):
    """Quarantined keys of a source on its engine (`bridge.engines.parking.quarantine.EngineQuarantineStore`).

    Every method raises EngineError.
    """

    async def load(self) -> Sequence[QuarantinedKey]: ...

    async def settled(self) -> Sequence[QuarantinedKey]: ...

    async def holds(self, key: bytes) -> bool: ...

    async def signal(self, key: bytes, operation: str, value: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class QuarantineSettings:
    """max_messages, max_bytes: per key. poll: seconds between two looks for releases while something is held."""

    max_messages: int = 1000
    max_bytes: int = 512 * 1024
    poll: float = 2.0


class _State(Enum):
    """HELD: later messages join it. RESUMING: its messages are at work here."""

    HELD = 1
    RESUMING = 2


@dataclass(slots=True)
class _Work:
    """Marks of the messages that are at work here, and the partition that they came from."""

    marks: set[str]
    topic: str
    partition: int


class QuarantinedPartition:
    """Where a held message came from; the broker keeps nothing for it any more."""

    __slots__ = ("number", "topic")
    revoked = False
    lost = False
    gap = 0

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number

    def pause(self) -> None:
        """There is nothing to fetch."""

    def resume(self) -> None:
        """Likewise."""


class QuarantinedDelivery:
    """A held message at work: settled on the engine. Implements `bridge.brokers.base.Delivery`."""

    __slots__ = ("_quarantine", "held", "key", "partition", "returned")

    def __init__(self, quarantine: Quarantine, key: Hashable, held: QuarantinedMessage) -> None:
        self._quarantine = quarantine
        self.key = key
        self.held = held
        self.returned = False
        """It failed again and is held anew: there is nothing to settle."""
        position = held.letter.position
        self.partition: Partition = QuarantinedPartition(position.topic, position.partition)

    @property
    def message(self) -> Message:
        return self.held.letter.message

    @property
    def position(self) -> Position:
        return self.held.letter.position

    @property
    def attempt(self) -> int:
        return self.held.attempts

    @property
    def lost(self) -> bool:
        """Nobody else has it while the engine counts it as at work here."""
        return False

    @property
    def settlement_unknown(self) -> bool:
        """See `lost`."""
        return False

    async def complete(self) -> None:
        """Raises: BrokerUnavailable when the engine is away; settle again."""
        if not self.returned:
            await self._quarantine.done(self.key, self.held)

    async def dead_letter(self, cause: Cause) -> None:
        """Back into quarantine. Raises: BrokerUnavailable."""
        await self._quarantine.again(self.key, self.held, {"reason": cause.reason, "detail": cause.detail}, None)

    async def abandon(self) -> None:
        """It is still held."""


class Quarantine:
    """The held keys of one source, as this process knows them.

    The engine has the truth. It is read before the first message of a partition is dispatched, and again and again
    while anything is held. One process at a time works on a released key: it has claimed it, and has its partition.
    """

    def __init__(
        self,
        source: str,
        store: QuarantineStore,
        settings: QuarantineSettings,
        assigned: Callable[[str, int], bool],
        read: Callable[[Hashable, Sequence[QuarantinedMessage]], Awaitable[Sequence[InFlightDelivery]]],
        take_up: Callable[[Hashable, Sequence[InFlightDelivery]], bool],
    ) -> None:
        """assigned: whether a topic's partition is this process's. read: decodes held messages.

        take_up: puts them at the head of their lane; False when that is busy, to be asked again.
        """
        self.loaded = asyncio.Event()
        self.owner = uuid4().hex
        self._source = source
        self._store = store
        self._settings = settings
        self._assigned = assigned
        self._read = read
        self._take_up = take_up
        self._keys: dict[Hashable, _State] = {}
        self._at_work: dict[Hashable, _Work] = {}
        self._joined: dict[Hashable, int] = {}
        self._settled: dict[str, None] = {}
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    # -- what the pipeline asks

    def joins(self, key: Hashable | None, item: InFlightDelivery) -> bool:
        """Whether the item, at work now, belongs behind held ones."""
        return (
            key is not None
            and self._keys.get(key) is _State.HELD
            and not isinstance(item.delivery, QuarantinedDelivery)
        )

    def lost(self, key: Hashable | None, item: InFlightDelivery) -> bool:
        """Whether the item is a held one whose turn is over: one before it failed again."""
        if not isinstance(item.delivery, QuarantinedDelivery):
            return False
        work = self._at_work.get(key)
        return work is None or item.delivery.held.mark not in work.marks

    def fits(self, item: InFlightDelivery) -> bool:
        """Whether the item is not too large to be held at all."""
        return item.size < self._settings.max_bytes // 2

    async def hold(
        self, key: Hashable, item: InFlightDelivery, letter: StoredMessage, why: Park, error: str, route: str | None
    ) -> None:
        """The item failed: it and its key wait. Return when that is durable. Raises: EngineError."""
        cause = {"reason": why.reason, "detail": why.detail, "error": error, "route": route}
        until = None if why.seconds is None else time.time() + why.seconds
        # After a wait for time it goes on where it was; what a person releases begins anew
        attempts = item.attempt + 1 if why.wait is Wait.TIME else 1
        if isinstance(item.delivery, QuarantinedDelivery):
            held = item.delivery.held
            value = {"mark": held.mark, "cause": cause, "until": until, "attempts": attempts}
            await self._signal(key, "again", value | {"executed": list(letter.executed)})
            self._at_work.pop(key, None)
        else:
            value = self._value(key, item, letter, route, attempts) | {"cause": cause, "until": until}
            await self._signal(key, "hold", value)
        log.warning(
            "key quarantined" if why.wait is Wait.PERSON else "waits on the engine",
            action="quarantine", source=self._source, reason=why.reason, detail=why.detail,
            position=str(item.delivery.position),
        )  # fmt: skip
        self._keys[key] = _State.HELD
        self._some.set()

    async def follow(self, key: Hashable, item: InFlightDelivery, letter: StoredMessage) -> None:
        """The item joins the held ones. Return when that is durable. Raises: EngineError."""
        await self._signal(key, "follow", self._value(key, item, letter, None, 1))
        self._joined[key] = self._joined.get(key, 0) + 1

    async def done(self, key: Hashable, held: QuarantinedMessage) -> None:
        """Raises: BrokerUnavailable, in the words of a delivery."""
        try:
            await self._signal(key, "done", {"mark": held.mark})
        except EngineError as error:
            raise BrokerUnavailable(f"the quarantine of a key cannot be written: {error}") from error
        self._settled[held.mark] = None
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        work = self._at_work.get(key)
        if work is not None:
            work.marks.discard(held.mark)
            if not work.marks:
                # What another process may have added meanwhile is found by the next look
                del self._at_work[key]
                self._forget(key)

    async def again(self, key: Hashable, held: QuarantinedMessage, cause: dict[str, Any], until: float | None) -> None:
        """Raises: BrokerUnavailable, in the words of a delivery."""
        value = {"mark": held.mark, "cause": cause, "until": until, "attempts": held.attempts}
        try:
            await self._signal(key, "again", value)
        except EngineError as error:
            raise BrokerUnavailable(f"the quarantine of a key cannot be written: {error}") from error
        self._at_work.pop(key, None)
        self._keys[key] = _State.HELD

    async def give_up(self, gone: Callable[[str, int], bool]) -> None:
        """Partitions are taken away: others may work on their keys."""
        for key in [key for key, work in self._at_work.items() if gone(work.topic, work.partition)]:
            del self._at_work[key]
            self._keys[key] = _State.HELD
            try:
                await self._signal(key, "unclaim", {"owner": self.owner})
            except EngineError:
                log.info("a claim runs out by itself", action="quarantine", source=self._source)

    # -- what it does by itself

    async def load(self) -> None:
        """Know what is held. Raises: EngineError."""
        for each in await self._store.settled():
            if each.key:
                self._keys.setdefault(decode(each.key), _State.HELD)
        if self._keys:
            self._some.set()
        self.loaded.set()

    async def watch(self) -> None:
        """Look for releases while anything is held; for ever."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self._settings.poll)
            try:
                await self.look()
            except EngineError as error:
                log.info("quarantine cannot be read", action="hold", source=self._source, detail=str(error))
            except Exception as error:
                # A bug must not end the looking: nothing would ever be released
                log.error("quarantine cannot be read", action="bug", source=self._source, exc_info=error)
            if not self._keys:
                self._some.clear()

    async def look(self) -> None:
        """One look. Raises: EngineError."""
        known = [key for key, state in self._keys.items() if state is _State.HELD]
        joined = dict(self._joined)
        listed = await self._store.load()
        found = {decode(each.key): each for each in listed if each.key}
        for key, each in found.items():
            state = self._keys.setdefault(key, _State.HELD)
            if each.unsettled or self._joined.get(key) != joined.get(key):
                continue
            if state is _State.RESUMING:
                if each.lease - time.time() < LEASE / 2:
                    await self._signal(key, "claim", {"owner": self.owner})
            elif each.until is not None and each.until <= time.time() and self._mine(each):
                if each.owner == self.owner and each.lease > time.time():
                    await self._resume(key, each, joined.get(key))
                else:
                    await self._signal(key, "claim", {"owner": self.owner})
        for key in known:
            if key not in found and self._keys.get(key) is _State.HELD and not await self._store.holds(encode(key)):
                self._forget(key)

    async def _resume(self, key: Hashable, each: QuarantinedKey, joined: int | None) -> None:
        left = []
        for message in each.messages:
            if message.mark in self._settled:
                await self._signal(key, "done", {"mark": message.mark})
            else:
                left.append(message)
        if not left:
            return
        items = await self._read(key, left)
        if self._joined.get(key) != joined or not self._take_up(key, items):
            return
        first = left[0].letter.position
        self._keys[key] = _State.RESUMING
        self._at_work[key] = _Work({message.mark for message in left}, first.topic, first.partition)
        log.info("key released", action="quarantine", source=self._source, messages=len(left))

    def _mine(self, each: QuarantinedKey) -> bool:
        position = each.messages[0].letter.position
        return self._assigned(position.topic, position.partition)

    def _forget(self, key: Hashable) -> None:
        self._keys.pop(key, None)
        self._joined.pop(key, None)

    def _value(
        self, key: Hashable, item: InFlightDelivery, letter: StoredMessage, route: str | None, attempts: int
    ) -> dict[str, Any]:
        failed = 0.0 if item.failed_at is None else time.monotonic() - item.failed_at
        held = {
            "mark": delivery_id(letter.position),
            "letter": letter.to_json(),
            "since": time.time(),
            "attempts": attempts,
            "failed": failed,
            "route": route,
        }
        held["size"] = len(json.dumps(held, separators=(",", ":")))
        settings = self._settings
        return {
            "source": self._source,
            "key": base64.b64encode(encode(key)).decode(),
            "item": held,
            "bounds": [settings.max_messages, settings.max_bytes],
        }

    async def _signal(self, key: Hashable, operation: str, value: dict[str, Any]) -> None:
        await self._store.signal(encode(key), operation, value)
