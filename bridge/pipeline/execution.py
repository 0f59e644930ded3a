"""Execution of the steps of one item. Every failure becomes a settlement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from bridge.core.commands import Command, Decision, Step
from bridge.core.envelope import Envelope
from bridge.core.errors import (
    AlreadyTaken,
    BridgeError,
    EngineOutage,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceParked,
    frameless,
)
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import Complete, Outcome, Park, RetryPolicy, Settlement, decide
from bridge.parking.stored_message import StoredMessage
from bridge.pipeline.admission import RouteLimit, Throttled
from bridge.pipeline.breaker import Breaker
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.ledger import Ledger

log = structlog.get_logger("bridge.execution")

SLICE = 0.005
"""Longest seconds for which intake and workers keep the event loop when no await suspends them."""

_TURN = 32
"""Steps of one item before it yields to others: an engine in this process may execute a step without suspending."""

_EXECUTED, _DUPLICATE, _IGNORED = map(Complete, (Outcome.EXECUTED, Outcome.DUPLICATE, Outcome.IGNORED))

Execute = Callable[[Command, MessageOrigin], Awaitable[None]]
"""Callback that gives one command and its origin to an engine. Raises: EngineError."""


ParkCommand = Callable[[Command, MessageOrigin, StoredMessage, float], Awaitable[None]]
"""Callback that keeps a command durably on its engine, for at most the given seconds.

Raises: EngineError, InvalidCommand.
"""


class Routes(Protocol):
    """Protocol of a source's compiled rules. portioned: routing a message may take long."""

    portioned: bool

    def route(self, envelope: Envelope) -> Decision:
        """Route a message. Raises: MessageError."""
        ...

    def routing(self, envelope: Envelope) -> Generator[None, None, Decision]:
        """Route a message in portions of work, and yield between them. Raises: MessageError."""
        ...

    def ordering_key(self, envelope: Envelope) -> str | None:
        """Ordering key of a message. Raises: MessageError."""
        ...

    def value(self, envelope: Envelope) -> str:
        """Digest of the value of `limits.per` for a message; empty without one."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Engine as the pipeline uses it. park: None where no rule keeps early messages."""

    execute: Execute
    breaker: Breaker
    park: ParkCommand | None = None


class Execution:
    """Executes items of one source on the engines."""

    def __init__(
        self,
        routes: Routes,
        engines: Mapping[str, Target],
        policy: RetryPolicy,
        ledger: Ledger,
        letter: Callable[[InFlightDelivery], StoredMessage],
        limits: Mapping[str, RouteLimit] | None = None,
    ) -> None:
        """Create an execution. limits: limits of the routes that have some, by route name."""
        self._routes = routes
        self._engines = engines
        self._policy = policy
        self._ledger = ledger
        self._letter = letter
        self._limits = limits or {}

    async def run(self, item: InFlightDelivery, now: Callable[[], float]) -> tuple[Settlement | Throttled, Step | None]:
        """Run the item from the step where an earlier attempt stopped.

        Return its settlement, and the step that failed or has to wait.
        """
        step: Step | None = None
        try:
            if item.error is not None:
                raise item.error
            envelope = item.envelope
            assert envelope is not None
            if item.decision is None:
                routes = self._routes
                item.decision = await self._route(envelope) if routes.portioned else routes.route(envelope)
            steps = item.decision.steps
            first = item.next_step
            while first and steps[first - 1].route == steps[item.next_step - 1].route:
                first -= 1
            for position in range(item.next_step, len(steps)):
                step = steps[position]
                if step.route != steps[first].route:
                    first = position
                if step.route in item.executed:
                    item.next_step = position + 1
                    continue
                origin = MessageOrigin.of(envelope, step.route, position - first)
                settlement = await self._step(item, step, origin, now)
                if settlement is not None:
                    return settlement, step
                item.next_step = position + 1
                if item.next_step == len(steps) or steps[item.next_step].route != step.route:
                    item.executed.append(step.route)
                if item.next_step % _TURN == 0:
                    await asyncio.sleep(0)
        except Exception as error:
            return self._judge(error, item, None, now()), step
        if item.parked:
            return Complete(Outcome.EARLY), None
        if item.effects:
            return _EXECUTED, None
        return _DUPLICATE if item.duplicates else _IGNORED, None

    async def _route(self, envelope: Envelope) -> Decision:
        """Route a message, and yield to the event loop when that takes long."""
        routing = self._routes.routing(envelope)
        since = time.monotonic()
        try:
            while True:
                next(routing)
                if time.monotonic() - since > SLICE:
                    await asyncio.sleep(0)
                    since = time.monotonic()
        except StopIteration as end:
            decision: Decision = end.value
            return decision

    async def _step(
        self, item: InFlightDelivery, step: Step, origin: MessageOrigin, now: Callable[[], float]
    ) -> Settlement | Throttled | None:
        """Execute one step; None when the step is done."""
        engine = self._engines[step.engine]
        if engine.breaker.error is not None:
            return decide(engine.breaker.error, step.command, item.attempt, 0.0, self._policy)
        limit = self._limits.get(step.route)
        if limit is not None and (not_yet := limit.check(item, step.command, step.value)) is not None:
            return not_yet
        engine.breaker.begin()
        try:
            try:
                await engine.execute(step.command, origin)
            finally:
                engine.breaker.end()
        except Exception as error:
            if limit is not None and isinstance(error, InstanceAlreadyExists | AlreadyTaken | InstanceFinished):
                limit.not_started(item)
            settlement = self._failed(error, item, step, now())
            if isinstance(settlement, Park):
                assert engine.park is not None
                assert settlement.seconds is not None
                try:
                    await engine.park(step.command, origin, self._letter(item), settlement.seconds)
                except Exception as failure:
                    return self._failed(failure, item, step, now())
                item.parked += 1
            elif not isinstance(settlement, Complete):
                return settlement
            elif settlement.outcome is Outcome.DUPLICATE:
                item.duplicates += 1
        else:
            item.effects += 1
            self._ledger.commands[step.route, type(step.command).__name__] += 1
        item.due_at = item.value_due_at = item.slot = None
        engine.breaker.succeed()
        return None

    def _failed(self, error: Exception, item: InFlightDelivery, step: Step, now: float) -> Settlement:
        if isinstance(error, EngineOutage):
            self._engines[step.engine].breaker.trip(error)
        return self._judge(error, item, step.command, now)

    def _judge(self, error: Exception, item: InFlightDelivery, command: Command | None, now: float) -> Settlement:
        elapsed = 0.0 if item.failed_at is None else now - item.failed_at
        if not isinstance(error, BridgeError):
            self._ledger.bugs += 1
            log.error("unexpected failure", action="bug", position=str(item.delivery.position), exc_info=error)
        # An error in a cycle with its own traceback, as the item's is, would live until the garbage collector runs
        frameless(error)
        item.error_class = type(error).__name__
        attempt = item.waited + 1 if isinstance(error, InstanceParked) else item.attempt
        return decide(error, command, attempt, elapsed, self._policy)
