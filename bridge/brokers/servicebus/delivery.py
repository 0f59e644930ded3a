"""Deliveries of Service Bus messages, their partitions, and the requests to settle them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NoReturn, Protocol

from azure.servicebus import ServiceBusReceivedMessage

from bridge.brokers.servicebus import dead_letters
from bridge.brokers.servicebus.clock import UNKNOWN_LOCK
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.core.errors import BrokerUnavailable, LockLost, PartitionRevoked, SettlementRefused, wire_name
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause

_log = logging.getLogger(__name__)

PAUSES = (0.1, 0.4)
"""Seconds before each repetition of a settlement that the service has refused permanently."""


class Verb(Enum):
    """Settlement operations, in the words of Service Bus."""

    COMPLETE = "complete"
    ABANDON = "abandon"
    DEAD_LETTER = "dead_letter"


@wire_name("bridge.brokers.servicebus.delivery.DoubtfulRefusal")
class DoubtfulRefusal(SettlementRefused):
    """The service refused one settlement with an error that may pass.

    others: the service has settled other messages meanwhile.
    """

    def __init__(self, text: str, others: bool) -> None:
        super().__init__(text)
        self.others = others


class ServiceBusPartition:
    """Implementation of `bridge.brokers.base.Partition`.

    Without sessions, a partition is one receiver of an entity for as long as the subscription is open. A replacement
    receiver keeps the partition, since locks of messages outlive connections. With sessions, every accepted session
    gets a new partition. number: number of the receiver, not of the session, to keep metrics few.
    """

    __slots__ = ("_changed", "_gap", "_paused", "lost", "number", "revoked", "topic")

    def __init__(self, topic: str, number: int, changed: Callable[[], None]) -> None:
        """Create a Service Bus partition.

        topic: path of the entity.
        changed: called when there may be work again.
        """
        self.topic = topic
        self.number = number
        self.revoked = False
        self.lost = False
        self._changed = changed
        self._gap = 0
        self._paused = False

    @property
    def gap(self) -> int:
        """Number of messages that are locked for this process and not settled."""
        return self._gap

    @property
    def paused(self) -> bool:
        """True while no more messages are to be taken."""
        return self._paused

    def pause(self) -> None:
        """Take no more messages. Messages already on their way still come, and stay locked."""
        self._paused = True

    def resume(self) -> None:
        """Take messages again."""
        if self._paused:
            self._paused = False
            self._changed()

    def revoke(self) -> None:
        """Record that the messages can no longer be settled."""
        self.revoked = True

    def mark_lost(self) -> None:
        """Record that the lock of the session has expired."""
        self.lost = self.revoked = True

    def add_message(self) -> None:
        """Count a received message."""
        self._gap += 1

    def remove_message(self) -> None:
        """Count a message that was settled, given back or lost."""
        self._gap -= 1


class Settlements(Protocol):
    """The part of a receiver that its deliveries use."""

    dead_letter_queue: DeadLetterQueue | None
    """Queue for dead letters; None: the entity's own sub-queue."""

    async def settle(self, request: SettlementRequest) -> None:
        """Return when the service has confirmed the settlement.

        Raises: LockLost, SettlementRefused, BrokerUnavailable (the result is unknown: try again).
        """
        ...

    def finished(self, delivery: ServiceBusDelivery) -> None:
        """Record that a delivery is settled, given back or lost."""
        ...


class ServiceBusDelivery:
    """Implementation of `bridge.brokers.base.Delivery`."""

    __slots__ = (
        "_refusal", "_refusals", "_settled_before", "_settlements", "failures", "lost", "message", "over", "partition",
        "position", "raw", "settlement_unknown", "size",
    )  # fmt: skip

    def __init__(
        self,
        raw: ServiceBusReceivedMessage,
        message: Message,
        position: Position,
        partition: ServiceBusPartition,
        settlements: Settlements,
        size: int = 0,
    ) -> None:
        """Create a Service Bus delivery. size: encoded bytes of the message."""
        self.raw = raw
        self.size = size
        self.message = message
        self.position = position
        self.partition = partition
        self._settlements = settlements
        self.lost = False
        self.settlement_unknown = False
        self.over = False
        """True when the message is settled, given back or lost: its lock needs no renewal."""
        self.failures = 0
        """Number of settlement attempts that met a fault possibly caused by this message."""
        self._settled_before = 0
        """Number of other messages settled before the first of these faults."""
        self._refusals = 0
        self._refusal: SettlementRefused | None = None
        """Last refusal of a settlement."""

    @property
    def attempt(self) -> int:
        """Number of deliveries, from 1. The service itself dead-letters a message after the entity's max delivery
        count.
        """
        return (self.raw.delivery_count or 0) + 1

    async def complete(self) -> None:
        """See `Delivery.complete`. Idempotent. Raises: BrokerError, as documented there."""
        await self._settle(Verb.COMPLETE)

    async def dead_letter(self, cause: Cause) -> None:
        """See `Delivery.dead_letter`.

        The entity's own sub-queue takes the dead letter in one step. With another queue, a crash between the two steps
        writes the dead letter again, with the same message id.
        """
        if self._open():
            queue = self._settlements.dead_letter_queue
            if queue is None:
                await self._settle(Verb.DEAD_LETTER, dead_letters.describe(self.message, self.position, cause))
            else:
                await queue.write(self.message, self.position, cause)
                await self._settle(Verb.COMPLETE)

    async def abandon(self) -> None:
        """See `Delivery.abandon`. Counts as a delivery: only for messages that another consumer should try now."""
        try:
            if self._open():
                await self._settlements.settle(SettlementRequest(self, Verb.ABANDON))
        except (LockLost, PartitionRevoked, SettlementRefused):
            return

    def remaining(self, wall: float) -> float:
        """Seconds until the lock expires by the local clock, which shows `wall` (seconds since the epoch)."""
        until = self.raw.locked_until_utc
        return UNKNOWN_LOCK if until is None else until.timestamp() - wall

    def mark_lock_lost(self) -> None:
        """Record that the lock has expired."""
        if not self.over:
            self.lost = True
            self.finish()

    def finish(self) -> None:
        """Record that the delivery needs no further work. Idempotent."""
        if not self.over:
            self.over = True
            self.partition.remove_message()
            self._settlements.finished(self)

    def mark_settlement_unknown(self) -> None:
        """Record that a settlement attempt got no clear answer."""
        self.settlement_unknown = True

    def count_failure(self, settled: int) -> bool:
        """Count a failed settlement; return whether others have been settled since the first failure.

        settled: number of messages settled so far.
        """
        if not self.failures:
            self._settled_before = settled
        self.failures += 1
        return settled > self._settled_before

    async def _settle(self, verb: Verb, forms: Sequence[tuple[str, str]] = (("", ""),)) -> None:
        """Settle with the first form that the service accepts.

        forms: pairs of reason and description, each shorter than the one before.
        """
        tries = [forms[0]] * len(PAUSES) + list(forms)
        while self._open():
            if self._refusal is not None and self._refusals >= len(tries):
                await self._leave(self._refusal)
            try:
                await self._settlements.settle(SettlementRequest(self, verb, *tries[self._refusals]))
            except SettlementRefused as error:
                self._refusal = error
                self._refusals += 1
                if self._refusals <= len(PAUSES):
                    await asyncio.sleep(PAUSES[self._refusals - 1])
            else:
                return

    async def _leave(self, refusal: SettlementRefused) -> NoReturn:
        """Leave the message to the entity's max delivery count. Raises: SettlementRefused, BrokerUnavailable."""
        fate = "abandoned"
        try:
            await self._settlements.settle(SettlementRequest(self, Verb.ABANDON))
        except BrokerUnavailable:
            self._restart_attempts(refusal)
            raise
        except SettlementRefused as error:
            if isinstance(error, DoubtfulRefusal) and not error.others:
                # The service accepts no settlement at all: the service is at fault, not the message
                self._restart_attempts(refusal)
                raise BrokerUnavailable(str(refusal)) from refusal
            fate = "not abandoned either; it is delivered again when its lock has expired"
        except (LockLost, PartitionRevoked):
            fate = "being redelivered"
        _log.error(
            "%s: the service refuses to settle this message: %s; the message is %s. "
            "The entity's max delivery count ends its redeliveries",
            self.position, refusal, fate,
        )  # fmt: skip
        # End the renewal of the lock
        self.finish()
        raise refusal

    def _restart_attempts(self, refusal: SettlementRefused) -> None:
        """Restart the attempts after an outage that may have caused the refusals."""
        if isinstance(refusal, DoubtfulRefusal):
            self._refusals = 0

    def _open(self) -> bool:
        """Return whether the delivery can still be settled. Raises: LockLost, PartitionRevoked."""
        if self.lost:
            raise LockLost(f"the lock of {self.position} has expired; the message is being redelivered")
        if self.partition.revoked:
            raise PartitionRevoked(f"{self.position} belongs to another receiver, or the subscription is closed")
        return not self.over


class SettlementRequest:
    """Settlement request with a future for its result."""

    __slots__ = ("delivery", "description", "done", "reason", "verb")

    def __init__(self, delivery: ServiceBusDelivery, verb: Verb, reason: str = "", description: str = "") -> None:
        self.delivery = delivery
        self.verb = verb
        self.reason = reason
        self.description = description
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        """Report that the message is settled."""
        self.delivery.finish()
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Report that settlement failed, or that its outcome is unknown."""
        if not self.done.done():
            self.done.set_exception(error)
