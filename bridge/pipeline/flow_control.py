"""Flow control of a source's intake: limits with high and low marks, reasons to pause, and outages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from bridge.brokers.base import Partition
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import BridgeError, ClaimStoreUnavailable, RegistryUnavailable
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lanes
from bridge.pipeline.rule_set import RuleChooser

log = structlog.get_logger("bridge.gate")
_log_source = structlog.get_logger("bridge.source")

PERSON = "person"
"""Cause of a pause by a person."""

PAYLOADS = "claim-check store"
"""Cause of a pause while the place to which messages refer does not answer."""

REGISTRY = "schema registry"
"""Cause of a pause while a schema registry does not answer."""

_LOW_WATER = 0.75
_QUIET = 60.0
"""Seconds between two warnings of a state that a sender can cause repeatedly."""


class _Level:
    """Records and bytes with their limits: full from the high mark (the limit) down to the low mark."""

    __slots__ = ("_max_bytes", "_max_records", "full")

    def __init__(self, max_records: int, max_bytes: int) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self.full = False

    def measure(self, records: int, size: int) -> bool:
        if self.full:
            self.full = records > self._max_records * _LOW_WATER or size > self._max_bytes * _LOW_WATER
        else:
            self.full = records >= self._max_records or size >= self._max_bytes
        return self.full


class FlowControl:
    """Flow control of one source's intake.

    pause_reasons: reasons to pause, by cause (`engine default`, `broker`), each a sentence for a person.
    A full pipeline pauses too: from the high mark (the limit) down to the low mark (three quarters of the limit).
    """

    def __init__(self, source: str, limits: LimitsConfig) -> None:
        self._source = source
        per = limits.per
        self._max_gap = limits.max_gap
        self._open = asyncio.Event()
        self._open.set()
        self._at_work = _Level(limits.max_in_flight, limits.max_in_flight_bytes)
        self._waiting = None if per is None else _Level(per.max_waiting, per.max_waiting_bytes)
        self._warn_at = float("-inf")
        self.full = False
        self.pause_reasons: dict[str, str] = {}
        self.paused: set[Partition] = set()
        """Partitions at their gap limit: not fetched until the message that blocks their prefix is settled."""

    @property
    def paused_by_person(self) -> bool:
        """True while a person has paused the source."""
        return PERSON in self.pause_reasons

    @property
    def closed(self) -> bool:
        """True while intake may not continue."""
        return not self._open.is_set()

    async def wait(self) -> None:
        """Return when intake may continue."""
        await self._open.wait()

    def hold(self, cause: str, detail: str) -> None:
        self.pause_reasons[cause] = detail
        self._open.clear()

    def release(self, cause: str) -> None:
        self.pause_reasons.pop(cause, None)
        self._update()

    def measure(self, records: int, size: int, waiting: tuple[int, int] = (0, 0)) -> None:
        """Update the records and bytes in flight. waiting: those of them that wait for others of their value."""
        full = self._at_work.measure(records - waiting[0], size - waiting[1])
        if self._waiting is not None:
            was, now = self._waiting.full, time.monotonic()
            if self._waiting.measure(*waiting) and not was and now >= self._warn_at:
                self._warn_at = now + _QUIET
                log.warning(
                    f"source {self._source} stops reading: {waiting[0]} records of {waiting[1]} bytes wait for others "
                    "of their value. If other senders wait too, raise limits.per.max_waiting and max_waiting_bytes",
                    action="pause",
                    source=self._source,
                )
            full = full or self._waiting.full
        if full is not self.full:
            self.full = full
            self._update()

    def fetched(self, partition: Partition) -> None:
        """Pause a partition whose gap has reached the limit."""
        if partition.gap >= self._max_gap and partition not in self.paused:
            self.paused.add(partition)
            partition.pause()
            log.warning(
                f"source {self._source} stops reading {partition.topic}/{partition.number}: {partition.gap} records "
                f"wait for a commit behind one that is not settled (limits.max_gap {self._max_gap}). Next: bridge "
                f"sources lag {self._source}",
                action="pause",
                source=self._source,
            )

    def settled(self, partition: Partition) -> None:
        """Resume a paused partition whose gap has fallen to the low mark."""
        if partition in self.paused and partition.gap <= self._max_gap * _LOW_WATER:
            self.paused.discard(partition)
            partition.resume()
            log.info(f"{partition.topic}/{partition.number} is read again", action="resume", source=self._source)

    def forget(self, partition: Partition) -> None:
        """Remove a revoked partition."""
        self.paused.discard(partition)

    def _update(self) -> None:
        if self.full or self.pause_reasons:
            self._open.clear()
        else:
            self._open.set()


class EngineQueue:
    """Queue of the deliveries that wait for one engine while another one of their source answers. Implements `Limit`.

    The engine's return frees their lanes together with all others.
    """

    unloads = True

    def __init__(self, name: str, breaker: Breaker) -> None:
        self._name = name
        self._breaker = breaker
        self._waiting: set[InFlightDelivery] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def detail(self) -> str:
        """Sentence about the outage."""
        return f"engine {self._name} does not answer: {self._breaker.error}"

    def add(self, item: InFlightDelivery) -> None:
        """Make a delivery wait for the engine."""
        item.wait_in(self)
        self._waiting.add(item)

    def blocks(self, item: InFlightDelivery) -> bool:
        """True while the engine is away. Afterwards the delivery leaves the queue."""
        if self._breaker.error is not None:
            return True
        self.forget(item)
        return False

    def forget(self, item: InFlightDelivery) -> None:
        """Remove a delivery."""
        self._waiting.discard(item)
        item.leave_queue()


class Outages:
    """Hold a source's flow control during outages, and release its held lanes afterwards.

    An outage of one engine holds the lanes whose head needs it. Intake stops only when no engine of the source answers,
    or its broker or schema registry does not.
    """

    def __init__(self, source: str, rules: RuleChooser, gate: FlowControl, lanes: Lanes) -> None:
        """Create the outages of one source. rules: their current retry gives the delays."""
        self._source = source
        self._rules = rules
        self._gate = gate
        self._lanes = lanes
        self._failures = 0
        self._watched: dict[str, tuple[Breaker, Callable[[], None]]] = {}
        """Breaker and listener of each engine."""
        self._queues: dict[str, EngineQueue] = {}

    def watch(self, breakers: Mapping[str, Breaker]) -> None:
        """Subscribe to the outages of engines that are not watched yet."""
        for name, breaker in breakers.items():
            if name not in self._watched:
                listener = partial(self._engine_changed, breaker)
                self._watched[name] = breaker, listener
                self._queues[name] = EngineQueue(name, breaker)
                breaker.subscribe(listener)
        self._hold_without_engine()

    def stop(self) -> None:
        """Unsubscribe from all engines."""
        for breaker, listener in self._watched.values():
            breaker.unsubscribe(listener)
        self._watched.clear()

    @property
    def partial(self) -> dict[str, EngineQueue]:
        """Queues of the engines that are away while another one answers, by name."""
        away = [name for name, (breaker, _) in self._watched.items() if breaker.error is not None]
        return {} if len(away) == len(self._watched) else {name: self._queues[name] for name in away}

    @property
    def waiting(self) -> dict[str, int]:
        """Number of lanes that wait for each engine; empty for a source with one engine."""
        return {name: len(queue) for name, queue in self._queues.items()} if len(self._queues) > 1 else {}

    def hold(self, error: BridgeError) -> None:
        """Hold the source: its broker, its schema registry or the claim-check store does not answer.

        Held lanes continue after a delay.
        """
        cause = "broker"
        if isinstance(error, RegistryUnavailable | ClaimStoreUnavailable):
            cause = REGISTRY if isinstance(error, RegistryUnavailable) else PAYLOADS
        if cause not in self._gate.pause_reasons:
            self._failures += 1
            self._gate.hold(cause, str(error))
            _log_source.warning(f"the {cause} does not answer", action="hold", source=self._source, detail=str(error))
            asyncio.get_running_loop().call_later(self._rules.current.retry.delay(self._failures), self.resume, cause)

    def resume(self, cause: str) -> None:
        """Release one cause, and continue the lanes that waited for it."""
        self._gate.release(cause)
        self._lanes.release()

    def broker_recovered(self) -> None:
        """Reset the delay: the broker accepted a settlement."""
        self._failures = 0

    def _engine_changed(self, breaker: Breaker) -> None:
        self._hold_without_engine()
        if breaker.error is None:
            self._lanes.release()
        elif breaker.name in self.partial:
            _log_source.warning(
                f"engine {breaker.name} does not answer: its routes wait, others of the source continue",
                action="hold",
                source=self._source,
                engine=breaker.name,
                detail=str(breaker.error),
            )

    def _hold_without_engine(self) -> None:
        """Stop intake while no engine answers."""
        without = bool(self._watched) and all(breaker.error is not None for breaker, _ in self._watched.values())
        for name, (breaker, _) in self._watched.items():
            if without:
                self._gate.hold(f"engine {name}", str(breaker.error))
            else:
                self._gate.release(f"engine {name}")
