"""Deliveries for tests of single pipeline parts that never settle deliveries."""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.config.model.sources import LimitsConfig, SourcePerConfig
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.limits.per_value import ValueShares


@dataclass(eq=False)
class Part:
    topic: str = "t"
    number: int = 0
    revoked: bool = False
    lost: bool = False
    gap: int = 0
    paused: bool = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


@dataclass
class Unsettled:
    message: Message
    position: Position
    partition: Part = field(default_factory=Part)
    attempt: int = 1
    lost: bool = False

    async def complete(self) -> None:
        raise AssertionError("not to be settled")

    async def dead_letter(self, cause: Cause) -> None:
        raise AssertionError("not to be settled")

    async def abandon(self) -> None:
        raise AssertionError("not to be settled")


def item(number: int = 0, partition: Part | None = None) -> InFlightDelivery:
    delivery = Unsettled(Message(b"x"), Position("c", "t", 0, number), partition or Part())
    return InFlightDelivery(delivery, None, None, 0.0)  # type: ignore[arg-type]  # wider than its annotation, on purpose


def shares_of(records: int, size: int, waiting: int, waiting_bytes: int, values: int) -> ValueShares:
    """Shares with these limits per value."""
    per = SourcePerConfig(
        value="{{ key }}",
        max_in_flight=records,
        max_in_flight_bytes=size,
        max_waiting=waiting,
        max_waiting_bytes=waiting_bytes,
        max_values=values,
    )
    return ValueShares(LimitsConfig(), per)
