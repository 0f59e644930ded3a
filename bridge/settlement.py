"""Which error leads to which end of a delivery. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bridge.commands import (
    Command,
    OnExisting,
    OnFinished,
    OnMissing,
    ParkFor,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
)
from bridge.errors import (
    AlreadyTaken,
    BridgeError,
    BrokerUnavailable,
    ClockSkew,
    EngineOutage,
    EngineRejected,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
    InstanceParked,
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
    PARKED = "parked"
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
    """Try the same delivery again after `delay` seconds; its ordering key waits.

    failed: False when it only waits for others before it, which may take as long as it takes.
    """

    delay: float
    reason: str
    failed: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The delivery can never succeed. `reason` is a stable word, `detail` a sentence for a person."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Release:
    """The right to settle is gone (lock lost, partition revoked): forget it, redelivery is coming."""

    reason: str


class Wait(StrEnum):
    """What a parked message waits for."""

    INSTANCE = "instance"
    """To be started: the command waits, for it alone."""
    TIME = "time"
    """To pass: the message waits, and with it the later ones of its ordering key."""
    PERSON = "person"
    """To release it, likewise."""


@dataclass(frozen=True, slots=True)
class Park:
    """Keep it on an engine, durably, and complete the delivery.

    seconds: the longest wait (INSTANCE), or the wait (TIME); None: without end. reason, detail: as of a dead letter.
    """

    wait: Wait
    seconds: float | None
    reason: str
    detail: str


Settlement = Complete | Hold | Retry | DeadLetter | Release | Park


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off in seconds: `initial` times `multiplier` per attempt, up to `max_delay`; `in_memory` bounds the whole.

    `bug_attempts` bounds how often a delivery is tried whose failure is not a BridgeError. `max_hold` is how long the
    broker lets one message be held for retries; what has to wait longer cannot stay in memory.
    """

    initial: float = 0.2
    multiplier: float = 2.0
    max_delay: float = 10.0
    in_memory: float = 30.0
    bug_attempts: int = 3
    max_hold: float = math.inf

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1)."""
        return float(min(self.max_delay, self.initial * self.multiplier ** min(attempt - 1, 64)))


def decide(
    error: BaseException, command: Command | None, attempt: int, elapsed: float, policy: RetryPolicy
) -> Settlement:
    """The settlement that `error` leads to.

    error: what executing `command` raised (command is None when decoding or routing failed).
    attempt: how often this delivery was tried, from 1; with InstanceParked, how often it met that. elapsed: seconds
    since its first failure.
    """
    if isinstance(error, MessageError | EngineRejected):
        return DeadLetter(reason_of(error), detail_of(error))
    if isinstance(error, EngineOutage | BrokerUnavailable | RegistryUnavailable | ClockSkew):
        return Hold(error.reason, detail_of(error))
    if isinstance(error, LockLost | PartitionRevoked):
        return Release(error.reason)
    if isinstance(error, AlreadyTaken):
        return Complete(Outcome.DUPLICATE)
    if isinstance(error, InstanceAlreadyExists) and isinstance(command, ScheduleOrchestration):
        if command.on_existing is OnExisting.DEAD_LETTER:
            return DeadLetter(error.reason, detail_of(error))
        return Complete(Outcome.IGNORED)
    if isinstance(error, InstanceFinished) and not isinstance(command, SignalEntity | None):
        if command.on_finished is OnFinished.IGNORE:
            return Complete(Outcome.IGNORED)
        return DeadLetter(error.reason, detail_of(error))
    # Of commands that need their instance to be there
    on_missing = (
        None if isinstance(command, ScheduleOrchestration | StartOrRaise | SignalEntity | None) else command.on_missing
    )
    if isinstance(error, InstanceNotFound | InstanceParked) and isinstance(on_missing, ParkFor):
        return Park(Wait.INSTANCE, on_missing.ttl, error.reason, detail_of(error))
    if isinstance(error, InstanceParked):
        return Retry(policy.delay(attempt), error.reason, failed=False)
    if isinstance(error, InstanceNotFound):
        if on_missing is OnMissing.IGNORE:
            return Complete(Outcome.IGNORED)
        if on_missing is OnMissing.DEAD_LETTER:
            return DeadLetter(error.reason, detail_of(error))
    return _again(error, attempt, elapsed, policy)


def outside(
    settlement: Settlement, *, keeps: bool, quarantine: bool, held: float, max_hold: float, skip: bool = False
) -> Settlement:
    """What a source that may keep messages outside their broker makes of a settlement.

    keeps: whether it can keep this one.
    quarantine: a message that would be dead-lettered, and has an ordering key, waits for a person, and its key with it.
    held: seconds since the delivery failed first. max_hold: seconds for which its broker lets it be held for retries; a
    longer wait is parked. skip: the message cannot be parsed, and the source completes such messages as ignored.
    """
    if skip and isinstance(settlement, DeadLetter):
        return Complete(Outcome.IGNORED)
    if keeps and quarantine and isinstance(settlement, DeadLetter):
        return Park(Wait.PERSON, None, settlement.reason, settlement.detail)
    if isinstance(settlement, Retry) and settlement.failed and held + settlement.delay > max_hold:
        if not keeps:
            return DeadLetter(settlement.reason, "it was retried for as long as its broker lets it be held")
        return Park(Wait.TIME, settlement.delay, settlement.reason, f"tried again after {settlement.delay:.0f} s")
    return settlement


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
