"""Parts of a source that keep deliveries outside their broker, and bring them to their lanes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from bridge.brokers.base import Partition
from bridge.core.commands import RoutedCommand
from bridge.core.settlement import Keep, Settlement
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane


class SourcePart(Protocol):
    """Part of a source that brings stored deliveries to its lanes, such as `bridge.replay.feed.ReplayFeed`.

    A source without parts runs none of this. A delivery that a part brings has `InFlightDelivery.stored`.
    """

    @property
    def name(self) -> str:
        """Word for its task in logs."""
        ...

    def start(self) -> None:
        """Start, before the source subscribes."""
        ...

    async def watch(self) -> None:
        """Bring stored deliveries when their time comes. Never returns."""
        ...

    def assigned(self) -> None:
        """Note that the source got partitions."""
        ...

    def leaves_with(self, item: InFlightDelivery, partitions: Collection[Partition]) -> bool:
        """True when a delivery that the part brought leaves with these revoked partitions."""
        ...

    async def revoked(self, partitions: Collection[Partition]) -> None:
        """Leave the deliveries of revoked partitions to other processes. Called when no delivery is left here."""
        ...

    async def stop(self) -> None:
        """Leave all stored deliveries to other processes."""
        ...


class Stage(SourcePart, Protocol):
    """Part of a source between its lanes and the execution, such as `bridge.quarantine.stage.QuarantineStage`.

    A source without a stage runs none of this.
    """

    @property
    def ready(self) -> bool:
        """True when the stage knows its keys. Before that, nothing is executed."""
        ...

    @property
    def quarantines(self) -> bool:
        """True when a delivery with an ordering key waits here for a person instead of being dead-lettered."""
        ...

    @property
    def key_count(self) -> int:
        """Number of ordering keys with kept deliveries, as known to this process."""
        ...

    # -- decision

    def blocking_settlement(self, lane: Lane, item: InFlightDelivery) -> Settlement | None:
        """Settlement of a delivery that must not be executed now; None: execute it."""
        ...

    def fits(self, item: InFlightDelivery) -> bool:
        """True when the stage can keep the delivery."""
        ...

    # -- carrying out

    async def keep(self, lane: Lane, item: InFlightDelivery, keep: Keep, step: RoutedCommand | None) -> Settlement:
        """Keep a delivery durably; return Complete, or the settlement after a failure to keep it.

        Raises: DeadLetterLimited.
        """
        ...
