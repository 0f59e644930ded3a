"""Which error leads to which end of a delivery. Pure: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bridge.commands import (
    Command,
    OnExisting,
    OnFinished,
    OnMissing,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.errors import (
    BridgeError,
    BrokerUnavailable,
    ClockSkew,
    EngineOutage,
    EngineRejected,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
    LockLost,
    MessageError,
    PartitionRevoked,
    RegistryUnavailable,
)

DETAIL_LIMIT = 1024
"""Longest cause text in bytes of UTF-8 (promised: cause text is at most 1 KB and never holds payload)."""


class Outcome(StrEnum):
    """How a settled delivery is counted: each has exactly one."""

    EXECUTED = "executed"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    DEAD_LETTERED = "dead_lettered"


@dataclass(frozen=True, slots=True)
class Complete:
    """The delivery is done."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Hold:
    """An outage: keep the delivery, stop intake, go on by itself when the outage ends."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same delivery again after `delay` seconds; its ordering key waits."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The delivery can never succeed. `reason` is a stable word, `detail` a sentence for a person."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Release:
    """The right to settle is gone (lock lost, partition revoked): forget it, redelivery is coming."""

    reason: str


Settlement = Complete | Hold | Retry | DeadLetter | Release


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off in seconds: `initial` times `multiplier` per attempt, up to `max_delay`; `in_memory` bounds the whole.

    `bug_attempts` bounds how often a delivery is tried whose failure is not a BridgeError.
    """

    initial: float = 0.2
    multiplier: float = 2.0
    max_delay: float = 10.0
    in_memory: float = 30.0
    bug_attempts: int = 3

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1)."""
        return float(min(self.max_delay, self.initial * self.multiplier ** min(attempt - 1, 64)))


def decide(
    error: BaseException, command: Command | None, attempt: int, elapsed: float, policy: RetryPolicy
) -> Settlement:
    """The settlement that `error` leads to.

    error: what executing `command` raised (command is None when decoding or routing failed).
    attempt: how often this delivery was tried, from 1. elapsed: seconds since its first failure.
    """
    if isinstance(error, MessageError | EngineRejected):
        return DeadLetter(reason_of(error), detail_of(error))
    if isinstance(error, EngineOutage | BrokerUnavailable | RegistryUnavailable | ClockSkew):
        return Hold(error.reason, detail_of(error))
    if isinstance(error, LockLost | PartitionRevoked):
        return Release(error.reason)
    if isinstance(error, InstanceAlreadyExists) and isinstance(command, ScheduleOrchestration):
        if command.on_existing is OnExisting.DEAD_LETTER:
            return DeadLetter(error.reason, detail_of(error))
        return Complete(Outcome.DUPLICATE)
    if isinstance(error, InstanceFinished) and not isinstance(command, ScheduleOrchestration | SignalEntity | None):
        if command.on_finished is OnFinished.IGNORE:
            return Complete(Outcome.IGNORED)
        return DeadLetter(error.reason, detail_of(error))
    if isinstance(error, InstanceNotFound) and not isinstance(
        command, ScheduleOrchestration | StartOrRaise | SignalEntity | None
    ):
        if command.on_missing is OnMissing.IGNORE:
            return Complete(Outcome.IGNORED)
        if command.on_missing is OnMissing.DEAD_LETTER:
            return DeadLetter(error.reason, detail_of(error))
    return _again(error, attempt, elapsed, policy)


def _again(error: BaseException, attempt: int, elapsed: float, policy: RetryPolicy) -> Settlement:
    delay = policy.delay(attempt)
    known = isinstance(error, BridgeError)
    spent = elapsed + delay > policy.in_memory if known else attempt >= policy.bug_attempts
    if spent:
        return DeadLetter(reason_of(error), detail_of(error))
    return Retry(delay, reason_of(error))


def reason_of(error: BaseException) -> str:
    """The stable word for an error."""
    return error.reason if isinstance(error, BridgeError) else "bug"


def detail_of(error: BaseException) -> str:
    """A sentence for a person. Foreign texts may quote payload, so of a bug only the class is told."""
    text = str(error) if isinstance(error, BridgeError) else f"unexpected {type(error).__name__}, see the log"
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= DETAIL_LIMIT:
        return text
    return encoded[: DETAIL_LIMIT - len("…".encode())].decode("utf-8", "ignore") + "…"
