"""Delivery in the pipeline, and its state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from bridge.brokers.base import Delivery
from bridge.core.commands import Decision
from bridge.core.errors import BridgeError, MessageError
from bridge.core.message import Envelope
from bridge.core.origin import MessageTrace
from bridge.core.settlement import Complete, WriteDeadLetter
from bridge.core.states import Outcome
from bridge.core.stored_message import StoredMessage
from bridge.pipeline.rule_set import RuleSet, refers

ID_LIMIT = 512
"""Most characters of a message id that is kept without its message."""


class Limit(Protocol):
    """Limit in whose queue a delivery may wait."""

    @property
    def unloads(self) -> bool:
        """True when messages that wait here should not fill the memory of their source."""
        ...

    def blocks(self, item: InFlightDelivery) -> bool:
        """True while a delivery must not be processed, whatever made its lane ready."""
        ...

    def forget(self, item: InFlightDelivery) -> None:
        """Remove a delivery that is gone."""
        ...


class InFlightDelivery:
    """Delivery with its state in the pipeline. It belongs to exactly one lane.

    rules: rule set of all its attempts; set before it enters a lane.
    size: bytes counted against the source's limit.
    decoded_limit: bytes that the decoded message may have: more than `size` where its payload lies elsewhere.
    received_at: monotonic seconds.
    error: failure of decoding; envelope is None then.
    is_trimmed: the envelope has lost its data, extensions and headers to save memory.
    message_id: identity of the message; None before it is decoded, and for one of more than ID_LIMIT characters.
    stored: message as a stage keeps it outside its broker; None for a delivery of the broker.
    next_step: index of the first step not yet executed.
    executed: routes all of whose steps the engine has executed.
    duplicates, effects, early: steps counted so far.
    attempt: number of the current attempt, from 1.
    waited: waits behind other messages, which are no failures.
    failed_at: monotonic time of the first failure since the last wait for others.
    last_failure: reason and detail of the last error, without payload; None before the first.
    pending, pending_route: decided settlement that the broker has not accepted yet, and the route that failed.
    due_at: monotonic time of the token that the next step has taken from its route's rate.
    value_due_at: monotonic time of the token from the rate of its value.
    waits_for: limit in whose queue it is.
    trace: its span; None where traces are off, and before the first attempt.
    """

    __slots__ = (
        "_slot",
        "attempt",
        "decision",
        "decoded_limit",
        "delivery",
        "due_at",
        "duplicates",
        "early",
        "effects",
        "envelope",
        "error",
        "error_class",
        "executed",
        "failed_at",
        "failed_expression",
        "failed_route",
        "is_trimmed",
        "last_failure",
        "message_id",
        "next_step",
        "pending",
        "pending_route",
        "received_at",
        "rules",
        "size",
        "stored",
        "trace",
        "value_due_at",
        "waited",
        "waits_for",
    )

    def __init__(
        self,
        delivery: Delivery,
        envelope: Envelope | None,
        error: Exception | None,
        received_at: float,
        executed: Iterable[str] = (),
        stored: StoredMessage | None = None,
        attempt: int = 1,
        failed_at: float | None = None,
        size: int | None = None,
    ) -> None:
        self.delivery = delivery
        self.rules: RuleSet
        self.message_id: str | None = None
        self.decoded(envelope, error)
        self.size = delivery.message.size if size is None else size
        self.decoded_limit = self.size
        self.received_at = received_at
        self.stored = stored
        self.decision: Decision | None = None
        self.next_step = 0
        self.executed: list[str] = list(executed)
        self.effects = 0
        self.duplicates = 0
        self.early = 0
        self.attempt = attempt
        self.waited = 0
        self.failed_at = failed_at
        self.error_class = ""
        self.last_failure: tuple[str, str] | None = None
        self.failed_route: str | None = None
        self.failed_expression = ""
        self.pending: Complete | WriteDeadLetter | None = None
        self.pending_route: str | None = None
        self.due_at: float | None = None
        self.value_due_at: float | None = None
        self.waits_for: Limit | None = None
        self.trace: MessageTrace | None = None
        self._slot: Callable[[], None] | None = None

    def bind(self, rules: RuleSet) -> None:
        """Set the rule set of all attempts."""
        self.rules = rules
        self.decoded_limit = self.size
        if rules.claims is not None and refers(rules, self.delivery.message):
            self.decoded_limit += rules.claims.size

    # -- decoded form

    def decoded(self, envelope: Envelope | None, error: Exception | None) -> None:
        """Set the decoded message, or the failure of decoding."""
        self.envelope, self.error = envelope, error
        self.is_trimmed = False
        if envelope is not None and len(envelope.message_id) <= ID_LIMIT:
            self.message_id = envelope.message_id

    def traced(self, trace: MessageTrace) -> None:
        """Set the span, which all attempts share."""
        self.trace = trace

    def log_fields(self) -> Mapping[str, str]:
        """Fields of a log line about the delivery."""
        found = {}
        if self.envelope is not None:
            found["message_id"] = self.envelope.message_id
        if self.decision is not None and self.decision.steps:
            steps = self.decision.steps
            found["route"] = steps[min(self.next_step, len(steps) - 1)].route
        if self.trace is not None:
            found["trace_id"], found["span_id"] = self.trace.trace_id, self.trace.span_id
        return found

    def drop_decoded(self) -> None:
        """Drop the decoded message and all that was made of it, except `message_id`.

        A decided settlement keeps the error, too.
        """
        self.decision = None
        if self.pending is None:
            self.envelope = self.error = None
        elif self.envelope is not None:
            self.envelope = replace(self.envelope, data=None, extensions={}, headers={})
            self.is_trimmed = True

    @property
    def outcome(self) -> Outcome:
        """Outcome after the last step."""
        if self.early:
            return Outcome.EARLY
        if self.effects:
            return Outcome.EXECUTED
        return Outcome.DUPLICATE if self.duplicates else Outcome.IGNORED

    # -- steps

    def route_by(self, decision: Decision) -> None:
        """Set the steps."""
        self.decision = decision

    def pass_step(self, position: int, *, ends_route: bool) -> None:
        """Go to the step after `position`. ends_route: the route of the passed step has no further one."""
        self.next_step = position + 1
        if ends_route:
            assert self.decision is not None
            self.executed.append(self.decision.steps[position].route)

    def count_effect(self) -> None:
        """Count a step that had an effect; free what it held of its limits."""
        self.effects += 1
        self.due_at = self.value_due_at = self._slot = None

    def count_without_effect(self, *, early: bool = False, duplicate: bool = False) -> None:
        """Count a step that ended without an effect; free what it held of its limits."""
        self.early += early
        self.duplicates += duplicate
        self.due_at = self.value_due_at = self._slot = None

    # -- attempts

    def fail(self) -> None:
        """Count a failed attempt."""
        self.attempt += 1
        if self.failed_at is None:
            self.failed_at = time.monotonic()

    def wait_for_others(self) -> None:
        """Count a wait behind other messages. Its time does not count against this message."""
        self.waited += 1
        self.failed_at = None

    def excuse(self) -> None:
        """Start the time of failures anew: the following time of an outage or a queue does not count."""
        self.failed_at = None

    def fail_with(self, error: Exception) -> None:
        """Remember the last error: class, reason, detail, route, expression. Foreign errors may quote a message."""
        self.error_class = type(error).__name__
        self.last_failure = (error.reason, str(error)) if isinstance(error, BridgeError) else ("bug", self.error_class)
        if isinstance(error, MessageError):
            self.failed_route, self.failed_expression = error.route, error.expression

    def settle_as(self, end: Complete | WriteDeadLetter, route: str | None) -> None:
        """Keep a decided settlement until the broker accepts it. route: the route that failed."""
        self.pending, self.pending_route = end, route

    # -- limits

    def wait_in(self, limit: Limit) -> None:
        """Note the limit in whose queue the delivery is."""
        self.waits_for = limit

    def leave_queue(self) -> None:
        """Note that the delivery is in no queue."""
        self.waits_for = None

    def take_token(self, due_at: float) -> float:
        """Keep a token of the route's rate; return its time."""
        self.due_at = due_at
        return due_at

    def take_value_token(self, due_at: float) -> float:
        """Keep a token of the value's rate; return its time."""
        self.value_due_at = due_at
        return due_at

    def drop_tokens(self) -> None:
        """Forget the tokens of rates that are gone."""
        self.due_at = self.value_due_at = None

    def take_slot(self, free: Callable[[], None]) -> None:
        """Keep a slot of the running orchestrations. free: callback that returns it."""
        self._slot = free

    def free_slot(self) -> None:
        """Return the slot: the start found nothing to start, or is abandoned."""
        if self._slot is not None:
            self._slot()
            self._slot = None
