"""The SDK's transport with four changes: assembly of transfers into messages, link credit, decoding of peeked messages,
and sending of their copies.

Like `sdk_internals`, this module uses private parts of the SDK, whose minor version is pinned.
tests/brokers/servicebus/test_sdk_internals.py and test_unreadable.py fail when the SDK changes these parts. Without the
changes the SDK's own behavior remains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus._pyamqp.aio import ReceiveClientAsync
from azure.servicebus._pyamqp.error import AMQPConnectionError
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio._transport._pyamqp_transport_async import PyamqpTransportAsync
from azure.servicebus.exceptions import ServiceBusConnectionError

from bridge.brokers.servicebus import decoding, encoding

MORE, ABORTED, PAYLOAD = 5, 9, 11
"""Fields of a transfer frame; 1 and 2 are its delivery id and tag."""

TOKEN = 16
"""Bytes of a delivery tag that is a lock token."""


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
"""Words of the ValueErrors and RuntimeErrors that the SDK raises at links and handlers that were closed meanwhile."""


def closed(error: BaseException) -> bool:
    """Return whether the error only reports a link or handler that was closed meanwhile, possibly by another task."""
    if isinstance(error, AttributeError):
        return str(error).startswith("'NoneType' object has no attribute")
    return isinstance(error, ValueError | RuntimeError) and any(word in str(error).lower() for word in _CLOSED)


class Transfers:
    """Assembles the frames of one receiver link and decodes them.

    The SDK's link raises in the middle of a read when a value cannot be decoded. The message is then lost without a
    trace, or the link with it, and the collected frames are taken for the beginning of the next message.
    """

    def __init__(self, link: Any) -> None:
        self._link = link
        self._first: list[Any] | None = None
        self._collected = bytearray()
        self.over = False
        """True when nothing is accepted any more: the link is closing, and arriving messages go back with it."""
        link._incoming_transfer = self.incoming
        link.transfers = self

    async def incoming(self, frame: list[Any]) -> None:
        """Handle one frame."""
        link = self._link
        if self._first is None:
            self._first = frame
            link.received_delivery_id = frame[1]
        if frame[MORE] and not frame[ABORTED]:
            self._collected += frame[PAYLOAD]
            return
        first, collected = self._first, self._collected
        self._first, self._collected = None, bytearray()
        link.delivery_count += 1
        link.current_link_credit -= 1
        if frame[ABORTED] or self.over:
            return
        if collected:
            collected += frame[PAYLOAD]
        named = isinstance(first[2], bytes) and len(first[2]) == TOKEN
        message = decoding.decode(collected or frame[PAYLOAD], named=named)
        first[PAYLOAD] = b""  # it is kept with the message
        if not named:
            first[2] = str(first[1]).encode()  # the SDK distinguishes deliveries by it
        link._received_delivery_tags.add(first[2])
        await link._on_transfer(first, message)


class ReceiveClient(ReceiveClientAsync):
    """Client of a receiver link that uses `Transfers` and grants credit by free space."""

    credit: Callable[[], int] | None = None
    """Number of messages that may come now; None: the number that the SDK chooses."""

    async def _client_ready_async(self) -> bool:
        had = self._link
        ready = bool(await super()._client_ready_async())  # type: ignore[no-untyped-call]  # the SDK's
        if self._link is not had and self._link is not None:
            Transfers(self._link)
        return ready

    async def _client_run_async(self, **given: Any) -> bool:
        # Pass a ValueError on: the SDK itself would end silently
        link: Any = self._link
        connection: Any = self._connection
        if link.current_link_credit <= 0:
            credit = self._link_credit if self.credit is None else self.credit()
            if credit > 0:
                await link.flow(link_credit=credit)
        await connection.listen(wait=self._socket_timeout, **given)
        return True


class Transport(PyamqpTransportAsync):
    """Transport that the SDK uses for receivers and for requests at `$management`."""

    @staticmethod
    def create_receive_client_async(receiver: Any, **given: Any) -> Any:
        client: Any = PyamqpTransportAsync.create_receive_client_async(receiver, **given)
        client.__class__ = ReceiveClient  # made by a function with twenty arguments, which would have to be repeated
        client.credit = getattr(receiver, "credit", None)
        return client

    @staticmethod
    async def settle_message_via_receiver_link_async(*given: Any, **named: Any) -> None:
        try:
            await PyamqpTransportAsync.settle_message_via_receiver_link_async(*given, **named)
        except (ValueError, RuntimeError) as error:
            if closed(error) or isinstance(error.__cause__, AMQPConnectionError):
                # At a RuntimeError the SDK would open another connection for a request beside the link, once for each
                # settlement
                raise ServiceBusConnectionError(message="The link was closed meanwhile.", error=error) from error
            raise

    @staticmethod
    def create_servicebus_exception(logger: Any, exception: Exception, **named: Any) -> Any:
        if closed(exception):
            # Not a bug: the SDK would log a traceback
            return ServiceBusConnectionError(message=str(exception), error=exception)
        return PyamqpTransportAsync.create_servicebus_exception(logger, exception, **named)

    @staticmethod
    async def mgmt_client_request_async(mgmt_client: Any, mgmt_msg: Any, *, callback: Any, **given: Any) -> Any:
        def tolerant(*answer: Any, **named: Any) -> Any:
            return callback(*answer, **named | {"amqp_transport": Transport})

        return await PyamqpTransportAsync.mgmt_client_request_async(mgmt_client, mgmt_msg, callback=tolerant, **given)

    @staticmethod
    def parse_received_message(message: Any, message_type: Any, **given: Any) -> list[Any]:
        """Peeked messages, including those that cannot be decoded completely."""
        if not message.value:
            return []
        found = []
        for each in message.value[b"messages"]:
            decoded = decoding.decode(each[b"message"])
            decoded.encoded = bytes(each[b"message"])
            found.append(message_type(decoded, lock_token=each.get(b"lock-token"), **given))
        return found

    @staticmethod
    def to_outgoing_amqp_message(annotated_message: Any) -> Any:
        """Return the message itself where it was encoded beforehand."""
        encoded = getattr(annotated_message, "encoded", None)
        return PyamqpTransport.to_outgoing_amqp_message(annotated_message) if encoded is None else encoded


def install(client: ServiceBusClient) -> bool:
    """Install the transport in a client; False when the SDK has no such place, and its own transport stays."""
    if getattr(client, "_amqp_transport", None) is not PyamqpTransportAsync:
        return False
    client._amqp_transport = Transport
    return decoding.extend() and exact(client)


def exact(client: ServiceBusClient) -> bool:
    """Return whether a client sends encoded values unchanged."""
    return getattr(client, "_amqp_transport", None) is Transport and encoding.extend()


def fault(raw: ServiceBusReceivedMessage) -> decoding.Fault | None:
    """Fault of a message that could not be decoded completely; None for any other."""
    found: decoding.Fault | None = getattr(getattr(raw, "_message", None), "fault", None)
    return found


def encoded(raw: ServiceBusReceivedMessage) -> bytes | None:
    """Encoded message as received, where it was kept."""
    found: bytes | None = getattr(getattr(raw, "_message", None), "encoded", None)
    return found


def size(raw: ServiceBusReceivedMessage) -> int:
    """Encoded size of a message in bytes; 0 when it is unknown."""
    return int(getattr(getattr(raw, "_message", None), "size", 0))


def has_token(raw: ServiceBusReceivedMessage) -> bool:
    """Return whether the service sent a token of the message's lock."""
    return decoding.has_token(raw._delivery_tag, raw._message)


def settleable(raw: ServiceBusReceivedMessage) -> bool:
    """Return whether the service sent the delivery id by which the message is settled."""
    return raw._delivery_id is not None
