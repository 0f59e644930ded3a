"""Live view of a daemon's settled deliveries: one tap for each reader of the control channel's stream `tap`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bridge.app.composition import require
from bridge.app.messages.jsonlines import line_of
from bridge.app.serve.views.status import daemon_id
from bridge.config.model.types import Model
from bridge.config.source import Loaded
from bridge.core.commands import Decision
from bridge.core.errors import ConfigError, ExpressionError, InvalidCommand, Problem
from bridge.core.states import Outcome
from bridge.ops.access import Caller
from bridge.ops.api import LAST, TooManyStreams
from bridge.ops.audit import Denied
from bridge.pipeline.decisions import DecisionListeners, SettledDelivery
from bridge.routing import command_names
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.scope import RouteScope
from bridge.system.clock import time_of

TAP = "tap"
"""Path of the stream below /api/v1/."""
MOST_TAPS = 16
"""Most readers of one daemon at a time."""
MOST_BYTES = 1024 * 1024
"""Bytes of events that wait for one reader. Further messages are counted, not shown."""
LARGEST = 64 * 1024
"""Bytes of the largest body that is shown."""
MOST_STEPS = 20
"""Most steps of a decision that are shown."""
TICK_SECONDS = 1.0
"""Seconds between two counts. A reader recognizes a frozen daemon by their absence."""
SHARE = 0.05
"""Share of the time that conditions (`where`) may take. Messages beyond it are counted as unchecked."""


class TapOptions(Model):
    """Messages that a reader wants to see.

    sources, routes, outcomes: names; empty: all.
    where: CEL condition over the variables of rules.
    rate: most messages per second.
    payload: show the messages themselves.
    """

    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    where: str | None = None
    rate: Annotated[float, Field(gt=0, le=1000)] = 20.0
    payload: bool = False

    @classmethod
    def parse(cls, text: str) -> TapOptions:
        """Options of a request. Raises: InvalidCommand, without their values."""
        try:
            return cls(**json.loads(text))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise InvalidCommand(f"tap: `{'.'.join(map(str, first['loc']))[:100]}`: {first['msg']}") from None
        except (ValueError, TypeError, RecursionError):
            raise InvalidCommand("tap: the options are not a JSON object") from None


def condition(text: str, variables: Mapping[str, Any]) -> Expression:
    """Compiled condition over the variables of rules. Raises: InvalidCommand."""
    compiler = Compiler(lambda path, what: Problem("--where", 0, 0, "", what), variables)
    found = compiler.condition(text, (), "--where")
    if found is None:
        problems = ConfigError(compiler.problems).problems
        raise InvalidCommand(f"`where`: {'; '.join(problem.what for problem in problems)}")
    return found


class Taps:
    """Taps of one daemon."""

    def __init__(self, current: Callable[[], Loaded], decisions: DecisionListeners) -> None:
        """Create the taps. current: returns the configuration in use."""
        self._current = current
        self._decisions = decisions
        self._open = 0

    def _require_names(self, options: TapOptions) -> None:
        if options.sources or options.routes:
            config = self._current().config
            for source in options.sources:
                require("source", source, config.sources)
            for route in options.routes:
                require("route", route, [each.name for each in config.routes])

    def _in_use(self) -> tuple[str, Mapping[str, Any]]:
        loaded = self._current()
        return loaded.version, loaded.config.vars

    async def events(self, given: Mapping[str, Any], caller: Caller) -> AsyncGenerator[bytes, None]:
        """Events for one reader: counts each second, and the messages between them.

        Raises: InvalidCommand, Denied; LookupError for a source or route that the configuration in use lacks.
        """
        if unknown := given.keys() - {"options", LAST}:
            raise InvalidCommand(f"tap: there is no parameter `{min(unknown)[:100]}` (known: options)")
        options = TapOptions.parse(str(given.get("options", "{}")))
        self._require_names(options)
        if not caller.payloads and (options.payload or options.where is not None):
            raise Denied("tap: a payload, and a condition on it, need the right to read payloads")
        if self._open >= MOST_TAPS:
            raise TooManyStreams(f"tap: {MOST_TAPS} readers watch this daemon already; end one of them")
        tap = Tap(options, self._in_use, daemon_id(os.getpid()))
        self._open += 1
        remove = self._decisions.add(tap.offer)
        try:
            yield tap.counts()
            while True:
                async for event in tap.waiting(TICK_SECONDS):
                    yield event
                yield tap.counts()
        finally:
            remove()
            self._open -= 1


class Tap:
    """Selects, samples and encodes messages for one reader. Its `take` is a listener of decisions."""

    def __init__(self, options: TapOptions, in_use: Callable[[], tuple[str, Mapping[str, Any]]], daemon: str) -> None:
        """Create the tap. in_use: returns version and variables of the configuration, which a reload changes."""
        self._options = options
        self._daemon = daemon
        self._in_use = in_use
        self._sources, self._routes = frozenset(options.sources), frozenset(options.routes)
        self._outcomes = frozenset(options.outcomes)
        self._where = None if options.where is None else condition(options.where, in_use()[1])
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._tokens = self._burst = max(1.0, options.rate)
        self._filled = time.monotonic()
        self._allowance = SHARE
        """Seconds of processor time that conditions may still take."""
        self.settled = self.matched = self.shown = self.over_rate = self.unread = self.unchecked = self.undecided = 0

    def offer(self, settled: SettledDelivery) -> None:
        """Queue the event of a delivery that is selected and within the rate."""
        self.settled += 1
        if self._sources and settled.source not in self._sources:
            return
        if self._outcomes and settled.outcome not in self._outcomes:
            return
        if self._routes and settled.route not in self._routes and self._routes.isdisjoint(settled.routes):
            return
        now = time.monotonic()
        since, self._filled = now - self._filled, now
        self._tokens = min(self._burst, self._tokens + since * self._options.rate)
        self._allowance = min(SHARE, self._allowance + since * SHARE)
        if self._where is not None and not self._holds(self._where, settled):
            return
        self.matched += 1
        if self._tokens < 1.0:
            self.over_rate += 1
            return
        if self._bytes >= MOST_BYTES:
            self.unread += 1
            return
        self._tokens -= 1.0
        self.shown += 1
        delivery = _delivery(settled, payload=self._options.payload)
        event = b'%s, "delivery": %s}' % (self.counts()[:-1], delivery)
        self._events.append(event)
        self._bytes += len(event)
        self._arrived.set()

    def _holds(self, where: Expression, settled: SettledDelivery) -> bool:
        # Processor time: on a busy machine, waiting for a processor would use up the allowance
        began = time.thread_time()
        envelope = settled.envelope
        if envelope is None:
            self.undecided += 1
            return False
        if self._allowance <= 0.0:
            self.unchecked += 1
            return False
        try:
            return where.condition(RouteScope(envelope, envelope.data, self._in_use()[1]))
        except ExpressionError:
            self.undecided += 1
            return False
        finally:
            self._allowance -= time.thread_time() - began

    async def waiting(self, seconds: float) -> AsyncGenerator[bytes, None]:
        """Queued events, and those that arrive within a time."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            while self._events:
                event = self._events.popleft()
                self._bytes -= len(event)
                yield event
                if asyncio.get_running_loop().time() >= end:
                    return
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def counts(self) -> bytes:
        """Event with the counts since the tap was opened. Each event of a delivery has them too.

        settled: all deliveries. matched: those selected, shown or not. shown: events. over_rate: matched beyond the
        rate. unread: matched while the reader took nothing. unchecked: the condition had no time. undecided: the
        condition failed, or had no decoded message.
        """
        names = ("settled", "matched", "shown", "over_rate", "unread", "unchecked", "undecided")
        counts = {name: getattr(self, name) for name in names}
        return json.dumps({"daemon": self._daemon, "config": self._in_use()[0], "counts": counts}).encode()


def _delivery(settled: SettledDelivery, *, payload: bool) -> bytes:
    """Settled delivery as JSON. payload: with the message, in the form of `bridge topic read`."""
    message, position, envelope = settled.delivery.message, settled.delivery.position, settled.envelope
    document: dict[str, Any] = {
        "at": time_of(time.time()),
        "source": settled.source,
        "topic": position.topic,
        "partition": position.partition,
        "offset": position.offset,
        "message_id": None if envelope is None else envelope.message_id,
        "outcome": settled.outcome,
        "routes": settled.routes,
        "steps": [] if settled.decision is None else _steps(settled.decision),
        "reason": settled.reason,
        "detail": settled.detail,
        "failed_route": settled.route,
        "expression": settled.expression or None,
        "seconds": round(settled.duration, 6),
        "attempts": settled.attempts,
        "stored": settled.is_stored,
        "rules": settled.rules,
        "size": message.size,
    }
    text = json.dumps(document)
    if payload and message.size <= LARGEST:
        text = f'{text[:-1]}, "message": {line_of(position, message, ascii_only=True)}}}'
    return text.encode()


def _steps(decision: Decision) -> list[dict[str, Any]]:
    """First steps of a decision, in the form of `bridge route`, without payloads."""
    return [
        {"route": step.route, "engine": step.engine, "command": command_names(step.command)}
        for step in decision.steps[:MOST_STEPS]
    ]
