"""What an error of azure-servicebus means for the bridge: the only place where its errors are translated."""

from __future__ import annotations

import ssl
from enum import Enum

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.servicebus import exceptions

from bridge.errors import BridgeError, BrokerError, BrokerUnavailable, LockLost, PublishFailed


class Meaning(Enum):
    """AWAY: may pass, go on trying. DENIED: a person has to act, go on trying meanwhile. REFUSED: this message will
    never be taken. LOST: the lock has passed. QUIET: nothing was there in time. BUG: we used the client wrongly.
    """

    AWAY = 1
    DENIED = 2
    REFUSED = 3
    LOST = 4
    QUIET = 5
    BUG = 6


_MEANINGS: dict[type[BaseException], Meaning] = {
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


def meaning(kind: type[BaseException]) -> Meaning | None:
    """What errors of exactly this class mean; None for a class that is not known."""
    return _MEANINGS.get(kind)


def translate(error: BaseException, what: str, *, publishing: bool = False) -> BridgeError | None:
    """The bridge's error for a foreign one; None for a bug, which must stay visible as itself.

    what: what was tried, beginning with the broker's name. publishing: an error that only a person can mend fails the
    publish at once.
    """
    if isinstance(error, BridgeError):
        return error
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{what}: no answer in time")
    if isinstance(error, OSError):
        return BrokerUnavailable(f"{what}: {_explain(error)}")
    if _claim_status(error) is not None:
        # At an endpoint of its own the SDK calls it a broken connection
        text = f"{what}: {_explain(error)}"
        return PublishFailed(text) if publishing else Refused(text)
    if closed(error):
        return BrokerUnavailable(f"{what}: the link was closed meanwhile")
    for kind in type(error).__mro__:
        found = _MEANINGS.get(kind)
        if found is None:
            continue
        text = f"{what}: {_explain(error)}"
        match found:
            case Meaning.AWAY | Meaning.QUIET:
                return BrokerUnavailable(text)
            case Meaning.DENIED:
                return PublishFailed(text) if publishing else Refused(text)
            case Meaning.REFUSED:
                return PublishFailed(text)
            case Meaning.LOST:
                return LockLost(text)
            case Meaning.BUG:
                return None
    return None


_NOT_FOUND = 404
_NO_ENTITY = "there is no such queue, topic or subscription in the namespace; create it, or correct its name"


def refused(error: BaseException) -> bool:
    """Whether the service answered a request and would not do it, over a connection that is sound."""
    return type(error) in (exceptions.ServiceBusError, exceptions.MessageSizeExceededError)


def busy(error: BaseException) -> bool:
    """Whether the service asks us to come again later, over a connection that is sound."""
    return isinstance(error, exceptions.ServiceBusServerBusyError)


class Refused(BrokerUnavailable):
    """The service answered, and said no: credentials, rights or the entity itself have to be mended."""


_CLOSED = (
    "closed",
    "shutdown",
    "shut down",
    "not initialized",
    "invalid link",
    "not open",
    "not running",
    "management operation error",
    "already open or opening",
    "no matching pending transfer",
    "did not receive reciprocal protocol header",
)
"""Words of the ValueErrors and RuntimeErrors that the SDK raises at links and handlers that went meanwhile."""


def closed(error: BaseException) -> bool:
    """Whether the SDK only says so that a link or handler went meanwhile, which others may have closed."""
    if isinstance(error, AttributeError):
        return str(error).startswith("'NoneType' object has no attribute")
    return isinstance(error, ValueError | RuntimeError) and any(word in str(error).lower() for word in _CLOSED)


def _claim_status(error: BaseException) -> int | None:
    """With what status the service refused to take our token; None for every other error."""
    cause = getattr(error, "inner_exception", None)
    status = getattr(cause, "status_code", None)
    return status if type(cause).__name__ == "TokenAuthFailure" and isinstance(status, int) else None


def _explain(error: BaseException) -> str:
    text = str(error)
    if _claim_status(error) == _NOT_FOUND:
        # So the service says it, before it looks at rights
        return _NO_ENTITY
    if _claim_status(error) is not None or isinstance(error, exceptions.ServiceBusAuthenticationError):
        return "the service refused the credentials; check the key or signature, or the identity and its role"
    if isinstance(error, exceptions.ServiceBusAuthorizationError):
        return (
            "the claim is missing; give this identity the role Azure Service Bus Data Receiver to read "
            "or Data Sender to publish, or this policy Listen or Send"
        )
    if isinstance(error, exceptions.MessagingEntityNotFoundError):
        return _NO_ENTITY
    if isinstance(error, exceptions.MessagingEntityDisabledError):
        return "the entity is disabled; enable it"
    if isinstance(error, exceptions.ServiceBusQuotaExceededError):
        return "the entity is full, or has too many connections"
    if isinstance(error, exceptions.MessageSizeExceededError):
        return "the message is larger than the entity takes"
    if isinstance(error, ClientAuthenticationError):
        return f"no token was given: {_short(text)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted ({error.verify_message}); "
            "set `tls.ca` to the authority that signed it, or check the host name"
        )
    if "not-allowed" in text and "session" in text.lower():
        return (
            f"the entity and the source disagree about sessions; write or leave out `sessions: true` ({_short(text)})"
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"the server's certificate is not trusted; set `tls.ca` to the authority that signed it ({_short(text)})"
    return f"{type(error).__name__}: {_short(text)}" if text else type(error).__name__


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


def broker_error(error: BridgeError) -> BrokerError:
    """The same error as one of a broker, which every other would be a bug."""
    return error if isinstance(error, BrokerError) else BrokerUnavailable(str(error))
