"""Deliveries of stored messages: their partition, their decoded form, and the loop that brings them back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from bridge.brokers.base import Partition
from bridge.core.errors import EngineError, storable
from bridge.core.message import Envelope, Message, Position
from bridge.core.provenance import Cause
from bridge.core.states import Outcome
from bridge.core.stored_message import StoredMessage
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.rule_set import RuleSet, refers
from bridge.pipeline.settings import SLICE
from bridge.pipeline.source import SourcePipeline


class StoredPartition:
    """Partition that a stored message came from. The broker no longer has the message."""

    __slots__ = ("number", "topic")
    revoked = False
    lost = False
    gap = 0

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number

    def pause(self) -> None:
        """Do nothing: there is nothing to fetch."""

    def resume(self) -> None:
        """Do nothing: there is nothing to fetch."""


class StoredDelivery:
    """Part of `bridge.brokers.base.Delivery` that all stored messages share; they are settled on the engine."""

    __slots__ = ("_item", "is_quarantined", "partition", "stored")

    def __init__(self, stored: StoredMessage) -> None:
        self._item: InFlightDelivery | None = None
        self.stored = stored
        self.is_quarantined = False
        """The message waits in the quarantine of its key: there is nothing to settle."""
        self.partition: Partition = StoredPartition(stored.position.topic, stored.position.partition)

    @property
    def message(self) -> Message:
        return self.stored.message

    @property
    def position(self) -> Position:
        return self.stored.position

    @property
    def attempt(self) -> int:
        return 1

    @property
    def lost(self) -> bool:
        """False: no other process has the message while this process holds the claim."""
        return False

    @property
    def settlement_unknown(self) -> bool:
        """False, as for `lost`."""
        return False

    @property
    def outcome(self) -> Outcome:
        """Outcome of a delivery that is complete."""
        assert self._item is not None
        return Outcome.QUARANTINED if self.is_quarantined else self._item.outcome

    def in_flight(
        self, found: DecodedMessage, now: float, attempt: int = 1, failed_at: float | None = None
    ) -> InFlightDelivery:
        """Delivery for the lanes of its source. now, failed_at: monotonic seconds."""
        stored = self.stored
        self._item = InFlightDelivery(
            self, found.envelope, found.error, now, stored.executed, stored, attempt, failed_at
        )
        self._item.bind(found.rules)
        return self._item

    def join_quarantine(self) -> None:
        """Note that the message was stored in the quarantine of its key."""
        self.is_quarantined = True

    async def complete(self) -> None:
        """Report the end of the message."""
        raise NotImplementedError

    async def dead_letter(self, cause: Cause) -> None:
        """Report the failure of the message."""
        raise NotImplementedError

    async def abandon(self) -> None:
        """Do nothing: the engine still has the message."""


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """Envelope of a stored message, or the failure of its decoding, which is judged when the message is run.

    rules: rule set that has decoded it.
    """

    rules: RuleSet
    envelope: Envelope | None
    error: Exception | None


async def decode(pipeline: SourcePipeline, messages: Sequence[StoredMessage]) -> list[DecodedMessage]:
    """Decode stored messages with the current rule set. Yields to the event loop when decoding takes long.

    A message with a reference to its payload is decoded by a worker, which fetches the payload first.
    """
    rules = pipeline.rules.current
    await pipeline.prepare(rules, [each.message for each in messages])
    since = time.monotonic()
    found = []
    for each in messages:
        if time.monotonic() - since > SLICE:
            await asyncio.sleep(0)
            since = time.monotonic()
        if refers(rules, each.message):
            found.append(DecodedMessage(rules, None, None))
            continue
        try:
            found.append(DecodedMessage(rules, each.identified(rules.decode(each.message, each.position)), None))
        except Exception as failure:
            found.append(DecodedMessage(rules, None, storable(failure)))
    return found


class Assignment:
    """Partitions of a source, as its stored messages meet them."""

    def __init__(self, pipeline: SourcePipeline) -> None:
        self._pipeline = pipeline

    @property
    def has_groups(self) -> bool:
        """True where one process at a time has a partition."""
        return self._pipeline.broker.features.groups

    def has(self, topic: str, number: int) -> bool:
        """True when this process may have the messages of a partition."""
        return not self.has_groups or any(
            partition.topic == topic and partition.number == number for partition in self._pipeline.assignment
        )

    def revoked_places(self, partitions: Collection[Partition]) -> set[tuple[str, int]]:
        """Revoked partitions whose stored messages leave with them.

        Never where a partition is a receiver: a stored message belongs to no current receiver.
        """
        return {(each.topic, each.number) for each in partitions} if self.has_groups else set()

    def leaves_with(self, item: InFlightDelivery, partitions: Collection[Partition]) -> bool:
        """True when a stored item leaves with its original partition."""
        at = item.delivery.partition
        return item.stored is not None and (at.topic, at.number) in self.revoked_places(partitions)


async def check_repeatedly(
    wait: Callable[[], Awaitable[object]], check: Callable[[], Awaitable[None]], messages: str, source: str
) -> None:
    """Look for stored messages whose time has come. Never returns.

    wait: returns when it is time to check.
    messages: name of the messages in logs, like `quarantine`.
    """
    log = structlog.get_logger(f"bridge.{messages}")
    while True:
        await wait()
        try:
            await check()
        except EngineError as error:
            log.info(f"the engine of the {messages} does not answer", action="hold", source=source, detail=str(error))
        except Exception as error:
            # A bug must not end the loop: no message would ever be brought back
            log.error(
                f"the check of the {messages} failed unexpectedly; the source tries again",
                action="bug",
                source=source,
                exc_info=error,
            )
