"""What the SDK can do and does not offer in public, in small: touches with a way to do without each.

The larger ones are in `transport` (how transfers become messages, and credit), `decoding` and `attaching`. The SDK's
minor version is pinned, and tests/brokers/servicebus/test_sdk_internals.py fails when one of them has lost its grip.
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
    """Let reads of an open receiver or sender last `seconds` where nothing comes; False when that cannot be set.

    Without it a waiting receiver wakes as often as its `socket_timeout` says, which costs CPU and nothing else.
    """
    handler: Any = getattr(part, "_handler", None)
    if not hasattr(handler, "_socket_timeout"):
        return False
    handler._socket_timeout = seconds
    return True


def is_link_attached(receiver: ServiceBusReceiver) -> bool:
    """Whether the receiver's link stands; True when that cannot be told."""
    handler: Any = getattr(receiver, "_handler", receiver)
    state: Any = getattr(getattr(handler, "_link", None), "state", None)
    return handler is not None and getattr(state, "name", "ATTACHED") == "ATTACHED"


async def release(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> bool:
    """Give a message back without raising its delivery count; False when it stays locked until its lock expires.

    The SDK does this for messages that it has buffered, when a receiver closes; this is one that we had taken.
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
    """Renew locks; returns when they end, in seconds since the epoch. limit: seconds. Raises what the SDK raises.

    In one request, as the protocol has it; the SDK in public makes one for each message, and a hundred of them at a
    time get in each other's way. When one of the locks is lost the request is refused as a whole. The SDK's own way
    closes the receiver when a request is refused; this one does not.
    """
    ask: Any = getattr(receiver, "_mgmt_request_response", None)
    if ask is None:
        return [(await receiver.renew_message_lock(message, timeout=limit)).timestamp() for message in messages]
    tokens = Transport.AMQP_ARRAY_VALUE([message.lock_token for message in messages])
    with public_errors():
        answer = await ask(RENEW, {TOKENS: tokens}, message_lock_renew_op, timeout=limit)
    ends = [end / 1000 for end in answer[b"expirations"]]
    for message, end in zip(messages, ends, strict=True):
        # What the SDK looks at before it settles
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

    Raises what the SDK raises where the service gave no answer. In public the SDK closes the link after most refusals:
    all messages are given back, and a session ends with all its locks, for the sake of one message.
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
        raise MessageLockLostError(message="The lock has passed by the local clock.")
    try:
        await inner(message, operation, reason, description)
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, ServiceBusError):
            # A closed link, which the SDK takes for something unexpected, and logs with a traceback
            raise await _handled(sdk, ServiceBusConnectionError(message=str(error), error=error)) from None
        if not _is_answer(error):
            raise await _handled(sdk, error) from None
        quiet = logging.getLogger("azure.servicebus")
        answer: Exception = sdk._amqp_transport.create_servicebus_exception(quiet, error)
        return answer
    message._settled = True
    return None


async def _handled(sdk: Any, error: Exception) -> Exception:
    """The error that the SDK makes of one, after it has closed the link; settlements side by side meet it at once."""
    try:
        handled: Exception = await sdk._handle_exception(error)
    except AttributeError:
        # Another one has closed it meanwhile
        return ServiceBusConnectionError(message="The link was closed meanwhile.", error=error)
    return handled


def _is_answer(error: Exception) -> bool:
    """Whether the service has refused this very request: its link stands, and its connection too."""
    of_message = any(kind.__name__ == "MessageException" for kind in type(error).__mro__)
    return of_message or getattr(error, "_status_code", None) is not None


def condition(error: BaseException | None) -> str | None:
    """AMQP condition of an error of the SDK, such as `amqp:not-allowed`; None where it has none."""
    found: Any = getattr(error, "_condition", None)
    return found.decode() if isinstance(found, bytes) else found
