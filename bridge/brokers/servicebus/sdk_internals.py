"""Small uses of private parts of the SDK, each with a fallback.

The larger ones are in `transport` (assembly of transfers into messages, and credit), `decoding` and `attaching`. The
SDK's minor version is pinned, and tests/brokers/servicebus/test_sdk_internals.py fails when the SDK changes one of
these parts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._common.constants import MGMT_REQUEST_LOCK_TOKENS as TOKENS
from azure.servicebus._common.constants import REQUEST_RESPONSE_RENEWLOCK_OPERATION as RENEW
from azure.servicebus._common.mgmt_handlers import message_lock_renew_op
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusConnectionError, ServiceBusError

from bridge.brokers.servicebus.attaching import public_errors
from bridge.brokers.servicebus.transport import Transport

_log = logging.getLogger(__name__)


def set_read_timeout(part: Any, seconds: float) -> bool:
    """Set how long reads of an open receiver or sender last when nothing comes, in seconds; False when the SDK does not
    allow it.

    Without this setting a waiting receiver wakes as often as its `socket_timeout` says, which only costs CPU.
    """
    handler: Any = getattr(part, "_handler", None)
    if not hasattr(handler, "_socket_timeout"):
        return False
    handler._socket_timeout = seconds
    return True


def is_link_attached(receiver: ServiceBusReceiver) -> bool:
    """Return whether the receiver's link is attached; True when that is unknown."""
    handler: Any = getattr(receiver, "_handler", receiver)
    state: Any = getattr(getattr(handler, "_link", None), "state", None)
    return handler is not None and getattr(state, "name", "ATTACHED") == "ATTACHED"


async def release(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> bool:
    """Give a message back without raising its delivery count; False when it stays locked until its lock expires.

    The SDK does this only for buffered messages when a receiver closes. This message had already been received.
    """
    handler: Any = getattr(receiver, "_handler", None)
    try:
        await handler.settle_messages_async(message._delivery_id, message._delivery_tag, "released")
    except Exception as error:
        _log.debug("a message was not released: %s: %s", type(error).__name__, error)
        return False
    return True


async def renew(
    receiver: ServiceBusReceiver, messages: Sequence[ServiceBusReceivedMessage], limit: float
) -> list[float]:
    """Renew locks and return their new ends, in seconds since the epoch. limit: seconds. Raises: errors of the SDK.

    All locks are renewed in one request, as the protocol allows. The SDK's public method sends one request for each
    message, and a hundred at a time slow each other down. The service refuses the whole request when one of the locks
    is lost. The SDK's public method closes the receiver after a refusal; this function does not.
    """
    ask: Any = getattr(receiver, "_mgmt_request_response", None)
    if ask is None:
        return [(await receiver.renew_message_lock(message, timeout=limit)).timestamp() for message in messages]
    tokens = Transport.AMQP_ARRAY_VALUE([message.lock_token for message in messages])
    with public_errors():
        answer = await ask(RENEW, {TOKENS: tokens}, message_lock_renew_op, timeout=limit)
    ends = [end / 1000 for end in answer[b"expirations"]]
    for message, end in zip(messages, ends, strict=True):
        # The SDK checks this time before it settles
        message._expiry = datetime.fromtimestamp(end, UTC)
    return ends


async def settle(
    receiver: ServiceBusReceiver,
    message: ServiceBusReceivedMessage,
    verb: str,
    reason: str | None = None,
    description: str | None = None,
) -> Exception | None:
    """Settle a message by `complete`, `abandon` or `dead_letter`; return the service's answer where it refuses.

    Raises: errors of the SDK where the service gave no answer. The SDK's public methods close the link after most
    refusals: one message then gives all messages back and ends a session with all its locks.
    """
    given = {"reason": reason, "error_description": description} if verb == "dead_letter" else {}
    inner: Any = getattr(receiver, "_settle_message", None)
    if inner is None:
        await getattr(receiver, f"{verb}_message")(message, **given)
        return None
    sdk: Any = receiver
    operation = verb.replace("_", "-")
    sdk._check_live()
    sdk._check_message_alive(message, operation)
    if sdk.session is None and message._lock_expired:
        raise MessageLockLostError(message="The lock has expired by the local clock.")
    try:
        await inner(message, operation, reason, description)
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, ServiceBusError):
            # A closed link, which the SDK treats as unexpected and logs with a traceback
            raise await _handled(sdk, ServiceBusConnectionError(message=str(error), error=error)) from None
        if not _is_answer(error):
            raise await _handled(sdk, error) from None
        quiet = logging.getLogger("azure.servicebus")
        answer: Exception = sdk._amqp_transport.create_servicebus_exception(quiet, error)
        return answer
    message._settled = True
    return None


async def _handled(sdk: Any, error: Exception) -> Exception:
    """Let the SDK close the link and return the SDK's error for the given one. Concurrent settlements may meet the same
    error.
    """
    try:
        handled: Exception = await sdk._handle_exception(error)
    except AttributeError:
        # Another settlement has closed the link meanwhile
        return ServiceBusConnectionError(message="The link was closed meanwhile.", error=error)
    return handled


def _is_answer(error: Exception) -> bool:
    """Return whether the service has refused this very request, with its link and connection intact."""
    of_message = any(kind.__name__ == "MessageException" for kind in type(error).__mro__)
    return of_message or getattr(error, "_status_code", None) is not None


def condition(error: BaseException | None) -> str | None:
    """AMQP condition of an error of the SDK, such as `amqp:not-allowed`; None where it has none."""
    found: Any = getattr(error, "_condition", None)
    return found.decode() if isinstance(found, bytes) else found
