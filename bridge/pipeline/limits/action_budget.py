"""Limit of the actions that an engine may bill in a minute: it makes starts wait, in turn over sources and routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bridge.core.commands import Command, ScheduleOrchestration, StartOrRaise
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.limits.route_limits import Throttled

_STARTS = (ScheduleOrchestration, StartOrRaise)

_KEPT = 1.0
"""Seconds of unused actions that are kept for later."""
_DEBT = 60.0
"""Seconds of actions that other commands may be ahead: a flood of events delays starts by no more."""
_LEAST = 0.005
"""Shortest time in seconds between two admissions, each of which admits all that are due."""


class ActionBudget:
    """Actions of one engine, over all sources of this process. Not thread-safe: one event loop.

    A start is admitted while actions are left, and may overdraw them. All other commands count and never wait.
    """

    def __init__(self, engine: str, per_minute: int) -> None:
        self.engine = engine
        self.per_minute = per_minute
        self.delayed = 0
        """Number of starts that had to wait."""
        self._rate = per_minute / 60
        self._left = self._rate * _KEPT
        self._at = time.monotonic()
        self._queues: dict[BudgetShare, dict[InFlightDelivery, Callable[[], None]]] = {}
        """Waiting starts; the first queue is the next in turn. No queue is empty."""
        self._admitted: dict[InFlightDelivery, int] = {}
        """Starts that have paid and not run yet, with their actions."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Number of starts that wait."""
        return sum(map(len, self._queues.values()))

    def waits(self, share: BudgetShare) -> int:
        """Number of starts of one share that wait."""
        return len(self._queues.get(share, ()))

    def has_queued(self, share: BudgetShare, item: InFlightDelivery) -> bool:
        """True while the item waits."""
        return item in self._queues.get(share, ())

    def spend(self, actions: int) -> None:
        """Count a command that does not wait."""
        self._refill()
        self._left = max(self._left - actions, -self._rate * _DEBT)

    def give_back(self, actions: int) -> None:
        """Return the actions of a command that the engine did not accept."""
        self._left = min(self._left + actions, self._rate * _KEPT)
        if self._left > 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._set_timer()

    def admit(self, share: BudgetShare, item: InFlightDelivery, actions: int) -> bool:
        """Pay for a start, unless it was admitted before; False when it has to wait."""
        if self._admitted.pop(item, None) is not None:
            return True
        if self._queues:
            return False
        self._refill()
        if self._left <= 0:
            return False
        self._left -= actions
        return True

    def queue(self, share: BudgetShare, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Make a start wait; call `wake` when it is admitted."""
        queue = self._queues.setdefault(share, {})
        if item not in queue:
            self.delayed += 1
        queue[item] = wake
        self._set_timer()

    def forget(self, share: BudgetShare, item: InFlightDelivery) -> None:
        """Remove a start that is gone."""
        paid = self._admitted.pop(item, None)
        if paid is not None:
            self.give_back(paid)
        queue = self._queues.get(share)
        if queue is not None and queue.pop(item, None) is not None and not queue:
            del self._queues[share]

    def _refill(self) -> None:
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * self._rate, self._rate * _KEPT)
        self._at = now

    def _set_timer(self) -> None:
        if self._timer is None and self._queues:
            self._refill()
            due = max(_LEAST, -self._left / self._rate)
            self._timer = asyncio.get_running_loop().call_later(due, self._admit_next)

    def _admit_next(self) -> None:
        """Admit starts while actions are left, one of each share in turn."""
        self._timer = None
        self._refill()
        while self._left > 0 and self._queues:
            share, queue = next(iter(self._queues.items()))
            item, wake = next(iter(queue.items()))
            del queue[item], self._queues[share]
            if queue:
                self._queues[share] = queue  # go to the end of the turn
            self._left -= share.actions
            self._admitted[item] = share.actions
            wake()
        self._set_timer()


class BudgetShare:
    """Share of one route of one source in the budget of its engine.

    actions: actions of one command of the route, with those of the workflow that it starts.
    """

    unloads = True

    def __init__(self, budget: ActionBudget, actions: int) -> None:
        self.actions = max(1, actions)
        self._budget = budget

    def check(self, item: InFlightDelivery, command: Command) -> Throttled | None:
        """Count the command; None when it may run now."""
        if not isinstance(command, _STARTS):
            self._budget.spend(self.actions)
            return None
        if self._budget.admit(self, item, self.actions):
            item.leave_queue()
            return None
        return Throttled(self, None)

    def retry_early(self, item: InFlightDelivery, wake: Callable[[], None]) -> None:
        """Do nothing: no item waits here for a time."""

    def refund(self) -> None:
        """Return the actions of a command that the engine did not accept."""
        self._budget.give_back(self.actions)

    def queue(self, item: InFlightDelivery, command: Command, value: str, wake: Callable[[], None]) -> None:
        """Queue the item's start; call `wake` when it may run. Call `forget` when the item leaves earlier."""
        item.wait_in(self)
        self._budget.queue(self, item, wake)

    def blocks(self, item: InFlightDelivery) -> bool:
        """True while the item's start waits."""
        return self._budget.has_queued(self, item)

    def forget(self, item: InFlightDelivery) -> None:
        """Remove an item that is gone."""
        self._budget.forget(self, item)
        item.leave_queue()

    @property
    def reason(self) -> str | None:
        """Reason why starts wait; None when none waits."""
        waiting, budget = self._budget.waits(self), self._budget
        if not waiting:
            return None
        return f"{waiting} starts wait for max_actions_per_minute ({budget.per_minute}) of engine {budget.engine}"
