"""Errors that the bridge raises on purpose.

    BridgeError
      ConfigError                  the configuration is invalid; carries all problems
      MessageError                 the message will never succeed                    -> dead_letter
        UnreadableMessage          the broker's client library cannot parse the message
        DecodeError                the body is not what the codec expects
          TooManyValues            the body decodes to more values than allowed
          DecodedTooLarge          the body decodes to more bytes than allowed
        ClaimDenied                the payload's place is not allowed, or refuses it
        ClaimNotFound              there is no payload at the place of the reference
        ClaimTooLarge              the payload has too many bytes
        ClaimDamaged               the payload is not the one that the message means
        SchemaError                the payload breaks its JSON Schema
        ExpressionError            an expression failed at run time
        ExpressionCost             an expression may cost too much for this message
        CommandsTooLarge           the commands of one message hold too many bytes
        NoRoute                    no rule matched and the source says dead_letter
        InvalidCommand             a rule produced a command that no engine accepts
        UnexpectedReply            an answer to a request that was never sent
      ClaimStoreUnavailable        the claim-check store does not answer               -> hold
      RegistryUnavailable          no schema registry answers                          -> hold
      EngineError
        AlreadyTaken               the engine has executed this command before         -> duplicate
        InstanceAlreadyExists      another message started the instance                -> by on_existing
        InstanceNotFound                                                             -> by on_missing
        InstanceFinished                                                             -> by on_finished
        EarlierMessagesWait        earlier messages wait for this instance           -> wait behind them, or retry
        EngineRejected             the engine refused this request                   -> dead_letter
          UnreadEventsFull         the instance reads no events
          WaitingFull              too many messages wait on the engine
          LargePayloadRefused      the payload is larger than `payloads.max`
          LargePayloadLost         the file or blob of a payload is missing or damaged
        EngineUnavailable          the engine does not answer                        -> hold
          PayloadStoreUnavailable  the store of large payloads does not answer
        EngineTimeout              the outcome is unknown                            -> ask (start) or repeat
        EngineDenied               credentials refused                               -> hold
        EngineMisconfigured        missing task hub, unimplemented call              -> hold
      BrokerError
        BrokerUnavailable          reconnect with back-off, never settle
        PublishFailed              the activity fails; the engine's retry policy applies
          TargetRefused            the topic or queue accepts nothing: a person has to act
          PublishRefused           the receiver refuses this message for good; the activity fails without a retry
        LockLost                   do not settle: the message is redelivered
        PartitionRevoked           do not settle: another member owns the partition
        SettlementRefused          do not settle: the broker's delivery limit ends the redeliveries
        ClockSkew                  unready

Foreign errors (gRPC, SQLite, client libraries) are translated only where they enter. Any other exception than a
BridgeError is a bug: it is logged with its traceback, counted, tried a bounded number of times and then dead-lettered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

E = TypeVar("E", bound=type[BaseException])

WIRE_NAMES: dict[str, type[BaseException]] = {}
"""Exception classes by the name under which they are stored and sent."""


def wire_name(name: str) -> Callable[[E], E]:
    """Fix the name under which failures of an exception class are stored and sent: the class can then be renamed.

    name: module and class as in the first release. The SDK writes the whole name into the failures of histories. Dead
    letters have the last part in `bridge.error`.
    """
    module, _, last = name.rpartition(".")

    def named(kind: E) -> E:
        assert name not in WIRE_NAMES, name
        kind.__module__, kind.__qualname__, kind.__name__ = module, last, last
        WIRE_NAMES[name] = kind
        return kind

    return named


@wire_name("bridge.errors.BridgeError")
class BridgeError(Exception):
    """Root of the bridge's errors. `reason` is a stable snake_case word for dead letters, metrics and logs."""

    reason: ClassVar[str] = "bridge_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem of the configuration, with its position.

    `line` and `column` start at 1; 0 means unknown. `path` is dotted (`routes[2].when`). A `warning` prevents nothing.
    code: kind of problem in `bridge.core.problems.codes`; empty outside of configurations.
    offset: character of the value at which the problem is; None for the whole value.
    """

    file: str
    line: int
    column: int
    path: str
    what: str
    severity: Literal["error", "warning"] = "error"
    code: str = ""
    offset: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        what = self.what if self.severity == "error" else f"warning: {self.what}"
        return f"{' '.join(filter(None, (where, self.code, self.path)))}: {what}"


ConfigPath = tuple[str | int, ...]
"""Path of a value in the configuration, like `("routes", 2, "when")`."""

Locate = Callable[[ConfigPath, str], Problem]
"""Function that makes a Problem of a path in the configuration and a text."""


@wire_name("bridge.errors.ConfigError")
class ConfigError(BridgeError):
    """The configuration cannot be used. `problems` has all its problems."""

    reason = "config_error"

    def __init__(self, problems: list[Problem] | tuple[Problem, ...]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@wire_name("bridge.errors.MessageError")
class MessageError(BridgeError):
    """The message can never succeed.

    route: route whose rule failed; None outside of rules.
    expression: place of the expression that failed, like `route start-order, when`; empty for other errors.
    """

    reason = "message_error"
    route: str | None = None

    def __init__(self, text: str, expression: str = "") -> None:
        """Create the error. expression: place of the expression, which the text names too."""
        super().__init__(text)
        self.expression = expression

    def in_route(self, route: str) -> None:
        """Name the route whose rule failed."""
        self.route = route


@wire_name("bridge.errors.UnreadableMessage")
class UnreadableMessage(MessageError):
    """The broker's client library cannot parse the message: a damaged record batch, a header name that is not text."""

    reason = "unreadable"


@wire_name("bridge.errors.DecodeError")
class DecodeError(MessageError):
    """The body does not have the form that the codec expects."""

    reason = "decode_error"


@wire_name("bridge.errors.PayloadTooLarge")
class PayloadTooLarge(DecodeError):
    """The body has more bytes than `limits.max_payload` allows."""

    reason = "payload_too_large"


@wire_name("bridge.errors.PayloadTooDeep")
class PayloadTooDeep(DecodeError):
    """The body nests deeper than `limits.max_depth` allows."""

    reason = "payload_too_deep"


@wire_name("bridge.errors.TooManyValues")
class TooManyValues(DecodeError):
    """The body decodes to more values than `limits.max_values` allows."""

    reason = "too_many_values"


@wire_name("bridge.errors.DecodedTooLarge")
class DecodedTooLarge(DecodeError):
    """The body decodes to more bytes than `limits.max_decoded` allows."""

    reason = "decoded_too_large"


@wire_name("bridge.errors.ClaimDenied")
class ClaimDenied(MessageError):
    """The reference is at no allowed place, or the place refuses the payload."""

    reason = "claim_denied"


@wire_name("bridge.errors.ClaimNotFound")
class ClaimNotFound(MessageError):
    """The place of the reference has no payload."""

    reason = "claim_not_found"


@wire_name("bridge.errors.ClaimTooLarge")
class ClaimTooLarge(MessageError):
    """The payload has more bytes than `limits.max_payload` allows."""

    reason = "claim_too_large"


@wire_name("bridge.errors.ClaimDamaged")
class ClaimDamaged(MessageError):
    """The payload is not the one that the message means."""

    reason = "claim_damaged"


@wire_name("bridge.errors.SchemaError")
class SchemaError(MessageError):
    """The payload breaks its schema."""

    reason = "schema_error"


@wire_name("bridge.errors.SchemaCost")
class SchemaCost(SchemaError):
    """The payload has texts that may cost a pattern of its schema more than `limits.schema_cost` allows."""

    reason = "schema_cost"


@wire_name("bridge.errors.ExpressionError")
class ExpressionError(MessageError):
    """An expression failed for this message."""

    reason = "expression_error"


@wire_name("bridge.routing.expression._Placed")
class EarlierExpressionError(ExpressionError):
    """Failed expression in a history that an earlier version wrote. Nothing raises this class."""


@wire_name("bridge.errors.ExpressionCost")
class ExpressionCost(MessageError):
    """The expressions of a rule or a source may cost more for this message than its source allows."""

    reason = "expression_cost"


@wire_name("bridge.errors.CommandsTooLarge")
class CommandsTooLarge(MessageError):
    """The commands of a message hold more bytes than its source allows. None was executed."""

    reason = "commands_too_large"


@wire_name("bridge.errors.NoRoute")
class NoRoute(MessageError):
    """No rule matched the message."""

    reason = "no_route"


@wire_name("bridge.errors.InvalidCommand")
class InvalidCommand(MessageError):
    """A rule produced a command that no engine accepts."""

    reason = "invalid_command"


@wire_name("bridge.errors.TooManyCommands")
class TooManyCommands(InvalidCommand):
    """The list of a `for_each` has more items than `limits.max_commands` allows. No command was executed."""

    reason = "too_many_commands"


@wire_name("bridge.errors.UnexpectedReply")
class UnexpectedReply(MessageError):
    """The message answers no request: its correlation id lacks a valid signature of this bridge."""

    reason = "unexpected_reply"


@wire_name("bridge.errors.RegistryUnavailable")
class RegistryUnavailable(BridgeError):
    """A schema registry does not answer, or its answer is not one of a registry."""

    reason = "registry_unavailable"


@wire_name("bridge.errors.ClaimStoreUnavailable")
class ClaimStoreUnavailable(BridgeError):
    """The claim-check store does not answer."""

    reason = "claim_store_unavailable"


@wire_name("bridge.errors.EngineError")
class EngineError(BridgeError):
    """The engine did not execute a request."""

    reason = "engine_error"


@wire_name("bridge.errors.AlreadyTaken")
class AlreadyTaken(EngineError):
    """The engine has executed this command of this message before."""

    reason = "already_taken"


@wire_name("bridge.errors.InstanceAlreadyExists")
class InstanceAlreadyExists(EngineError):
    """The engine has an instance with this id, which another message started."""

    reason = "instance_already_exists"


@wire_name("bridge.errors.InstanceNotFound")
class InstanceNotFound(EngineError):
    """The engine has no instance with this id."""

    reason = "instance_not_found"


@wire_name("bridge.errors.InstanceFinished")
class InstanceFinished(EngineError):
    """The instance is completed, failed or terminated."""

    reason = "instance_finished"


@wire_name("bridge.errors.InstanceParked")
class EarlierMessagesWait(EngineError):
    """Earlier messages wait for this instance; this one must wait behind them."""

    reason = "instance_parked"


@wire_name("bridge.errors.EngineRejected")
class EngineRejected(EngineError):
    """The engine refused this request. Repeating it cannot help."""

    reason = "engine_rejected"


@wire_name("bridge.errors.UnreadEventsFull")
class UnreadEventsFull(EngineRejected):
    """The instance has the maximum number of unread events. This one is refused."""

    reason = "unread_events_full"


@wire_name("bridge.errors.WaitingFull")
class WaitingFull(EngineRejected):
    """The engine has the maximum of waiting messages. This one is refused."""

    reason = "waiting_full"


@wire_name("bridge.errors.LargePayloadRefused")
class LargePayloadRefused(EngineRejected):
    """The payload is larger than `payloads.max` of the engine allows."""


@wire_name("bridge.errors.LargePayloadLost")
class LargePayloadLost(EngineRejected):
    """The file or blob of a large payload is missing or damaged."""


@wire_name("bridge.errors.EngineOutage")
class EngineOutage(EngineError):
    """The engine cannot execute the command now. The message is not the cause."""

    reason = "engine_outage"


@wire_name("bridge.errors.EngineUnavailable")
class EngineUnavailable(EngineOutage):
    """The engine does not answer."""

    reason = "engine_unavailable"


@wire_name("bridge.errors.PayloadStoreUnavailable")
class PayloadStoreUnavailable(EngineUnavailable):
    """The store of large payloads cannot be read or written."""


@wire_name("bridge.errors.EngineTimeout")
class EngineTimeout(EngineOutage):
    """The engine did not answer in time. The effect of the request is unknown."""

    reason = "engine_timeout"


@wire_name("bridge.errors.EngineDenied")
class EngineDenied(EngineOutage):
    """The engine refused the bridge's credentials."""

    reason = "engine_denied"


@wire_name("bridge.errors.EngineMisconfigured")
class EngineMisconfigured(EngineOutage):
    """The task hub is missing, or the engine does not implement the call."""

    reason = "engine_misconfigured"


@wire_name("bridge.errors.BrokerError")
class BrokerError(BridgeError):
    """The broker did not execute a request."""

    reason = "broker_error"


@wire_name("bridge.errors.BrokerUnavailable")
class BrokerUnavailable(BrokerError):
    """The broker does not answer, or has no capacity."""

    reason = "broker_unavailable"


@wire_name("bridge.errors.PublishFailed")
class PublishFailed(BrokerError):
    """The broker refused or did not confirm a published message."""

    reason = "publish_failed"


@wire_name("bridge.errors.TargetRefused")
class TargetRefused(PublishFailed):
    """The topic or queue accepts no message at all: it does not exist, is disabled, or denies access."""


@wire_name("bridge.errors.PublishRefused")
class PublishRefused(PublishFailed):
    """The receiver refuses this message for good. No retry can help."""

    reason = "publish_refused"


@wire_name("bridge.errors.UnknownTarget")
class UnknownTarget(PublishFailed):
    """A workflow publishes to a target that the configuration does not have. No retry can help."""

    reason = "unknown_target"


WORKER_LOST = "WorkerLost"
"""Failure type of work that killed its worker processes."""

FINAL_FAILURES = frozenset(
    {
        WORKER_LOST,
        UnknownTarget.__name__,
        PublishRefused.__name__,
        "ActivityNotRegisteredError",
        "OrchestratorNotRegisteredError",
        "EntityNotRegisteredError",
    }
)
"""Failure types of activities and child orchestrations that the same code meets at every attempt."""


def is_final_failure(error_type: str) -> bool:
    """True when no retry can help after a failure of this type. error_type: plain or qualified."""
    return error_type.rpartition(".")[2] in FINAL_FAILURES


@wire_name("bridge.errors.LockLost")
class LockLost(BrokerError):
    """The right to settle this delivery has expired. The broker redelivers the message."""

    reason = "lock_lost"


@wire_name("bridge.errors.PartitionRevoked")
class PartitionRevoked(BrokerError):
    """The partition belongs to another consumer now."""

    reason = "partition_revoked"


@wire_name("bridge.errors.SettlementRefused")
class SettlementRefused(BrokerError):
    """The broker permanently refuses to settle this delivery. Its delivery limit ends the redeliveries."""

    reason = "settlement_refused"


@wire_name("bridge.errors.ClockSkew")
class ClockSkew(BrokerError):
    """The local clock and the broker's differ too much to trust locks."""

    reason = "clock_skew"


def frameless(error: BaseException) -> None:
    """Drop the tracebacks of an error and of its causes: their frames keep payloads alive."""
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            left += (each.__cause__, each.__context__)


def storable(error: Exception) -> Exception:
    """Return the error for later use. A BridgeError loses its frames; a bug keeps them for the log."""
    if isinstance(error, BridgeError):
        frameless(error)
    return error
