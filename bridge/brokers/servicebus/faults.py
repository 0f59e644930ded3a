"""Translation of azure-servicebus errors into errors of the bridge. No other module translates them."""

from __future__ import annotations

import ssl
from enum import Enum
from typing import Literal

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.servicebus import exceptions

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.entity import EntityPath
from bridge.core.errors import (
    BridgeError,
    BrokerError,
    BrokerUnavailable,
    LockLost,
    PublishFailed,
    SettlementRefused,
    TargetRefused,
    wire_name,
)


class Meaning(Enum):
    """Meaning of an SDK error for the caller.

    AWAY: the fault may pass; retry. DENIED: a person has to act; retry meanwhile. REFUSED: the service will never
    accept this message. LOST: the lock has expired. QUIET: nothing arrived in time. BUG: the bridge used the client
    wrongly.
    """

    AWAY = 1
    DENIED = 2
    REFUSED = 3
    LOST = 4
    QUIET = 5
    BUG = 6


Doing = Literal["reading", "settling", "opening", "publishing"]
"""Operation that met the error.

`opening` is the opening of a sender. While settling or publishing, conditions such as `amqp:not-allowed` refuse one
message.
"""


MEANING_OF: dict[type[BaseException], Meaning] = {
    exceptions.ServiceBusError: Meaning.AWAY,
    exceptions.ServiceBusConnectionError: Meaning.AWAY,
    exceptions.ServiceBusCommunicationError: Meaning.AWAY,
    exceptions.ServiceBusServerBusyError: Meaning.AWAY,
    exceptions.ServiceBusQuotaExceededError: Meaning.AWAY,
    exceptions.SessionCannotBeLockedError: Meaning.AWAY,
    exceptions.AutoLockRenewFailed: Meaning.AWAY,
    exceptions.AutoLockRenewTimeout: Meaning.AWAY,
    exceptions.ServiceBusAuthenticationError: Meaning.DENIED,
    exceptions.ServiceBusAuthorizationError: Meaning.DENIED,
    exceptions.MessagingEntityNotFoundError: Meaning.DENIED,
    exceptions.MessagingEntityDisabledError: Meaning.DENIED,
    exceptions.MessagingEntityAlreadyExistsError: Meaning.DENIED,
    exceptions.MessageSizeExceededError: Meaning.REFUSED,
    exceptions.MessageLockLostError: Meaning.LOST,
    exceptions.SessionLockLostError: Meaning.LOST,
    exceptions.MessageNotFoundError: Meaning.LOST,
    exceptions.OperationTimeoutError: Meaning.QUIET,
    exceptions.MessageAlreadySettled: Meaning.BUG,
    ClientAuthenticationError: Meaning.DENIED,
    AzureError: Meaning.AWAY,
}


MEANING_OF_CONDITION: dict[str, Meaning] = {
    "amqp:internal-error": Meaning.AWAY,
    "amqp:not-found": Meaning.DENIED,
    "amqp:unauthorized-access": Meaning.DENIED,
    "amqp:decode-error": Meaning.REFUSED,
    "amqp:resource-limit-exceeded": Meaning.AWAY,
    "amqp:not-allowed": Meaning.REFUSED,
    "amqp:invalid-field": Meaning.REFUSED,
    "amqp:not-implemented": Meaning.REFUSED,
    "amqp:resource-locked": Meaning.AWAY,
    "amqp:precondition-failed": Meaning.REFUSED,
    "amqp:resource-deleted": Meaning.DENIED,
    "amqp:illegal-state": Meaning.AWAY,
    "amqp:frame-size-too-small": Meaning.REFUSED,
    "amqp:connection:forced": Meaning.AWAY,
    "amqp:connection:framing-error": Meaning.AWAY,
    "amqp:connection:redirect": Meaning.AWAY,
    "amqp:session:window-violation": Meaning.AWAY,
    "amqp:session:errant-link": Meaning.AWAY,
    "amqp:session:handle-in-use": Meaning.AWAY,
    "amqp:session:unattached-handle": Meaning.AWAY,
    "amqp:link:detach-forced": Meaning.AWAY,
    "amqp:link:transfer-limit-exceeded": Meaning.AWAY,
    "amqp:link:message-size-exceeded": Meaning.REFUSED,
    "amqp:link:redirect": Meaning.AWAY,
    "amqp:link:stolen": Meaning.AWAY,
    "amqp:client-error": Meaning.AWAY,
    "amqp:unknown-error": Meaning.AWAY,
    "amqp:vendor-error": Meaning.AWAY,
    "amqp:socket-error": Meaning.AWAY,
    "com.microsoft:session-lock-lost": Meaning.LOST,
    "com.microsoft:message-lock-lost": Meaning.LOST,
    "com.microsoft:message-not-found": Meaning.LOST,
    "com.microsoft:timeout": Meaning.QUIET,
    "com.microsoft:auth-failed": Meaning.DENIED,
    "com.microsoft:session-cannot-be-locked": Meaning.AWAY,
    "com.microsoft:server-busy": Meaning.AWAY,
    "com.microsoft:container-close": Meaning.AWAY,
    "com.microsoft:operation-cancelled": Meaning.AWAY,
    "com.microsoft:argument-error": Meaning.REFUSED,
    "com.microsoft:argument-out-of-range": Meaning.REFUSED,
    "com.microsoft:entity-disabled": Meaning.DENIED,
    "com.microsoft:entity-already-exists": Meaning.DENIED,
    "com.microsoft:precondition-failed": Meaning.REFUSED,
}
"""Meanings of the service's AMQP conditions in an answer to one message. Many conditions have no SDK class."""

_OF_THE_SERVICE = frozenset(
    {
        "com.microsoft:server-busy",
        "com.microsoft:timeout",
        "amqp:resource-limit-exceeded",
        "com.microsoft:container-close",
    }
)
"""Conditions that say nothing about the message that met them."""

_OF_THE_CLIENT = frozenset({"amqp:client-error", "amqp:unknown-error", "amqp:vendor-error", "amqp:socket-error"})
"""Conditions that the SDK itself creates when there was no answer."""

_OF_CONNECTIONS = ("amqp:connection:", "amqp:session:", "amqp:link:")


def refuses_message(error: BaseException) -> bool:
    """Return whether the service permanently refuses the requested operation for this message."""
    return MEANING_OF_CONDITION.get(sdk_internals.condition(error) or "") is Meaning.REFUSED


def is_answer(error: BaseException) -> bool:
    """Return whether the error is the service's answer to one message, not a failure of the connection or the
    entity.
    """
    found = sdk_internals.condition(error)
    if found is None or found in _OF_THE_SERVICE | _OF_THE_CLIENT:
        return False
    return not found.startswith(_OF_CONNECTIONS)


def may_be_the_message(error: BaseException) -> bool:
    """Return whether a temporary error can be caused by the one message that met it, however often the error
    repeats.
    """
    return sdk_internals.condition(error) not in _OF_THE_SERVICE


def translate(
    error: BaseException, what: str, *, doing: Doing = "reading", path: str = "", namespace: str = ""
) -> BridgeError | None:
    """Translate an SDK error into an error of the bridge; None for a bug, which must stay visible as itself.

    what: attempted operation, beginning with the broker's name.
    path, namespace: of the entity, for the text. An error that only a person can fix fails a publish at once.
    """
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{what}: the service did not answer in time")
    if isinstance(error, OSError):
        return BrokerUnavailable(f"{what}: {_explain(error, path, namespace, doing)}")
    text = f"{what}: {_explain(error, path, namespace, doing)}"
    if _status(error) is not None:
        # The service refused the claim. At an endpoint of its own the SDK reports a broken connection instead
        return TargetRefused(text) if doing in ("opening", "publishing") else Refused(text)
    if sdk_internals.closed(error):
        return BrokerUnavailable(f"{what}: the link was closed meanwhile")
    found = _meaning(error, doing)
    match found:
        case Meaning.AWAY | Meaning.QUIET:
            return BrokerUnavailable(text)
        case Meaning.DENIED:
            return TargetRefused(text) if doing in ("opening", "publishing") else Refused(text)
        case Meaning.REFUSED:
            return SettlementRefused(text) if doing == "settling" else PublishFailed(text)
        case Meaning.LOST:
            return LockLost(text)
        case _:
            return None


def _meaning(error: BaseException, doing: Doing) -> Meaning | None:
    if doing in ("settling", "publishing") and refuses_message(error):
        return Meaning.REFUSED
    found = MEANING_OF_CONDITION.get(sdk_internals.condition(error) or "")
    if found is Meaning.DENIED and type(error) is exceptions.ServiceBusError:  # the SDK has no class for it
        return found
    return next((MEANING_OF[kind] for kind in type(error).__mro__ if kind in MEANING_OF), None)


def refused(error: BaseException) -> bool:
    """Return whether the service answered a request and refused it over an intact connection."""
    return type(error) in (exceptions.ServiceBusError, exceptions.MessageSizeExceededError)


def busy(error: BaseException) -> bool:
    """Return whether the service asks for a later retry over an intact connection."""
    return isinstance(error, exceptions.ServiceBusServerBusyError)


@wire_name("bridge.brokers.servicebus.faults.Refused")
class Refused(BrokerUnavailable):
    """The service refused the request: credentials, rights or the entity itself need a fix."""


def _explain(error: BaseException, path: str, namespace: str, doing: Doing) -> str:
    text = str(error)
    deleted = sdk_internals.condition(error) == "amqp:resource-deleted"
    if isinstance(error, exceptions.MessagingEntityNotFoundError) or deleted or _status(error) == NOT_FOUND:
        return _not_found(path, namespace, doing)
    if _status(error) is not None or isinstance(error, exceptions.ServiceBusAuthenticationError):
        return "the service refused the credentials; check the key or signature, or the identity and its role"
    if isinstance(error, exceptions.ServiceBusAuthorizationError):
        return (
            "a right is missing; give this identity the role Azure Service Bus Data Receiver to read "
            "or Data Sender to publish, or this policy Listen or Send"
        )
    if isinstance(error, exceptions.MessagingEntityDisabledError):
        return f"{path or 'the entity'} is disabled in {namespace or 'the namespace'}: enable it"
    if isinstance(error, exceptions.ServiceBusQuotaExceededError):
        return "the entity is full, or has too many connections"
    if isinstance(error, exceptions.MessageSizeExceededError):
        return "the message exceeds the limit of the entity"
    if isinstance(error, ClientAuthenticationError):
        return f"the credential returned no token: {_short(text)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); "
            "set `tls.ca` to the authority that signed it, or check the host name"
        )
    if "not-allowed" in text and "session" in text.lower():
        return f"the entity and the source disagree about sessions; add or remove `sessions: true` ({_short(text)})"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the server's certificate is not trusted; set `tls.ca` to the authority that signed it ({_short(text)})"
    return f"{type(error).__name__}: {_short(text)}" if text else type(error).__name__


NOT_FOUND = 404


def _status(error: BaseException) -> int | None:
    """Status with which the service refused a claim. An entity that does not exist also refuses the claim (404)."""
    cause = getattr(error, "inner_exception", None)
    found = getattr(cause, "status_code", None)
    return found if type(cause).__name__ == "TokenAuthFailure" and isinstance(found, int) else None


def _not_found(path: str, namespace: str, doing: Doing) -> str:
    where = namespace or "the namespace"
    entity = EntityPath.parse(path)
    if doing in ("opening", "publishing"):
        return f"no queue or topic {path} in {where}: create it, or correct its name"
    if entity.subscription is not None:
        return (
            f"no subscription {entity.subscription} of a topic {entity.name} in {where}: "
            "create it, or correct `topic` and `subscription`"
        )
    return f"no queue {entity.name} in {where}: create it, or correct `queue`"


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


def broker_error(error: BridgeError) -> BrokerError:
    """Return the error as a broker error; any other class would be a bug and becomes BrokerUnavailable."""
    return error if isinstance(error, BrokerError) else BrokerUnavailable(str(error))
