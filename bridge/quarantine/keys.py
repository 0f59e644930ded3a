"""Quarantined keys of one source as known to this process, and deliveries of their messages."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

import structlog

from bridge.config.model.sources import QuarantineConfig
from bridge.core.errors import BrokerUnavailable, EngineError
from bridge.core.provenance import Cause
from bridge.core.settlement import Keep, Wait
from bridge.core.states import Outcome
from bridge.core.stored_message import StoredMessage
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.quarantine.quarantined_key import QuarantinedKey, QuarantinedMessage, decode_key, encode_key
from bridge.quarantine.state_machine import delivery_id
from bridge.quarantine.store import QuarantineStore
from bridge.waiting.deliveries import StoredDelivery, check_repeatedly
from bridge.waiting.replays import ReplayEnd, ReplayReports, result_of

log = structlog.get_logger("bridge.quarantine")


_REMEMBERED = 10_000
"""Number of settled messages remembered, to recognise those that the engine still lists."""


class _State(Enum):
    """State of a key. HELD: later messages join the quarantine. RESUMING: its messages are being processed here."""

    HELD = 1
    RESUMING = 2


@dataclass(slots=True)
class _Work:
    """Delivery ids of the messages of a key that are being processed here, and their partition."""

    marks: set[str]
    topic: str
    partition: int


class QuarantinedDelivery(StoredDelivery):
    """Delivery of a quarantined message."""

    __slots__ = ("_keys", "key", "quarantined")

    def __init__(self, keys: QuarantinedKeys, key: Hashable, quarantined: QuarantinedMessage) -> None:
        super().__init__(quarantined.message)
        self._keys = keys
        self.key = key
        self.quarantined = quarantined

    @property
    def attempt(self) -> int:
        return self.quarantined.attempts

    async def complete(self) -> None:
        """Remove the message from the quarantine. Raises: BrokerUnavailable when the engine is away; settle again."""
        if not self.is_quarantined:
            await self._keys.done(self.key, self.quarantined, self.outcome)

    async def dead_letter(self, cause: Cause) -> None:
        """Return the message to the quarantine. Raises: BrokerUnavailable."""
        await self._keys.requeue(self.key, self.quarantined, {"reason": cause.reason, "detail": cause.detail})


class QuarantinedKeys:
    """Quarantined keys of one source, as known to this process.

    The engine has the truth. It is read before the first message of a partition is dispatched, and periodically while a
    key is quarantined. One process at a time works on a released key: the process that has claimed it and has its
    partition.
    """

    def __init__(
        self,
        source: str,
        store: QuarantineStore,
        settings: QuarantineConfig,
        assigned: Callable[[str, int], bool],
        read: Callable[[Hashable, Sequence[QuarantinedMessage]], Awaitable[Sequence[InFlightDelivery]]],
        insert_stored: Callable[[Hashable, Sequence[InFlightDelivery]], bool],
        reports: ReplayReports | None = None,
    ) -> None:
        """Create the keys of one source.

        assigned: True when this process has that partition of a topic.
        read: decodes quarantined messages.
        insert_stored: puts messages at the head of their lane; False when the lane is busy, to be called again.
        reports: informs the jobs that replay quarantined messages.
        """
        self.loaded = asyncio.Event()
        self.owner = uuid4().hex
        self._source = source
        self._store = store
        self._settings = settings
        self._assigned = assigned
        self._read = read
        self._insert_stored = insert_stored
        self._reports = reports
        self._keys: dict[Hashable, _State] = {}
        self._at_work: dict[Hashable, _Work] = {}
        self._joined: dict[Hashable, int] = {}
        self._settled: dict[str, None] = {}
        self._returned: set[Hashable] = set()
        """Keys whose messages failed again, until the engine shows that their claim has ended."""
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._keys)

    # -- calls of the pipeline

    def joins(self, key: Hashable, item: InFlightDelivery) -> bool:
        """True when the item, now being processed, belongs behind quarantined messages of its key."""
        return not isinstance(item.delivery, QuarantinedDelivery) and self._keys.get(key) is _State.HELD

    def lost(self, key: Hashable, item: InFlightDelivery) -> bool:
        """True when the item is a quarantined message that must not be processed now: an earlier one failed again."""
        if not isinstance(item.delivery, QuarantinedDelivery):
            return False
        work = self._at_work.get(key)
        return work is None or item.delivery.quarantined.mark not in work.marks

    def fits(self, item: InFlightDelivery) -> bool:
        """True when the item is small enough to be quarantined."""
        return item.size < self._settings.max_bytes // 2

    async def hold(
        self, key: Hashable, item: InFlightDelivery, message: StoredMessage, keep: Keep, route: str | None
    ) -> None:
        """Quarantine the failed item and its key. Return when that is durable. Raises: EngineError."""
        cause = {"reason": keep.reason, "detail": keep.detail, "error": item.error_class, "route": route}
        until = None if keep.seconds is None else time.time() + keep.seconds
        # A timed wait continues the attempts; a release by a person starts them anew
        attempts = item.attempt + 1 if keep.wait is Wait.TIME else 1
        delivery = item.delivery
        if isinstance(delivery, QuarantinedDelivery):
            value = {"mark": delivery.quarantined.mark, "cause": cause, "until": until, "attempts": attempts}
            await self._signal(key, "again", value | {"executed": list(message.executed)})
            self._at_work.pop(key, None)
            self._returned.add(key)
        else:
            value = self._value(key, item, message, route, attempts) | {"cause": cause, "until": until}
            await self._signal(key, "hold", value)
        if isinstance(delivery, StoredDelivery):
            delivery.join_quarantine()
        log.warning(
            "key quarantined" if keep.wait is Wait.PERSON else "message waits on the engine for its next attempt",
            action="quarantine", source=self._source, reason=keep.reason, detail=keep.detail,
            position=str(item.delivery.position),
        )  # fmt: skip
        self._keys[key] = _State.HELD
        self._some.set()

    async def append(self, key: Hashable, item: InFlightDelivery, message: StoredMessage) -> None:
        """Add the item behind the quarantined ones. Return when that is durable. Raises: EngineError."""
        await self._signal(key, "follow", self._value(key, item, message, None, 1))
        if isinstance(item.delivery, StoredDelivery):
            item.delivery.join_quarantine()
        self._joined[key] = self._joined.get(key, 0) + 1

    async def done(self, key: Hashable, quarantined: QuarantinedMessage, outcome: Outcome) -> None:
        """Mark a message as settled. Raises: BrokerUnavailable when the engine does not accept it."""
        replay = quarantined.message.replay
        try:
            if replay is not None and self._reports is not None:
                # Before the message leaves: after a crash in between, both are repeated
                await self._reports.send([ReplayEnd(replay, result_of(outcome))])
            await self._signal(key, "done", {"mark": quarantined.mark})
        except EngineError as error:
            raise BrokerUnavailable(f"the quarantine of a key cannot be written: {error}") from error
        self._settled[quarantined.mark] = None
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        work = self._at_work.get(key)
        if work is not None:
            work.marks.discard(quarantined.mark)
            if not work.marks:
                # The next look finds messages that another process may have added meanwhile
                del self._at_work[key]
                self._forget(key)

    async def requeue(self, key: Hashable, quarantined: QuarantinedMessage, cause: dict[str, Any]) -> None:
        """Quarantine a released message again. Raises: BrokerUnavailable when the engine does not accept it."""
        value = {"mark": quarantined.mark, "cause": cause, "until": None, "attempts": quarantined.attempts}
        try:
            await self._signal(key, "again", value)
        except EngineError as error:
            raise BrokerUnavailable(f"the quarantine of a key cannot be written: {error}") from error
        self._at_work.pop(key, None)
        self._returned.add(key)
        self._keys[key] = _State.HELD

    async def unclaim(self, gone: Callable[[str, int], bool]) -> None:
        """Release the claims on keys of revoked partitions, for other processes to take."""
        for key in [key for key, work in self._at_work.items() if gone(work.topic, work.partition)]:
            del self._at_work[key]
            self._keys[key] = _State.HELD
            try:
                await self._signal(key, "unclaim", {"owner": self.owner})
            except EngineError:
                log.info("a claim runs out by itself", action="quarantine", source=self._source)

    # -- background work

    async def load(self) -> None:
        """Read the quarantined keys. Raises: EngineError."""
        for each in await self._store.settled():
            if each.key:
                self._keys.setdefault(decode_key(each.key), _State.HELD)
        if self._keys:
            self._some.set()
        self.loaded.set()

    async def watch(self) -> None:
        """Check for releases while a key is quarantined. Never returns."""
        await check_repeatedly(self._time_to_check, self.check_releases, "quarantine", self._source)

    async def _time_to_check(self) -> None:
        if not self._keys:
            self._some.clear()
        await self._some.wait()
        await asyncio.sleep(self._settings.poll)

    async def check_releases(self) -> None:
        """Check for releases once. Raises: EngineError."""
        known = [key for key, state in self._keys.items() if state is _State.HELD]
        joined = dict(self._joined)
        listed = await self._store.load()
        found = {decode_key(each.key): each for each in listed if each.key}
        for key, each in found.items():
            state = self._keys.setdefault(key, _State.HELD)
            if each.unsettled or self._joined.get(key) != joined.get(key):
                continue
            if state is _State.RESUMING:
                if each.claim.is_old(time.time()):
                    await self._signal(key, "claim", {"owner": self.owner})
            elif key in self._returned and each.claim.belongs_to(self.owner, time.time()):
                continue  # the state before the failure, in which the key is released
            elif each.until is not None and each.until <= time.time() and self._mine(each):
                self._returned.discard(key)
                if each.claim.belongs_to(self.owner, time.time()):
                    await self._resume(key, each, joined.get(key))
                else:
                    await self._signal(key, "claim", {"owner": self.owner})
        for key in known:
            if key not in found and self._keys.get(key) is _State.HELD and not await self._store.holds(encode_key(key)):
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
        if self._joined.get(key) != joined or not self._insert_stored(key, items):
            return
        first = left[0].message.position
        self._keys[key] = _State.RESUMING
        self._at_work[key] = _Work({message.mark for message in left}, first.topic, first.partition)
        log.info("key released", action="quarantine", source=self._source, messages=len(left))

    def _mine(self, each: QuarantinedKey) -> bool:
        position = each.messages[0].message.position
        return self._assigned(position.topic, position.partition)

    def _forget(self, key: Hashable) -> None:
        self._keys.pop(key, None)
        self._joined.pop(key, None)
        self._returned.discard(key)

    def _value(
        self, key: Hashable, item: InFlightDelivery, message: StoredMessage, route: str | None, attempts: int
    ) -> dict[str, Any]:
        failed = 0.0 if item.failed_at is None else time.monotonic() - item.failed_at
        quarantined = {
            "mark": delivery_id(message.position, message.replay),
            "letter": message.to_json(),
            "since": time.time(),
            "attempts": attempts,
            "failed": failed,
            "route": route,
        }
        quarantined["size"] = len(json.dumps(quarantined, separators=(",", ":")))
        settings = self._settings
        return {
            "source": self._source,
            "key": base64.b64encode(encode_key(key)).decode(),
            "item": quarantined,
            "bounds": [settings.max_messages, settings.max_bytes],
        }

    async def _signal(self, key: Hashable, operation: str, value: dict[str, Any]) -> None:
        await self._store.signal(encode_key(key), operation, value)
