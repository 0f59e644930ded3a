"""Quarantine stage of one source: moves messages to an engine, and back to their lane."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace

import structlog

from bridge.brokers.base import Broker, Partition
from bridge.config.model.sources import DEAD_LETTER_TOPIC
from bridge.core.commands import Step
from bridge.core.envelope import Envelope
from bridge.core.errors import EngineError, EngineOutage, EngineRejected, kept
from bridge.core.message import Message, Position
from bridge.core.pace import NO_ROUTE
from bridge.core.settlement import (
    Complete,
    DeadLetter,
    Hold,
    Outcome,
    Park,
    Retry,
    Settlement,
    Wait,
    detail_of,
    outside,
    reason_of,
)
from bridge.parking.key_quarantine import FULL
from bridge.parking.quarantined_key import QuarantinedMessage
from bridge.parking.stored_message import StoredMessage
from bridge.pipeline.admission import Throttled
from bridge.pipeline.dead_letter_limit import DeadLetterLimit
from bridge.pipeline.execution import SLICE, Execution, Target
from bridge.pipeline.flow_control import FlowControl
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.quarantine import Quarantine, QuarantinedDelivery, QuarantineSettings, QuarantineStore
from bridge.pipeline.settings import SourceSettings

log = structlog.get_logger("bridge.quarantine")


def letters(settings: SourceSettings, broker: str) -> Callable[[InFlightDelivery], StoredMessage]:
    """Return a function that makes a `StoredMessage` of an item, for storage outside its broker."""

    def letter(item: InFlightDelivery) -> StoredMessage:
        delivery = item.delivery
        if isinstance(delivery, QuarantinedDelivery):
            return replace(delivery.held.letter, executed=tuple(dict.fromkeys(item.executed)))
        return StoredMessage(
            delivery.message,
            delivery.position,
            broker,
            (settings.subscribe.dead_letter or DEAD_LETTER_TOPIC).replace("{topic}", delivery.position.topic),
            settings.name,
            item.envelope.message_id if item.envelope else None,
            settings.config_version,
            tuple(dict.fromkeys(item.executed)),
            settings.trusted_replay,
        )

    return letter


class QuarantineStage:
    """Runs items, and keeps failing messages on an engine where the source is so configured.

    With `store` None it only runs items.
    """

    def __init__(
        self,
        settings: SourceSettings,
        broker: Broker,
        execution: Execution,
        letter: Callable[[InFlightDelivery], StoredMessage],
        decode: Callable[[Message, Position], Envelope],
        engines: Mapping[str, Target],
        lanes: Lanes,
        ledger: Ledger,
        gate: FlowControl,
        limit: DeadLetterLimit,
        assignment: Collection[Partition],
        store: tuple[str, QuarantineStore] | None,
        measure: Callable[[], None],
    ) -> None:
        """Create the stage. measure: called when more messages are in flight."""
        self._settings = settings
        self._broker = broker
        self._execution = execution
        self._letter = letter
        self._decode = decode
        self._engines = engines
        self._lanes = lanes
        self._ledger = ledger
        self._gate = gate
        self._limit = limit
        self._assignment = assignment
        self._measure = measure
        self._engine = "" if store is None else store[0]
        self._loading: asyncio.Task[None] | None = None
        self.quarantine: Quarantine | None = None
        if store is not None:
            chosen = settings.quarantine or QuarantineSettings()
            self.quarantine = Quarantine(settings.name, store[1], chosen, self._mine, self._read, self._take_up)

    @property
    def ready(self) -> bool:
        """True when the quarantined keys are known. Before that, no message is dispatched."""
        return self.quarantine is None or self.quarantine.loaded.is_set()

    def lost(self, key: Hashable | None, item: InFlightDelivery) -> bool:
        """True when the item is a quarantined one that goes back, because an earlier one failed again."""
        return self.quarantine is not None and self.quarantine.lost(key, item)

    async def run(
        self, lane: Lane, item: InFlightDelivery, crowded: Callable[[Lane], bool]
    ) -> tuple[Settlement | Throttled, Step | None]:
        """Run one item; return its settlement, and the step that failed or has to wait. Raises: DeadLetterLimited."""
        quarantine = self.quarantine
        if quarantine is not None and lane.key is not None and quarantine.joins(lane.key, item):
            if not quarantine.fits(item):
                return DeadLetter(FULL, "its key is in quarantine, and it is too large to join"), None
            return await self._kept(quarantine.follow(lane.key, item, self._letter(item))), None
        settlement, step = await self._execution.run(item, time.monotonic)
        if isinstance(settlement, Retry) and settlement.failed and crowded(lane):
            detail = f"{settlement.reason}, and {lane.backlog} messages of the same key wait behind it"
            settlement = DeadLetter(settlement.reason, detail)
        if isinstance(settlement, Throttled):
            return settlement, step
        unreadable = item.delivery.message.unreadable
        skip = unreadable is not None and self._settings.subscribe.unreadable.of(unreadable) == "skip"
        poison = self._settings.quarantine is not None and lane.key is not None
        now = time.monotonic()
        ended = outside(
            settlement,
            keeps=quarantine is not None and quarantine.fits(item),
            quarantine=poison,
            held=0.0 if item.failed_at is None else now - item.failed_at,
            # A message that is on an engine already has no lock to lose
            max_hold=math.inf if isinstance(item.delivery, QuarantinedDelivery) else self._settings.retry.max_hold,
            skip=skip,
        )
        if skip and isinstance(ended, Complete):
            log.error(
                "skipped a message that cannot be parsed",
                action="skip",
                source=self._settings.name,
                position=str(item.delivery.position),
                detail=unreadable.detail if unreadable is not None else "",
            )
        if quarantine is None or not isinstance(ended, Park):
            return ended, step
        first = ended.wait is Wait.PERSON and not isinstance(item.delivery, QuarantinedDelivery)
        limited = NO_ROUTE if step is None else step.route
        paced = first and await self._limit.allow(limited, item.delivery.position)
        key = lane.key if lane.key is not None else (str(item.delivery.position),)
        route = None if step is None else step.route
        kept = await self._kept(quarantine.hold(key, item, self._letter(item), ended, item.error_class, route))
        if isinstance(kept, Complete):
            if paced:
                await self._limit.wrote(limited)
            if isinstance(item.delivery, QuarantinedDelivery):
                item.delivery.returned = True
        return kept, step

    def start(self) -> None:
        """Load the quarantined keys of a broker without groups: its queue with sessions may be silent for long."""
        if not self._broker.features.groups:
            self.load()

    def load(self) -> None:
        """Read the quarantined keys before more messages are dispatched; retry while the engine is away."""
        if self.quarantine is not None:
            self.quarantine.loaded.clear()
            if self._loading is not None:
                self._loading.cancel()
            self._loading = asyncio.create_task(self._load(self.quarantine), name=f"{self._settings.name}:load")

    async def _load(self, quarantine: Quarantine) -> None:
        attempt = 0
        while True:
            try:
                await quarantine.load()
            except Exception as error:
                attempt += 1
                self._gate.hold("quarantine", detail_of(error))
                if not isinstance(error, EngineError):
                    log.error("quarantine cannot be read", action="bug", source=self._settings.name, exc_info=error)
                await asyncio.sleep(self._settings.retry.delay(attempt))
            else:
                self._gate.release("quarantine")
                self._lanes.release()
                return

    async def stop(self) -> None:
        """Stop loading, and release the claims on quarantined keys."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.give_up(None)

    def places(self, gone: Collection[Partition]) -> set[tuple[str, int]]:
        """Topic and number of the revoked partitions whose quarantined messages leave with them.

        Empty where a partition is a receiver: a quarantined message belongs to no current receiver.
        """
        return {(each.topic, each.number) for each in gone} if self._broker.features.groups else set()

    async def give_up(self, places: Collection[tuple[str, int]] | None) -> None:
        """Release the claims of revoked partitions. places: topic and number of the partitions; None: all."""
        if self.quarantine is not None:
            await self.quarantine.give_up(lambda topic, number: places is None or (topic, number) in places)

    async def _kept(self, quarantine_stage: Awaitable[None]) -> Settlement:
        """Settlement of a delivery whose message is written to the engine."""
        try:
            await quarantine_stage
        except EngineError as error:
            if isinstance(error, EngineOutage) and self._engine in self._engines:
                self._engines[self._engine].breaker.trip(error)
                return Hold(reason_of(error), detail_of(error))
            if isinstance(error, EngineRejected):
                return DeadLetter(reason_of(error), detail_of(error))
            return Retry(self._settings.retry.max_delay, reason_of(error))
        return Complete(Outcome.QUARANTINED)

    def _mine(self, topic: str, number: int) -> bool:
        return not self._broker.features.groups or any(
            partition.topic == topic and partition.number == number for partition in self._assignment
        )

    async def _read(self, key: Hashable, messages: Sequence[QuarantinedMessage]) -> Sequence[InFlightDelivery]:
        """Decode quarantined messages. Yields to the event loop when decoding takes long."""
        assert self.quarantine is not None
        now = since = time.monotonic()
        items = []
        for held in messages:
            if time.monotonic() - since > SLICE:
                await asyncio.sleep(0)
                since = time.monotonic()
            envelope: Envelope | None = None
            error: Exception | None = None
            try:
                envelope = self._decode(held.letter.message, held.letter.position)
            except Exception as failure:
                error = kept(failure)  # judged when the item is run
            item = InFlightDelivery(QuarantinedDelivery(self.quarantine, key, held), envelope, error, now)
            item.executed = list(held.letter.executed)
            if held.attempts > 1:
                item.attempt = held.attempts
                item.failed_at = now - held.failed - max(0.0, time.time() - held.since)
            items.append(item)
        return items

    def _take_up(self, key: Hashable, items: Sequence[InFlightDelivery]) -> bool:
        """Put quarantined messages at the head of their lane; False when the lane is busy."""
        if not self._lanes.insert(key, items):
            return False
        for item in items:
            self._ledger.receive(item)
        self._measure()
        return True


def leaves(item: InFlightDelivery, gone: Collection[Partition], places: Collection[tuple[str, int]]) -> bool:
    """True when an item leaves with the partitions. A quarantined item leaves with its original partition."""
    partition = item.delivery.partition
    return partition in gone or (
        isinstance(item.delivery, QuarantinedDelivery) and (partition.topic, partition.number) in places
    )
