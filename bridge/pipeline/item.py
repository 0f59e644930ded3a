"""One delivery on its way through the pipeline."""

from __future__ import annotations

from bridge.brokers.base import Delivery
from bridge.commands import Decision, Step
from bridge.envelope import Envelope
from bridge.settlement import Complete, DeadLetter


class Item:
    """A delivery with what is known of it so far. Mutable: it belongs to exactly one lane.

    size: bytes counted against the source's limit. received_at: monotonic seconds.
    error: why decoding failed; then envelope is None. next_step: index of the first step not yet executed.
    executed: routes all of whose steps the engine has taken. duplicates, effects, parked: steps counted so far.
    pending: how it ends, decided but not yet taken by the broker.
    """

    __slots__ = (
        "attempt",
        "decision",
        "delivery",
        "duplicates",
        "effects",
        "envelope",
        "error",
        "error_class",
        "executed",
        "failed_at",
        "failed_step",
        "next_step",
        "parked",
        "pending",
        "received_at",
        "size",
    )

    def __init__(
        self, delivery: Delivery, envelope: Envelope | None, error: Exception | None, received_at: float
    ) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.error = error
        self.size = delivery.message.size
        self.received_at = received_at
        self.decision: Decision | None = None
        self.next_step = 0
        self.executed: list[str] = []
        self.effects = 0
        self.duplicates = 0
        self.parked = 0
        self.attempt = 1
        self.failed_at: float | None = None
        self.failed_step: Step | None = None
        self.error_class = ""
        self.pending: Complete | DeadLetter | None = None
