"""Separate opening of a receiver's connection and its link; one connection then serves one session after another.

The SDK opens both at once, sleeps between the frames, and creates a new connection for every session. Like
`sdk_internals` and `transport`, this module uses private parts of the SDK. Where a part is missing, `possible` returns
False and the caller uses the SDK's public methods.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus._pyamqp.constants import LinkState
from azure.servicebus._pyamqp.error import AMQPException
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSession
from azure.servicebus.aio._async_utils import create_authentication
from azure.servicebus.exceptions import ServiceBusConnectionError

from bridge.brokers.servicebus.transport import Transport

_log = logging.getLogger(__name__)

_GONE = (LinkState.DETACHED, LinkState.ERROR)


def possible(part: Any) -> bool:
    """Return whether connection and link can be opened separately. The part must be a receiver of the known SDK."""
    ours = isinstance(part, ServiceBusReceiver) and getattr(part, "_amqp_transport", None) is Transport
    return ours and hasattr(part, "_create_handler") and hasattr(part, "_get_source")


async def connect(receiver: ServiceBusReceiver) -> None:
    """Open the receiver's connection and authenticate with the claim. Raises: errors of the SDK."""
    given: Any = receiver
    with public_errors():
        claim = await create_authentication(given)  # type: ignore[no-untyped-call]  # the SDK's
        given._create_handler(claim)
        await given._handler.open_async()
        while not await given._handler.auth_complete_async():
            pass  # each round reads one frame
    # Otherwise each settlement on a broken connection opens another one, as many at once as are in progress
    given._open = partial(_stay_closed, given)


async def _stay_closed(receiver: Any, *_: object) -> None:
    """Replace the SDK's automatic reconnection of a receiver. Raises: ServiceBusConnectionError."""
    if not receiver._running:
        raise ServiceBusConnectionError(message="The connection was closed meanwhile.")


async def attach(receiver: ServiceBusReceiver) -> None:
    """Attach the link; a session receiver gets the next session. Raises: errors of the SDK."""
    given: Any = receiver
    client: Any = given._handler
    with public_errors():
        while not (await client.auth_complete_async() and await client._client_ready_async()):
            await client._connection.listen(wait=client._socket_timeout)
    given._running = True


async def detach(receiver: ServiceBusReceiver) -> None:
    """Give the session and all its messages back; the connection stays. Raises: errors of the SDK."""
    given: Any = receiver
    client: Any = given._handler
    link: Any = client._link
    given._running = False
    if link is not None:
        with public_errors():
            link.transfers.over = True
            if link.state in _GONE:
                # Refused: the SDK takes the service's detach for its own
                await link._outgoing_detach(close=True)
            else:
                await link.detach(close=True)
            while link.state not in _GONE:
                await client._connection.listen(wait=client._socket_timeout)
        ours: Any = client._session
        ours.links.pop(link.name, None)
        ours._output_handles.pop(link.handle, None)
        if ours._input_handles.get(link.remote_handle) is link:
            del ours._input_handles[link.remote_handle]
    # Reset the receiver to its initial state
    client._link, client._received_messages = None, queue.Queue()
    unknown: Any = NEXT_AVAILABLE_SESSION
    given._session_id, given._session = unknown, ServiceBusSession(unknown, given)
    client.source = given._get_source()


async def authorize(receiver: ServiceBusReceiver) -> None:
    """Send a new claim when the present one expires soon. Without this call, only reads do so. Raises: errors of the
    SDK.
    """
    client: Any = getattr(receiver, "_handler", None)
    if client is not None and possible(receiver):
        with public_errors():
            await client.auth_complete_async()


@contextmanager
def public_errors() -> Iterator[None]:
    """Translate errors of the SDK's AMQP library into the SDK's public errors."""
    try:
        yield
    except AMQPException as error:
        raise Transport.create_servicebus_exception(_log, error) from error
