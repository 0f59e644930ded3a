"""Decision table from errors to settlements. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.commands import (
    Command,
    OnExisting,
    OnFinished,
    OnMissing,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    WaitFor,
)
from bridge.core.errors import (
    AlreadyTaken,
    BridgeError,
    BrokerUnavailable,
    ClaimStoreUnavailable,
    ClockSkew,
    EarlierMessagesWait,
    EngineError,
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
from bridge.core.states import Outcome

DETAIL_LIMIT = 1024
"""Longest cause text, in bytes of UTF-8. It never contains payload."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Complete the delivery."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold the delivery during an outage, and continue when the outage ends.

    engine: engine that does not answer; None for an outage of a broker or a registry.
    """

    reason: str
    detail: str
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Try the same delivery again after `delay` seconds; its ordering key waits.

    failed: False when the delivery only waits for earlier ones. Such a wait has no time limit.
    """

    delay: float
    reason: str
    failed: bool = True


@dataclass(frozen=True, slots=True)
class WriteDeadLetter:
    """Write a dead letter of a delivery that can never succeed.

    reason: a stable word.
    detail: a sentence for a person.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Release:
    """Forget a delivery that can no longer be settled (lock lost, partition revoked). The broker redelivers it."""

    reason: str


class Wait(StrEnum):
    """Event that ends the wait of a message."""

    INSTANCE = "instance"
    """Start of the instance. Only the command waits."""
    TIME = "time"
    """Passing of time. The message and later ones of its ordering key wait."""
    PERSON = "person"
    """Release by a person. The message and later ones of its ordering key wait."""
    KEY = "key"
    """End of the quarantine of an earlier message of its ordering key."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep the message durably on an engine, and complete the delivery.

    seconds: longest wait (INSTANCE), or the wait itself (TIME); None: no limit.
    reason, detail: as of a dead letter.
    """

    wait: Wait
    seconds: float | None
    reason: str
    detail: str


Settlement = Complete | Hold | Retry | WriteDeadLetter | Release | Keep


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Back-off in seconds: `initial` times `multiplier` per attempt, up to `max_delay`.

    in_memory: limit of the whole, in seconds.
    bug_attempts: most attempts of a delivery that fails with another error than a BridgeError.
    max_hold: seconds for which the broker lets a message be held for retries. A longer wait cannot stay in memory.
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
    """Settlement of a delivery whose command raised `error`.

    command: the failed command; None when decoding or routing failed.
    attempt: attempts of this delivery, from 1; with EarlierMessagesWait, the number of times it met that error.
    elapsed: seconds since the first failure of the delivery.
    """
    if isinstance(error, MessageError | EngineRejected):
        return WriteDeadLetter(reason_of(error), detail_of(error))
    if isinstance(error, EngineOutage | BrokerUnavailable | RegistryUnavailable | ClaimStoreUnavailable | ClockSkew):
        return Hold(error.reason, detail_of(error))
    if isinstance(error, LockLost | PartitionRevoked):
        return Release(error.reason)
    if isinstance(error, AlreadyTaken):
        return Complete(Outcome.DUPLICATE)
    if isinstance(error, InstanceAlreadyExists) and isinstance(command, ScheduleOrchestration):
        if command.on_existing is OnExisting.DEAD_LETTER:
            return WriteDeadLetter(error.reason, detail_of(error))
        return Complete(Outcome.IGNORED)
    if isinstance(error, InstanceFinished) and not isinstance(command, SignalEntity | None):
        if command.on_finished is OnFinished.IGNORE:
            return Complete(Outcome.IGNORED)
        return WriteDeadLetter(error.reason, detail_of(error))
    # Only commands that need an existing instance
    on_missing = (
        None if isinstance(command, ScheduleOrchestration | StartOrRaise | SignalEntity | None) else command.on_missing
    )
    if isinstance(error, InstanceNotFound | EarlierMessagesWait) and isinstance(on_missing, WaitFor):
        return Keep(Wait.INSTANCE, on_missing.ttl, error.reason, detail_of(error))
    if isinstance(error, EarlierMessagesWait):
        return Retry(policy.delay(attempt), error.reason, failed=False)
    if isinstance(error, InstanceNotFound):
        if on_missing is OnMissing.IGNORE:
            return Complete(Outcome.IGNORED)
        if on_missing is OnMissing.DEAD_LETTER:
            return WriteDeadLetter(error.reason, detail_of(error))
    return _retry(error, attempt, elapsed, policy)


def decide_for_source(
    settlement: Settlement, *, keeps: bool, quarantine: bool, elapsed: float, max_hold: float, skip: bool = False
) -> Settlement:
    """Settlement by the settings of a source, which may keep messages outside their broker.

    keeps: this message can be kept.
    quarantine: a message with an ordering key waits for a person, with its key, instead of being dead-lettered.
    elapsed: seconds since the first failure of the delivery.
    max_hold: seconds for which the broker lets a message be held for retries. A longer wait continues on the engine.
    skip: the message cannot be parsed, and the source completes such messages as ignored.
    """
    if skip and isinstance(settlement, WriteDeadLetter):
        return Complete(Outcome.IGNORED)
    if keeps and quarantine and isinstance(settlement, WriteDeadLetter):
        return Keep(Wait.PERSON, None, settlement.reason, settlement.detail)
    if isinstance(settlement, Retry) and settlement.failed and elapsed + settlement.delay > max_hold:
        if not keeps:
            return WriteDeadLetter(
                settlement.reason, "the retries exceeded the longest time that the broker lets a message be held"
            )
        return Keep(Wait.TIME, settlement.delay, settlement.reason, f"tried again after {settlement.delay:.0f} s")
    return settlement


def decide_unstored(error: EngineError, engine: str | None, policy: RetryPolicy) -> Settlement:
    """Settlement of a delivery that its engine did not store.

    The delivery has failed already: it is tried again until the engine accepts or refuses the message.
    engine: engine for whose outages the source is held; None when the source has no commands for this engine.
    """
    if isinstance(error, EngineOutage) and engine is not None:
        return Hold(error.reason, detail_of(error), engine)
    if isinstance(error, EngineRejected):
        return WriteDeadLetter(error.reason, detail_of(error))
    return Retry(policy.max_delay, error.reason)


def _retry(error: BaseException, attempt: int, elapsed: float, policy: RetryPolicy) -> Settlement:
    delay = policy.delay(attempt)
    known = isinstance(error, BridgeError)
    spent = elapsed + delay > policy.in_memory if known else attempt >= policy.bug_attempts
    if spent:
        return WriteDeadLetter(reason_of(error), detail_of(error))
    return Retry(delay, reason_of(error))


def reason_of(error: BaseException) -> str:
    """Stable reason word of an error."""
    return error.reason if isinstance(error, BridgeError) else "bug"


def detail_of(error: BaseException) -> str:
    """Error text for a person. Only the class of a bug is named: texts of other libraries may quote payload."""
    text = str(error) if isinstance(error, BridgeError) else f"unexpected {type(error).__name__}, see the log"
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= DETAIL_LIMIT:
        return text
    return encoded[: DETAIL_LIMIT - len("…".encode())].decode("utf-8", "ignore") + "…"
