"""A receiver's connection and its link, opened apart, so that one connection serves one session after the other.

The SDK opens both at once, sleeps between the frames of it, and makes a new connection for every session. As `seam` and
`transport` this touches private parts of the SDK; where one of them is missing, `possible` says so, and the caller
falls back to what the SDK offers in public.
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
    """Whether connection and link can be opened apart: of a receiver, when it is as we know it."""
    ours = isinstance(part, ServiceBusReceiver) and getattr(part, "_amqp_transport", None) is Transport
    return ours and hasattr(part, "_create_handler") and hasattr(part, "_get_source")


async def connect(receiver: ServiceBusReceiver) -> None:
    """Open the receiver's connection and show the claim. Raises what the SDK raises."""
    given: Any = receiver
    with public_errors():
        claim = await create_authentication(given)  # type: ignore[no-untyped-call]  # the SDK's
        given._create_handler(claim)
        await given._handler.open_async()
        while not await given._handler.auth_complete_async():
            pass  # each round reads one frame
    # Else each settlement that finds its connection broken makes another one, as many at once as are under way
    given._open = partial(_stay_closed, given)


async def _stay_closed(receiver: Any, *_: object) -> None:
    """Stand in for what the SDK does to connect a receiver again by itself. Raises: ServiceBusConnectionError."""
    if not receiver._running:
        raise ServiceBusConnectionError(message="The connection was closed meanwhile.")


async def attach(receiver: ServiceBusReceiver) -> None:
    """Attach the link, of the next session where the receiver is one for sessions. Raises what the SDK raises."""
    given: Any = receiver
    client: Any = given._handler
    with public_errors():
        while not (await client.auth_complete_async() and await client._client_ready_async()):
            await client._connection.listen(wait=client._socket_timeout)
    given._running = True


async def detach(receiver: ServiceBusReceiver) -> None:
    """Give the session and all that came of it back; the connection stays. Raises what the SDK raises."""
    given: Any = receiver
    client: Any = given._handler
    link: Any = client._link
    given._running = False
    if link is not None:
        with public_errors():
            link.transfers.over = True
            if link.state in _GONE:
                # Refused: the SDK takes the service's end of the link for the end of ours
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
    # As the receiver was when it was made
    client._link, client._received_messages = None, queue.Queue()
    unknown: Any = NEXT_AVAILABLE_SESSION
    given._session_id, given._session = unknown, ServiceBusSession(unknown, given)
    client.source = given._get_source()


async def authorize(receiver: ServiceBusReceiver) -> None:
    """Show a new claim when the present one ends soon, which else happens with reads. Raises what the SDK raises."""
    client: Any = getattr(receiver, "_handler", None)
    if client is not None and possible(receiver):
        with public_errors():
            await client.auth_complete_async()


@contextmanager
def public_errors() -> Iterator[None]:
    """The SDK's public errors for those of its AMQP library."""
    try:
        yield
    except AMQPException as error:
        raise Transport.create_servicebus_exception(_log, error) from error
