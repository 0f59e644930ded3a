"""Runner of deliveries: executes their steps, and decides how each attempt ends."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import structlog

from bridge.config.model.sources import DEAD_LETTER_TOPIC
from bridge.core.commands import Command, Decision, RoutedCommand
from bridge.core.errors import (
    AlreadyTaken,
    BridgeError,
    EarlierMessagesWait,
    EngineOutage,
    InstanceAlreadyExists,
    InstanceFinished,
    frameless,
)
from bridge.core.message import Envelope
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import Complete, Hold, Keep, Retry, Settlement, WriteDeadLetter, decide, decide_for_source
from bridge.core.states import Outcome
from bridge.core.stored_message import StoredMessage
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes
from bridge.pipeline.ledger import Ledger
from bridge.pipeline.limits.action_budget import BudgetShare
from bridge.pipeline.limits.route_limits import RouteLimit, Throttled
from bridge.pipeline.moving import MovingStep
from bridge.pipeline.rule_set import RuleSet, payload_of
from bridge.pipeline.settings import SLICE, Routes, SourceSettings
from bridge.pipeline.stage import Stage
from bridge.pipeline.tracing import SourceTracing

log = structlog.get_logger("bridge.execution")

_TURN = 32
"""Steps of one item before it yields to others: an engine in this process may execute a step without suspending."""

_COMPLETE = {outcome: Complete(outcome) for outcome in Outcome}


class DeliveryRunner:
    """Runner of the deliveries of one source. Every failure becomes a settlement, decided here alone."""

    def __init__(
        self,
        settings: SourceSettings,
        broker: str,
        lanes: Lanes,
        ledger: Ledger,
        limits: Mapping[str, RouteLimit],
        stage: Stage | None,
        budgets: Mapping[str, BudgetShare],
        tracing: SourceTracing | None = None,
    ) -> None:
        """Create a runner.

        broker: name of the source's broker.
        limits: limits of the routes that have some, by route name.
        budgets: shares of routes in the budgets of their engines, by route name.
        tracing: None where traces are off.
        """
        self._tracing = tracing
        self._settings = settings
        self._broker = broker
        self._lanes = lanes
        self._ledger = ledger
        self._limits = limits
        self._budgets = budgets
        self._stage = stage

    async def run(self, lane: Lane, item: InFlightDelivery) -> tuple[Settlement | Throttled, RoutedCommand | None]:
        """Run the head of a lane from the step where an earlier attempt stopped.

        Return its settlement, and the step that failed or has to wait.
        """
        stage = self._stage
        if stage is not None and (settlement := stage.blocking_settlement(lane, item)) is not None:
            return settlement, None
        ended, step = await self._execute(item)
        if isinstance(ended, Retry | WriteDeadLetter):
            return self._ended(lane, item, ended), step
        return ended, step

    def stored(self, item: InFlightDelivery) -> StoredMessage:
        """Message of a delivery for storage outside its broker."""
        executed = tuple(dict.fromkeys(item.executed))
        if item.stored is not None:
            return item.stored.with_executed(executed)
        delivery, settings = item.delivery, self._settings
        return StoredMessage(
            delivery.message,
            delivery.position,
            self._broker,
            (settings.subscribe.dead_letter or DEAD_LETTER_TOPIC).replace("{topic}", delivery.position.topic),
            settings.name,
            item.envelope.message_id if item.envelope else None,
            item.rules.version,
            executed,
            settings.trusted_replay,
        )

    def _ended(self, lane: Lane, item: InFlightDelivery, settlement: Retry | WriteDeadLetter) -> Settlement:
        """Settlement of a failed attempt by the settings of its source."""
        if isinstance(settlement, Retry) and settlement.failed and self._lanes.is_crowded(lane):
            detail = f"{settlement.reason}, and {lane.backlog} messages of the same key wait behind it"
            settlement = WriteDeadLetter(settlement.reason, detail)
        stage, settings = self._stage, self._settings
        unreadable = item.delivery.message.unreadable
        skip = unreadable is not None and settings.subscribe.unreadable.of(unreadable) == "skip"
        ended = decide_for_source(
            settlement,
            keeps=stage is not None and stage.fits(item),
            quarantine=stage is not None and stage.quarantines and lane.key is not None,
            elapsed=0.0 if item.failed_at is None else time.monotonic() - item.failed_at,
            # A stored message has no lock to lose
            max_hold=math.inf if item.stored is not None else item.rules.retry.max_hold,
            skip=skip,
        )
        if unreadable is not None and skip and isinstance(ended, Complete):
            log.error(
                f"source {settings.name} skipped message {item.delivery.position}, which cannot be parsed",
                action="skip",
                source=settings.name,
                position=str(item.delivery.position),
                detail=unreadable.detail,
            )
        return ended

    async def _execute(self, item: InFlightDelivery) -> tuple[Settlement | Throttled, RoutedCommand | None]:
        step: RoutedCommand | None = None
        try:
            if item.error is not None:
                raise item.error
            envelope = item.envelope
            assert envelope is not None
            trace = item.trace
            if trace is None and self._tracing is not None:
                trace = self._tracing.begin(envelope, replay=item.stored is not None and item.stored.replay is not None)
                item.traced(trace)
            decision = item.decision
            if decision is None:
                routes = item.rules.routes
                decision = await self._route(routes, envelope) if routes.portioned else routes.route(envelope)
                if item.rules.follow is not None and (other := await item.rules.follow(decision)) is not None:
                    envelope, decision = await self._reroute(item, envelope, other)
                item.route_by(decision)
            steps = decision.steps
            first = item.next_step
            while first and steps[first - 1].route == steps[item.next_step - 1].route:
                first -= 1
            for position in range(item.next_step, len(steps)):
                step = steps[position]
                if step.route != steps[first].route:
                    first = position
                if step.route in item.executed:
                    item.pass_step(position, ends_route=False)
                    continue
                if trace is None:
                    origin = MessageOrigin.of(envelope, step.route, position - first)
                else:
                    origin = trace.origin(envelope, step.route, position - first)
                settlement = await self._step(item, step, origin)
                if settlement is not None:
                    return settlement, step
                following = position + 1
                item.pass_step(position, ends_route=following == len(steps) or steps[following].route != step.route)
                if following % _TURN == 0:
                    await asyncio.sleep(0)
        except Exception as error:
            return self._judge(error, item, None), step
        return _COMPLETE[item.outcome], None

    async def _reroute(self, item: InFlightDelivery, envelope: Envelope, rules: RuleSet) -> tuple[Envelope, Decision]:
        """Bind a delivery to another rule set; decode it again, if this decodes otherwise, and route it."""
        if rules.decode is not item.rules.decode:
            message = await payload_of(rules, item.delivery.message)
            envelope = rules.decode(message, item.delivery.position)
            item.decoded(envelope, None)
        item.bind(rules)
        return envelope, await self._route(rules.routes, envelope)

    async def _route(self, routes: Routes, envelope: Envelope) -> Decision:
        """Route a message, and yield to the event loop when that takes long."""
        routing = routes.routing(envelope)
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
        self, item: InFlightDelivery, step: RoutedCommand, origin: MessageOrigin
    ) -> Settlement | Throttled | None:
        """Execute one step; None when the step is done."""
        rules = item.rules
        engine = rules.engines[step.engine]
        for name in (step.engine, *step.others):
            # While one of them is away, the place of the instance is not known
            if (outage := rules.engines[name].breaker.error) is not None:
                return _of_engine(decide(outage, step.command, item.attempt, 0.0, rules.retry), name)
        limit = self._limits.get(step.route)
        if limit is not None and (throttled := limit.check(item, step.command, step.value)) is not None:
            return throttled
        budget = self._budgets.get(step.route)
        if budget is not None and (throttled := budget.check(item, step.command)) is not None:
            return throttled
        moving = MovingStep(step, rules.engines) if step.others else None
        try:
            if moving is not None:
                await moving.execute(origin)
            else:
                engine.breaker.begin()
                try:
                    await engine.execute(step.command, origin)
                finally:
                    engine.breaker.end()
        except Exception as error:
            if budget is not None:
                budget.refund()
            if isinstance(error, InstanceAlreadyExists | AlreadyTaken | InstanceFinished):
                item.free_slot()
            settlement = self._failed(error, item, step, moving)
            if isinstance(settlement, Keep):
                assert settlement.seconds is not None
                try:
                    if moving is not None:
                        await moving.store_early(origin, self.stored(item), settlement.seconds)
                    else:
                        assert engine.store_early is not None
                        await engine.store_early(step.command, origin, self.stored(item), settlement.seconds)
                except Exception as failure:
                    return self._failed(failure, item, step, moving)
                item.count_without_effect(early=True)
            elif not isinstance(settlement, Complete):
                return settlement
            else:
                item.count_without_effect(duplicate=settlement.outcome is Outcome.DUPLICATE)
        else:
            item.count_effect()
            self._ledger.execute(step.route, type(step.command).__name__)
        engine.breaker.succeed()
        return None

    def _failed(
        self, error: Exception, item: InFlightDelivery, step: RoutedCommand, moving: MovingStep | None
    ) -> Settlement:
        engine = step.engine if moving is None else moving.engine
        if isinstance(error, EngineOutage):
            item.rules.engines[engine].breaker.trip(error)
        return _of_engine(self._judge(error, item, step.command), engine)

    def _judge(self, error: Exception, item: InFlightDelivery, command: Command | None) -> Settlement:
        elapsed = 0.0 if item.failed_at is None else time.monotonic() - item.failed_at
        if not isinstance(error, BridgeError):
            self._ledger.bug()
            position = str(item.delivery.position)
            log.error(
                f"message {position} failed with an unexpected exception",
                action="bug",
                position=position,
                exc_info=error,
            )
        # An error in a cycle with its own traceback, as the item's is, would live until the garbage collector runs
        frameless(error)
        item.fail_with(error)
        attempt = item.waited + 1 if isinstance(error, EarlierMessagesWait) else item.attempt
        return decide(error, command, attempt, elapsed, item.rules.retry)


def _of_engine(settlement: Settlement, engine: str) -> Settlement:
    """Settlement with the engine whose outage holds the delivery."""
    return replace(settlement, engine=engine) if isinstance(settlement, Hold) else settlement
