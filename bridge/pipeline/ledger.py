"""Ledger of deliveries. At any moment: received = sum of outcomes + abandoned + in flight."""

from __future__ import annotations

from collections import Counter

from bridge.core.histogram import LONG_SECONDS, Histogram
from bridge.core.states import Outcome
from bridge.pipeline.in_flight_delivery import InFlightDelivery


class Ledger:
    """Counts of one source since the process started."""

    def __init__(self) -> None:
        self.received = 0
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.outcomes: dict[str, int] = dict.fromkeys(Outcome, 0)
        self.dead_letters: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.unreadable: Counter[tuple[str, int, str]] = Counter()
        """Deliveries that could not be parsed, by topic, partition and fault."""
        self.commands: Counter[tuple[str, str]] = Counter()
        self.retries = 0
        self.bugs = 0
        self.locks_lost = 0
        self.seeks = 0
        self.processing = Histogram()
        self.end_to_end = Histogram(LONG_SECONDS)

    def receive(self, item: InFlightDelivery) -> None:
        """Count a received delivery."""
        self.received += 1
        self.in_flight += 1
        self.in_flight_bytes += item.size
        if (unreadable := item.delivery.message.unreadable) is not None and item.stored is None:
            partition = item.delivery.partition
            self.unreadable[partition.topic, partition.number, unreadable.fault] += 1

    def execute(self, route: str, command: str) -> None:
        """Count an executed command. command: name of its class."""
        self.commands[route, command] += 1

    def retry(self) -> None:
        """Count a failed attempt that is followed by another."""
        self.retries += 1

    def bug(self) -> None:
        """Count an unexpected failure."""
        self.bugs += 1

    def count_lost_locks(self, count: int = 1) -> None:
        """Count lost locks."""
        self.locks_lost += count

    def seek(self, count: int) -> None:
        """Count partitions whose position a person has moved."""
        self.seeks += count

    def dead_letter(self, item: InFlightDelivery, reason: str, now: float, wall: float) -> None:
        """Count a written dead letter; `now` and `wall` as of `settle`."""
        self.dead_letters[reason] += 1
        self.settle(item, Outcome.DEAD_LETTERED, now, wall)

    def settle(self, item: InFlightDelivery, outcome: Outcome, now: float, wall: float) -> None:
        """Count a settled delivery.

        now: monotonic seconds.
        wall: seconds since the Unix epoch.
        """
        self._leave(item)
        self.outcomes[outcome] += 1
        took = now - item.received_at
        self.processing.observe(took)
        sent = item.delivery.message.timestamp
        since = None if sent is None else wall - sent if wall > sent else 0.0
        if since is not None:
            self.end_to_end.observe(since)
        trace = item.trace
        if trace is not None and trace.is_sampled:
            self.processing.example(took, trace.trace_id, wall)
            if since is not None:
                self.end_to_end.example(since, trace.trace_id, wall)

    def abandon(self, item: InFlightDelivery, reason: str) -> None:
        """Count a delivery that was released unsettled and will be redelivered."""
        self._leave(item)
        self.abandoned[reason] += 1

    def _leave(self, item: InFlightDelivery) -> None:
        self.in_flight -= 1
        self.in_flight_bytes -= item.size
