"""What keeps a route from flooding its engine: caps on running orchestrations, and rates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bridge.commands import Command, ScheduleOrchestration, StartOrRaise
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.running_instances import RunningInstances, RunningValue
from bridge.pipeline.values import Values
from bridge.routing.per import SHARED

_STARTS = (ScheduleOrchestration, StartOrRaise)


class Rate:
    """A token bucket, as the times at which tokens come: whoever asks gets the next one and waits for it.

    per_second: tokens a second. burst: how many may be kept for later.
    """

    __slots__ = ("_interval", "_kept", "_next", "used_at")

    def __init__(self, per_second: float, burst: int = 1) -> None:
        self._interval = 1.0 / per_second
        self._kept = (burst - 1) * self._interval
        self._next = float("-inf")
        self.used_at = 0.0

    def take(self, now: float) -> float:
        """The time (monotonic seconds, like `now`) at which the token that was just taken is due."""
        due = max(self._next, now - self._kept)
        self._next = due + self._interval
        return due

    def give_back(self) -> None:
        """A token that was taken is not used."""
        self._next -= self._interval

    def idle(self, now: float) -> bool:
        """See `Account.idle`: the bucket is full."""
        return self._next <= now - self._kept


@dataclass(frozen=True, slots=True)
class Throttled:
    """A limit of the route keeps the item. delay: seconds until it may go; None: `RouteLimit.queue` tells."""

    limit: RouteLimit
    delay: float | None


class RouteLimit:
    """The limits of one route, over all its sources in this process.

    running: most orchestrations that may run; `population` counts them. A start that has to wait is served in the order
    of arrival; one whose instance runs already needs no room. rate: None for no limit. each_running: most of one value;
    among values that wait each is served in its turn. each_rate: rates of values; None for no limit.
    """

    def __init__(
        self,
        route: str,
        running: int | None = None,
        population: RunningInstances | None = None,
        rate: Rate | None = None,
        *,
        each_running: int | None = None,
        each_rate: Values[Rate] | None = None,
    ) -> None:
        self.route = route
        self.running = running
        self.each_running = each_running
        self.population = population
        self.delayed = 0
        """Commands that had to wait for a rate so far."""
        self._rate = rate
        self._each_rate = each_rate
        self._spread: dict[InFlightDelivery, Rate] = {}
        """Items that wait for a token, and the rate that they took it from."""
        self._waiting: dict[InFlightDelivery, RunningValue | None] = {}
        """Items with a start that waits, and the value that they are counted for."""
        self._queues: dict[RunningValue | None, dict[InFlightDelivery, tuple[str, Callable[[], None]]]] = {}
        """The same by value, none of them empty."""
        if population is not None:
            population.subscribe(self._admit_next)

    @property
    def waiting(self) -> int:
        """Starts that wait for room."""
        return len(self._waiting)

    @property
    def values(self) -> tuple[int, int] | None:
        """Values with limits of their own at the moment, and times that one had to share; None where the route has no
        `per`. Of its two tables the one with more.
        """
        running = None if self.population is None or self.each_running is None else self.population.values
        return max(
            ((len(values), values.overflows) for values in (running, self._each_rate) if values is not None),
            default=None,
        )

    def check(self, item: InFlightDelivery, command: Command, value: str = SHARED) -> Throttled | None:
        """None when the command may go now; it has its room and its token then. value: of `Step.value`."""
        if item in self._waiting:
            return Throttled(self, None)
        rate = self._spread.pop(item, None) if self._spread else None
        # The rate of a value comes first: who waits for it takes neither room nor tokens from others
        if self._each_rate is not None:
            now = time.monotonic()
            if item.value_due_at is None:
                rate = self._each_rate.of(value, now)
                item.value_due_at = rate.take(now)
                self.delayed += item.value_due_at > now
            if item.value_due_at > now:
                assert rate is not None
                return self._wait(item, rate, item.value_due_at - now)
        if isinstance(command, _STARTS) and not self._reserve(item, command.instance_id, value):
            return Throttled(self, None)
        if self._rate is not None:
            now = time.monotonic()
            if item.due_at is None:
                item.due_at = self._rate.take(now)
                self.delayed += item.due_at > now
            if item.due_at > now:
                return self._wait(item, self._rate, item.due_at - now)
        return None

    def queue(self, item: InFlightDelivery, command: Command, value: str, wake: Callable[[], None]) -> None:
        """Call `wake` when there is room for the item's start. `forget` it when it goes before."""
        assert self.population is not None
        assert isinstance(command, _STARTS)
        if item not in self._waiting:
            counted = self._counted(value)
            item.waits_for = self
            self._waiting[item] = counted
            self._queues.setdefault(counted, {})[item] = (command.instance_id, wake)
            if counted is not None:
                counted.waiting += 1
        self.population.request_recount()

    def forget(self, item: InFlightDelivery) -> None:
        """The item is gone."""
        if item in self._waiting:
            self._take(item)
        if (rate := self._spread.pop(item, None)) is not None:
            rate.give_back()
        item.waits_for = None

    @staticmethod
    def not_started(item: InFlightDelivery) -> None:
        """The room that the item took is free: its start found that there was nothing to start, or is given back."""
        if item.slot is not None:
            item.slot()
            item.slot = None

    @property
    def reason(self) -> str | None:
        """Why commands wait, None when none does."""
        return "; ".join(self._reasons()) or None

    def _reasons(self) -> Iterator[str]:
        if self._waiting and self.population is not None:
            if not self.population.known:
                yield f"{len(self._waiting)} starts wait until the running orchestrations are counted"
            elif self.running is None or len(self.population) < self.running:
                yield f"{len(self._waiting)} starts wait for others of their value ({self.each_running} may run)"
            else:
                yield f"{len(self.population)} of {self.running} orchestrations run, {len(self._waiting)} starts wait"
        if self._spread:
            yield f"{len(self._spread)} commands wait for the rate"

    def _wait(self, item: InFlightDelivery, rate: Rate, delay: float) -> Throttled:
        self._spread[item] = rate
        item.waits_for = self
        return Throttled(self, delay)

    def _reserve(self, item: InFlightDelivery, instance_id: str, value: str) -> bool:
        """Take room for a start; False where it has to wait. An instance that runs already needs none."""
        if self.population is None or instance_id in self.population:
            return True
        counted = self._counted(value)
        if counted in self._queues or not self._room(counted):
            return False
        self._enter(item, instance_id, counted)
        return True

    def _counted(self, value: str) -> RunningValue | None:
        """What counts the starts of a value; None where values are not told apart."""
        if self.each_running is None:
            return None
        assert self.population is not None
        assert self.population.values is not None
        return self.population.values.of(value, time.monotonic())

    def _room(self, counted: RunningValue | None) -> bool:
        assert self.population is not None
        if not self.population.known or (self.running is not None and len(self.population) >= self.running):
            return False
        return counted is None or self.each_running is None or counted.running < self.each_running

    def _enter(self, item: InFlightDelivery, instance_id: str, counted: RunningValue | None) -> None:
        assert self.population is not None
        item.slot = partial(self.population.release, instance_id)
        self.population.reserve(instance_id, counted)

    def _take(self, item: InFlightDelivery) -> tuple[str, Callable[[], None]]:
        """Take an item out of its queue."""
        counted = self._waiting.pop(item)
        queue = self._queues[counted]
        taken = queue.pop(item)
        if not queue:
            del self._queues[counted]
        if counted is not None:
            counted.waiting -= 1
        item.waits_for = None
        return taken

    def _admit_next(self) -> None:
        """Let starts go while there is room, one of each value in turn."""
        assert self.population is not None
        granted = True
        while granted:
            granted = False
            for counted, queue in list(self._queues.items()):
                item, (instance_id, _) = next(iter(queue.items()))
                runs = instance_id in self.population
                if not runs and not self._room(counted):
                    continue
                granted = True
                _, wake = self._take(item)
                if counted in self._queues:
                    self._queues[counted] = self._queues.pop(counted)  # the others have their turn before it
                if not runs:
                    self._enter(item, instance_id, counted)
                wake()
        if self._waiting:
            self.population.request_recount()


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of all routes that have some, by name, and the populations behind them."""

    limits: Mapping[str, RouteLimit]
    populations: tuple[RunningInstances, ...]

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """The tasks that must not end by themselves."""
        return [population.task for population in self.populations if population.task is not None]

    def start(self) -> None:
        for population in self.populations:
            population.start()

    async def stop(self) -> None:
        for population in self.populations:
            await population.stop()


NO_LIMITS = Admission({}, ())
