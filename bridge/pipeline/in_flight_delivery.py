"""Delivery in the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from bridge.brokers.base import Delivery
from bridge.core.commands import Decision
from bridge.core.envelope import Envelope
from bridge.core.settlement import Complete, DeadLetter

if TYPE_CHECKING:
    from bridge.pipeline.admission import RouteLimit
    from bridge.pipeline.dead_letter_limit import DeadLetterLimit
    from bridge.pipeline.shares import Share


class InFlightDelivery:
    """Delivery with its state in the pipeline. Mutable: it belongs to exactly one lane.

    size: bytes counted against the source's limit.
    received_at: monotonic seconds.
    error: failure of decoding; envelope is None then.
    next_step: index of the first step not yet executed.
    executed: routes all of whose steps the engine has executed.
    duplicates, effects, parked: steps counted so far.
    failed_route: route of the step that failed or waits in the last attempt.
    pending: decided settlement that the broker has not accepted yet.
    due_at: monotonic time of the token that the next step has taken from its route's rate.
    value_due_at: monotonic time of the token from the rate of its value.
    slot: callback that frees the next step's slot among the running orchestrations.
    waits_for: limit in whose queue it is.
    domain_key: key in the ordering domain that its source shares, while it is queued there.
    share: share of its value, where the source has `limits.per`.
    """

    __slots__ = (
        "attempt",
        "decision",
        "delivery",
        "domain_key",
        "due_at",
        "duplicates",
        "effects",
        "envelope",
        "error",
        "error_class",
        "executed",
        "failed_at",
        "failed_route",
        "next_step",
        "parked",
        "pending",
        "received_at",
        "share",
        "size",
        "slot",
        "value_due_at",
        "waited",
        "waits_for",
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
        self.waited = 0  # waits behind others, which are no failures
        self.failed_at: float | None = None
        self.failed_route: str | None = None
        self.error_class = ""
        self.pending: Complete | DeadLetter | None = None
        self.domain_key: Hashable | None = None
        self.share: Share | None = None
        self.due_at: float | None = None
        self.value_due_at: float | None = None
        self.slot: Callable[[], None] | None = None
        self.waits_for: RouteLimit | DeadLetterLimit | None = None
