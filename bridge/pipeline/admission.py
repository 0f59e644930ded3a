"""What keeps a route from flooding its engine: a cap on running orchestrations, and a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bridge.commands import Command, ScheduleOrchestration, StartOrRaise
from bridge.pipeline.item import Item
from bridge.pipeline.population import Population


class Rate:
    """A token bucket, as the times at which tokens come: whoever asks gets the next one and waits for it.

    per_second: tokens a second. burst: how many may be kept for later.
    """

    def __init__(self, per_second: float, burst: int = 1) -> None:
        self._interval = 1.0 / per_second
        self._kept = (burst - 1) * self._interval
        self._next = float("-inf")

    def take(self, now: float) -> float:
        """The time (monotonic seconds, like `now`) at which the token that was just taken is due."""
        due = max(self._next, now - self._kept)
        self._next = due + self._interval
        return due


@dataclass(frozen=True, slots=True)
class NotYet:
    """A limit of the route keeps the item. delay: seconds until it may go; None: `RouteLimit.queue` tells."""

    limit: RouteLimit
    delay: float | None


class RouteLimit:
    """The limits of one route, over all its sources in this process.

    running: most orchestrations that may run; `population` counts them. A start that has to wait is served in the order
    of arrival; one whose instance runs already needs no room. rate: None for no limit.
    """

    def __init__(
        self, route: str, running: int | None = None, population: Population | None = None, rate: Rate | None = None
    ) -> None:
        self.route = route
        self.running = running
        self.population = population
        self.delayed = 0
        """Commands that had to wait for the rate so far."""
        self._rate = rate
        self._queue: dict[Item, tuple[str, Callable[[], None]]] = {}
        if population is not None:
            population.subscribe(self._grant)

    @property
    def waiting(self) -> int:
        """Starts that wait for room."""
        return len(self._queue)

    def check(self, item: Item, command: Command) -> NotYet | None:
        """None when the command may go now; it has its room and its token then."""
        if self.population is not None and isinstance(command, ScheduleOrchestration | StartOrRaise):
            if item in self._queue:
                return NotYet(self, None)
            if command.instance_id not in self.population:
                if self._queue or not self._room():
                    return NotYet(self, None)
                self._enter(item, command.instance_id)
        if self._rate is not None:
            now = time.monotonic()
            if item.due_at is None:
                item.due_at = self._rate.take(now)
                self.delayed += item.due_at > now
            if item.due_at > now:
                return NotYet(self, item.due_at - now)
        return None

    def queue(self, item: Item, command: Command, wake: Callable[[], None]) -> None:
        """Call `wake` when there is room for the item's start. `forget` it when it goes before."""
        assert self.population is not None
        assert isinstance(command, ScheduleOrchestration | StartOrRaise)
        if item not in self._queue:
            item.waits_for = self
            self._queue[item] = (command.instance_id, wake)
        self.population.want()

    def forget(self, item: Item) -> None:
        """The item is gone."""
        self._queue.pop(item, None)
        item.waits_for = None

    @staticmethod
    def not_started(item: Item) -> None:
        """The room that the item took is free: its start found that there was nothing to start, or is given back."""
        if item.room is not None:
            item.room()
            item.room = None

    @property
    def reason(self) -> str | None:
        """Why starts wait, None when none does."""
        if not self._queue or self.population is None:
            return None
        if not self.population.known:
            return f"{len(self._queue)} starts wait until the running orchestrations are counted"
        return f"{len(self.population)} of {self.running} orchestrations run, {len(self._queue)} starts wait"

    def _room(self) -> bool:
        assert self.population is not None
        assert self.running is not None
        return self.population.known and len(self.population) < self.running

    def _enter(self, item: Item, instance_id: str) -> None:
        assert self.population is not None
        item.room = partial(self.population.withdraw, instance_id)
        self.population.enter(instance_id)

    def _grant(self) -> None:
        assert self.population is not None
        while self._queue and (self._room() or next(iter(self._queue.values()))[0] in self.population):
            item = next(iter(self._queue))
            instance_id, wake = self._queue.pop(item)
            item.waits_for = None
            if instance_id not in self.population:
                self._enter(item, instance_id)
            wake()
        if self._queue:
            self.population.want()


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of all routes that have some, by name, and the populations behind them."""

    limits: Mapping[str, RouteLimit]
    populations: tuple[Population, ...]

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
