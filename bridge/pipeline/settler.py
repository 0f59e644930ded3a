"""Settler: completes or dead-letters items, and counts them."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from bridge.brokers.base import Partition
from bridge.core.pace import NO_ROUTE
from bridge.core.provenance import Cause
from bridge.core.settlement import Complete, DeadLetter, Outcome
from bridge.pipeline.dead_letter_limit import DeadLetterLimit
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.ledger import Ledger

log = structlog.get_logger("bridge.settler")

_SUCCESSES = (Outcome.EXECUTED, Outcome.DUPLICATE, Outcome.IGNORED)


class Settler:
    """Settles items of one source."""

    def __init__(
        self,
        source: str,
        config_version: str,
        trusted_replay: bool,
        ledger: Ledger,
        limit: DeadLetterLimit,
        stops_others: Callable[[Partition], bool],
    ) -> None:
        """Create a settler. stops_others: True when messages that wait for the limit would soon stop others."""
        self._source = source
        self._config_version = config_version
        self._trusted_replay = trusted_replay
        self._ledger = ledger
        self._limit = limit
        self._stops_others = stops_others

    async def settle(self, item: InFlightDelivery, end: Complete | DeadLetter, route: str | None) -> None:
        """Settle an item. route: route of the step that failed.

        Raises: BrokerUnavailable (settle again), LockLost, PartitionRevoked, SettlementRefused (forget the item),
        DeadLetterLimited.
        """
        if isinstance(end, Complete):
            await item.delivery.complete()
            if self._limit.active and end.outcome in _SUCCESSES:
                self._limit.succeeded(set(item.executed), stops_others=self._stops_others(item.delivery.partition))
            self._ledger.settle(item, end.outcome, time.monotonic(), time.time())
            return
        limited = NO_ROUTE if route is None else route
        paced = item.pending is None and await self._limit.allow(limited, item.delivery.position)
        item.pending = end
        await item.delivery.dead_letter(self._cause(item, end, route))
        if paced:
            await self._limit.wrote(limited)
        self._ledger.dead_letters[end.reason] += 1
        self._ledger.settle(item, Outcome.DEAD_LETTERED, time.monotonic(), time.time())
        log.warning(
            "dead-lettered",
            action="dead_letter",
            source=self._source,
            reason=end.reason,
            detail=end.detail,
            route=route,
            position=str(item.delivery.position),
            attempts=item.attempt,
            deliveries=item.delivery.attempt,
        )

    def _cause(self, item: InFlightDelivery, end: DeadLetter, route: str | None) -> Cause:
        return Cause(
            reason=end.reason,
            detail=end.detail,
            error=item.error_class,
            source=self._source,
            route=route,
            executed=tuple(dict.fromkeys(item.executed)),
            attempts=item.attempt,
            config=self._config_version,
            message_id=item.envelope.message_id if item.envelope else None,
            replayed=self._trusted_replay,
            deliveries=item.delivery.attempt,
        )
