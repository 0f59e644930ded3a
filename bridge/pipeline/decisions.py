"""Decisions of settled deliveries, for listeners beside the pipeline: live views and candidate rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from bridge.brokers.base import Delivery
from bridge.core.commands import Decision
from bridge.core.message import Envelope
from bridge.core.settlement import Complete, WriteDeadLetter
from bridge.core.states import Outcome
from bridge.pipeline.in_flight_delivery import InFlightDelivery

log = structlog.get_logger("bridge.decisions")


@dataclass(frozen=True, slots=True)
class SettledDelivery:
    """Settled delivery with the decision of the rules. Listeners must change nothing of it.

    source: name of the source.
    delivery: settled already; a listener reads its message and its position.
    envelope: decoded message. None where decoding failed, and where the decoded form of a large message was dropped
    while the broker was away.
    decision: None where the message was not routed, and where the envelope was dropped.
    routes: names of the routes of the decision, or of those executed where there is no decision.
    outcome: outcome of the delivery.
    reason, detail: of a dead letter, or of an early or quarantined message; None for others. Without payload.
    route: route that failed; None where none did.
    expression: place of the expression that failed; empty where none did.
    duration: seconds from receipt to settlement.
    attempts: number of attempts in this process.
    is_stored: True for a message that an engine kept, which its broker has settled before.
    rules: version of the rules that decided.
    """

    source: str
    delivery: Delivery
    envelope: Envelope | None
    decision: Decision | None
    routes: tuple[str, ...]
    outcome: Outcome
    reason: str | None
    detail: str | None
    route: str | None
    expression: str
    duration: float
    attempts: int
    is_stored: bool
    rules: str


DecisionListener = Callable[[SettledDelivery], None]
"""Callback for each settled delivery, on the event loop. It returns at once and awaits nothing."""


class DecisionListeners:
    """Listeners of the settled deliveries of some sources. Not thread-safe: one event loop."""

    def __init__(self) -> None:
        self._listeners: tuple[DecisionListener, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def add(self, listener: DecisionListener) -> Callable[[], None]:
        """Call `listener` for each settled delivery from now on; return a callback that ends this."""
        self._listeners += (listener,)
        return lambda: self._remove(listener)

    def _remove(self, listener: DecisionListener) -> None:
        self._listeners = tuple(each for each in self._listeners if each is not listener)

    def offer(
        self, source: str, item: InFlightDelivery, end: Complete | WriteDeadLetter, route: str | None, now: float
    ) -> None:
        """Offer a delivery that has just been settled. Call this only while there are listeners.

        route: route that failed; None where none did. now: monotonic seconds.
        Raises nothing: a listener that fails is removed.
        """
        reason: str | None = None
        detail: str | None = None
        if isinstance(end, WriteDeadLetter):
            outcome, reason, detail = Outcome.DEAD_LETTERED, end.reason, end.detail
        else:
            outcome = end.outcome
            if outcome in _KEPT and item.last_failure is not None:
                reason, detail = item.last_failure
        decision = item.decision
        settled = SettledDelivery(
            source,
            item.delivery,
            None if item.is_trimmed else item.envelope,
            decision,
            tuple(dict.fromkeys(item.executed)) if decision is None else decision.routes,
            outcome,
            reason,
            detail,
            None if reason is None else route or item.failed_route,
            item.failed_expression if reason is not None else "",
            now - item.received_at,
            item.attempt,
            item.stored is not None,
            item.rules.version,
        )
        for listener in self._listeners:
            try:
                listener(settled)
            except Exception as error:
                self._remove(listener)
                log.error("a listener of decisions failed and was removed", action="bug", exc_info=error)


_KEPT = (Outcome.EARLY, Outcome.QUARANTINED)
"""Outcomes whose reason is the failure before them."""
