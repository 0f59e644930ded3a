"""What became of every delivery: received = sum of outcomes + abandoned + in flight, at any moment."""

from __future__ import annotations

from collections import Counter

from bridge.pipeline.histogram import Histogram
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.settlement import Outcome


class Ledger:
    """Counts of one source since the process started."""

    def __init__(self) -> None:
        self.received = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.settled_at = 0.0
        """Monotonic seconds of the last settled delivery."""
        self.outcomes: dict[str, int] = dict.fromkeys(Outcome, 0)
        self.dead_letters: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.unreadable: Counter[tuple[str, int, str]] = Counter()
        """Deliveries that could not be parsed, by topic, partition and fault."""
        self.commands: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.bugs = 0
        self.locks_lost = 0
        self.processing = Histogram()
        self.critical = Histogram()

    def receive(self, item: InFlightDelivery) -> None:
        """A delivery came in."""
        self.received += 1
        self.in_flight += 1
        self.in_flight_bytes += item.size

    def settle(self, item: InFlightDelivery, outcome: Outcome, now: float, wall: float) -> None:
        """A delivery was settled. now: monotonic seconds. wall: seconds since the epoch."""
        self.settled_at = now
        self._leave(item)
        self.outcomes[outcome] += 1
        self.processing.observe(now - item.received_at)
        sent = item.delivery.message.timestamp
        if sent is not None:
            self.critical.observe(wall - sent if wall > sent else 0.0)

    def abandon(self, item: InFlightDelivery, reason: str) -> None:
        """A delivery was let go unsettled; it will be redelivered."""
        self._leave(item)
        self.abandoned[reason] += 1

    def balanced(self) -> bool:
        """Whether every received delivery is accounted for."""
        return self.received == sum(self.outcomes.values()) + sum(self.abandoned.values()) + self.in_flight

    def _leave(self, item: InFlightDelivery) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= item.size
