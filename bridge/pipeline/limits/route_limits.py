"""Limits that keep a route from flooding its engine: caps on running orchestrations, and rates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from bridge.config.model.routes import RouteLimitsConfig
from bridge.core.commands import Command, ScheduleOrchestration, StartOrRaise
from bridge.core.words import plural
from bridge.pipeline.in_flight_delivery import InFlightDelivery, Limit
from bridge.pipeline.limits.per_value import ValueAccounts
from bridge.pipeline.limits.running_instances import RunningInstances, RunningValue
from bridge.routing.per import SHARED

_STARTS = (ScheduleOrchestration, StartOrRaise)
_NO_RATE = None, None


class TokenBucket:
    """Token bucket, kept as the time of the next token. Each caller takes the next token and waits for its time.

    per_second: tokens a second.
    burst: most tokens saved for later.
    """

    __slots__ = ("_interval", "_kept", "_next")

    def __init__(self, per_second: float, burst: int = 1) -> None:
        self._interval = 1.0 / per_second
        self._kept = (burst - 1) * self._interval
        self._next = float("-inf")

    @property
    def per_second(self) -> float:
        """Tokens a second."""
        return 1.0 / self._interval

    def take(self, now: float) -> float:
        """Take a token; return the time at which it is due, in monotonic seconds like `now`."""
        due = max(self._next, now - self._kept)
        self._next = due + self._interval
        return due

    def give_back(self) -> None:
        """Return a token that was taken and is not used."""
        self._next -= self._interval

    def idle(self, now: float) -> bool:
        """True when the bucket is full; see `Account.idle`."""
        return self._next <= now - self._kept


class StartLimit(Limit, Protocol):
    """Limit that makes starts wait."""

    def queue(self, item: InFlightDelivery, command: Command, value: str, wake: Callable[[], None]) -> None:
        """Queue the item's start; call `wake` when it may run. Call `forget` when the item leaves earlier."""
        ...

    def retry_early(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when an item that waits for a time may try again earlier."""
        ...


@dataclass(frozen=True, slots=True)
class Throttled:
    """Result of a limit that makes the item wait.

    delay: seconds until it may go; None: the wake callback of `queue` reports it.
    """

    limit: StartLimit
    delay: float | None


class RouteLimit:
    """Limits of one route, over all its sources in this process.

    running: most running orchestrations, as counted by `running_instances`. Waiting starts are served in the order of
    arrival. A start whose instance runs already needs no slot.
    rate: commands a second; None: no limit.
    each_running: most running orchestrations of one value. Waiting values are served in turn.
    each_rate: rates of values; None: no limit.
    """

    unloads = False

    def __init__(
        self,
        route: str,
        running: int | None = None,
        running_instances: RunningInstances | None = None,
        rate: TokenBucket | None = None,
        *,
        each_running: int | None = None,
        each_rate: ValueAccounts[TokenBucket] | None = None,
    ) -> None:
        self.route = route
        self.running = running
        self.each_running = each_running
        self.running_instances = running_instances
        self.until: float | None = None
        """End of a person's temporary limit, in seconds since the Unix epoch; None without one."""
        self.delayed = 0
        """Number of commands that had to wait for a rate."""
        self._rate = rate
        self._each_rate = each_rate
        self._spread: dict[InFlightDelivery, tuple[TokenBucket, Callable[[], None] | None]] = {}
        """Items that wait for a token, the rate of that token, and the callback that lets them try again at once."""
        self._waiting: dict[InFlightDelivery, RunningValue | None] = {}
        """Items with a waiting start, and the count of their value."""
        self._queues: dict[RunningValue | None, dict[InFlightDelivery, tuple[str, Callable[[], None]]]] = {}
        """Queues of waiting starts by value. No queue is empty."""
        if running_instances is not None:
            running_instances.subscribe(self._admit_next)

    def change(
        self,
        running: int | None,
        rate: TokenBucket | None,
        each_running: int | None,
        each_rate: ValueAccounts[TokenBucket] | None,
    ) -> None:
        """Change the limits, also for commands that wait: they try again at once. None: no limit."""
        self.running, self.each_running = running, each_running
        self._rate, self._each_rate = rate, each_rate
        spread, self._spread = self._spread, {}
        for item, (_, wake) in spread.items():
            item.drop_tokens()
            item.leave_queue()
            if wake is not None:
                wake()
        if self.running_instances is not None:
            self._admit_next()

    def end_at(self, until: float | None) -> None:
        """Set the time at which a person's temporary limit ends, in seconds since the Unix epoch; None without one."""
        self.until = until

    @property
    def rate(self) -> float | None:
        """Commands a second of this process; None without a limit."""
        return None if self._rate is None else self._rate.per_second

    @property
    def waiting(self) -> int:
        """Number of starts that wait for a slot."""
        return len(self._waiting)

    @property
    def values(self) -> tuple[int, int] | None:
        """Number of values with their own limits now, and of times that a value had to share one; None without `per`.

        The numbers are those of the larger of its two tables.
        """
        running = None if self.running_instances is None or self.each_running is None else self.running_instances.values
        return max(
            ((len(values), values.overflows) for values in (running, self._each_rate) if values is not None),
            default=None,
        )

    def check(self, item: InFlightDelivery, command: Command, value: str = SHARED) -> Throttled | None:
        """Take the command's slot and token; None when both are available now. value: value of `Step.value`."""
        if item in self._waiting:
            return Throttled(self, None)
        rate, _ = self._spread.pop(item, _NO_RATE) if self._spread else _NO_RATE
        # The rate of a value comes first: a command that waits for it takes neither a slot nor other tokens
        if self._each_rate is not None:
            now = time.monotonic()
            if (due_at := item.value_due_at) is None:
                rate = self._each_rate.of(value, now)
                due_at = item.take_value_token(rate.take(now))
                self.delayed += due_at > now
            if due_at > now:
                assert rate is not None
                return self._wait(item, rate, due_at - now)
        if isinstance(command, _STARTS) and not self._reserve(item, command.instance_id, value):
            return Throttled(self, None)
        if self._rate is not None:
            now = time.monotonic()
            if (due_at := item.due_at) is None:
                due_at = item.take_token(self._rate.take(now))
                self.delayed += due_at > now
            if due_at > now:
                return self._wait(item, self._rate, due_at - now)
        return None

    def queue(self, item: InFlightDelivery, command: Command, value: str, wake: Callable[[], None]) -> None:
        """Queue the item's start; call `wake` when it has a slot. Call `forget` when the item leaves earlier."""
        assert self.running_instances is not None
        assert isinstance(command, _STARTS)
        if item not in self._waiting:
            counted = self._counted(value)
            item.wait_in(self)
            self._waiting[item] = counted
            self._queues.setdefault(counted, {})[item] = (command.instance_id, wake)
            if counted is not None:
                counted.queue()
        self.running_instances.request_recount()

    def retry_early(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Call `wake` when an item that waits for a token may try again before its time: the limits have changed."""
        if item in self._spread:
            self._spread[item] = self._spread[item][0], wake

    def blocks(self, item: InFlightDelivery) -> bool:
        """Return False: `check` makes the item wait again."""
        return False

    def forget(self, item: InFlightDelivery) -> None:
        """Remove an item that is gone."""
        if item in self._waiting:
            self._dequeue(item)
        rate, _ = self._spread.pop(item, _NO_RATE)
        if rate is not None:
            rate.give_back()
        item.leave_queue()

    @property
    def reason(self) -> str | None:
        """Reason why commands wait; None when none waits."""
        return "; ".join(self._reasons()) or None

    def _reasons(self) -> Iterator[str]:
        waiting = plural(len(self._waiting), "start waits", "starts wait")
        if self._waiting and self.running_instances is not None:
            if not self.running_instances.known:
                yield f"{waiting} until the running orchestrations are counted"
            elif self.running is None or len(self.running_instances) < self.running:
                yield f"{waiting} for others of their value ({self.each_running} may run)"
            else:
                running = len(self.running_instances)
                yield f"{running} of {self.running} orchestrations run, {waiting}"
        if self._spread:
            yield f"{plural(len(self._spread), 'command waits', 'commands wait')} for the rate"

    def _wait(self, item: InFlightDelivery, rate: TokenBucket, delay: float) -> Throttled:
        self._spread[item] = rate, None
        item.wait_in(self)
        return Throttled(self, delay)

    def _reserve(self, item: InFlightDelivery, instance_id: str, value: str) -> bool:
        """Reserve a slot for a start; False when the start has to wait. A running instance needs no slot."""
        if self.running_instances is None or instance_id in self.running_instances:
            return True
        counted = self._counted(value)
        if counted in self._queues or not self._has_slot(counted):
            return False
        self._take_slot(item, instance_id, counted)
        return True

    def _counted(self, value: str) -> RunningValue | None:
        """Count of a value's starts; None where values are not counted separately."""
        if self.each_running is None:
            return None
        assert self.running_instances is not None
        assert self.running_instances.values is not None
        return self.running_instances.values.of(value, time.monotonic())

    def _has_slot(self, counted: RunningValue | None) -> bool:
        assert self.running_instances is not None
        if self.running is None and self.each_running is None:
            return True
        if not self.running_instances.known or (
            self.running is not None and len(self.running_instances) >= self.running
        ):
            return False
        return counted is None or self.each_running is None or counted.running < self.each_running

    def _take_slot(self, item: InFlightDelivery, instance_id: str, counted: RunningValue | None) -> None:
        assert self.running_instances is not None
        item.take_slot(partial(self.running_instances.release, instance_id))
        self.running_instances.reserve(instance_id, counted)

    def _dequeue(self, item: InFlightDelivery) -> tuple[str, Callable[[], None]]:
        """Remove an item from its queue."""
        counted = self._waiting.pop(item)
        queue = self._queues[counted]
        taken = queue.pop(item)
        if not queue:
            del self._queues[counted]
        if counted is not None:
            counted.dequeue()
        item.leave_queue()
        return taken

    def _admit_next(self) -> None:
        """Admit starts while there are free slots, one of each value in turn."""
        assert self.running_instances is not None
        granted = True
        while granted:
            granted = False
            for counted, queue in list(self._queues.items()):
                item, (instance_id, _) = next(iter(queue.items()))
                runs = instance_id in self.running_instances
                if not runs and not self._has_slot(counted):
                    continue
                granted = True
                _, wake = self._dequeue(item)
                if counted in self._queues:
                    self._queues[counted] = self._queues.pop(counted)  # go to the end of the turn
                if not runs:
                    self._take_slot(item, instance_id, counted)
                wake()
        if self._waiting:
            self.running_instances.request_recount()


@dataclass(frozen=True, slots=True)
class TemporaryRouteLimit:
    """Limits of a route for a time, instead of those of the configuration.

    until: seconds since the Unix epoch.
    """

    config: RouteLimitsConfig
    until: float


@dataclass(slots=True)
class Admission:
    """Limits of routes by route name, and the running instances that they count.

    configs: settings of these limits.
    listening: engines that report runs to the running instances.
    """

    limits: Mapping[str, RouteLimit]
    running_instances: tuple[RunningInstances, ...]
    configs: Mapping[str, RouteLimitsConfig] = field(default_factory=dict)
    listening: set[str] = field(default_factory=set)

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """Tasks that never end by themselves."""
        return [each.task for each in self.running_instances if each.task is not None]

    def take_over(self, other: Admission) -> Sequence[RunningInstances]:
        """Use the limits of another configuration. Return the running instances that nothing counts any more."""
        left = [each for each in self.running_instances if each not in other.running_instances]
        self.limits, self.running_instances, self.configs = other.limits, other.running_instances, other.configs
        return left

    def start(self) -> None:
        """Start counting what is not counted yet."""
        for each in self.running_instances:
            if each.task is None:
                each.start()

    async def stop(self) -> None:
        for each in self.running_instances:
            await each.stop()
