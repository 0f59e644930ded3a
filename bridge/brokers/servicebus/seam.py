"""What the SDK can do and does not offer in public: two touches, each with a way to do without it.

The SDK's minor version is pinned, and tests/brokers/servicebus/test_seam.py fails when one of them has lost its grip.
"""

from __future__ import annotations

import logging
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

_log = logging.getLogger(__name__)


def patience(part: Any, seconds: float) -> bool:
    """Let reads of an open receiver or sender last `seconds` where nothing comes; False when that cannot be set.

    Without it a waiting receiver wakes as often as its `socket_timeout` says, which costs CPU and nothing else.
    """
    handler: Any = getattr(part, "_handler", None)
    if not hasattr(handler, "_socket_timeout"):
        return False
    handler._socket_timeout = seconds
    return True


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
