"""All uses of private parts of azure-servicebus. No other module imports or touches them.

The SDK's minor version is pinned, and tests/brokers/servicebus/test_sdk_internals.py fails when the SDK changes one of
these parts. Where a part is missing, each function says so by its result, and the SDK's public methods do without it:
one connection for each session, messages as the SDK decodes them, one request for each lock.

In the order of the file: types and tables of the AMQP library, the transport of a client, opening and closing in steps,
calls on an open receiver, facts about messages and errors.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusReceivedMessage
from azure.servicebus._common.constants import MGMT_REQUEST_LOCK_TOKENS as TOKENS
from azure.servicebus._common.constants import REQUEST_RESPONSE_RENEWLOCK_OPERATION as RENEW
from azure.servicebus._common.mgmt_handlers import message_lock_renew_op
from azure.servicebus._pyamqp import _decode, _encode
from azure.servicebus._pyamqp.aio import ReceiveClientAsync
from azure.servicebus._pyamqp.constants import LinkState
from azure.servicebus._pyamqp.error import AMQPConnectionError, AMQPException
from azure.servicebus._pyamqp.message import Header as Header
from azure.servicebus._pyamqp.message import Message as _Message
from azure.servicebus._pyamqp.message import Properties as Properties
from azure.servicebus._pyamqp.types import TYPE as TYPE
from azure.servicebus._pyamqp.types import VALUE as VALUE
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSession
from azure.servicebus.aio._async_utils import create_authentication
from azure.servicebus.aio._transport._pyamqp_transport_async import PyamqpTransportAsync
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusConnectionError, ServiceBusError

_log = logging.getLogger(__name__)

MORE, ABORTED, PAYLOAD = 5, 9, 11
"""Fields of a transfer frame; 1 and 2 are its delivery id and tag."""

TOKEN = 16
"""Bytes of a delivery tag that is a lock token."""

MAX_NESTING_DEPTH, MAX_COMPOUND_COUNT = _decode._MAX_NESTING_DEPTH, _decode._MAX_COMPOUND_COUNT
"""Limits of the SDK's decoder."""

_GONE = (LinkState.DETACHED, LinkState.ERROR)

AmqpMessage = _Message
"""Message in the form of the AMQP library, with one member for each section."""


# -- types and tables of the AMQP library


def decoders() -> list[Callable[..., Any] | None] | None:
    """Table of the SDK's decoders by constructor; None where it has an unknown form."""
    table: Any = getattr(_decode, "_DECODE_BY_CONSTRUCTOR", None)
    return table if isinstance(table, list) and len(table) == 256 else None


def encoders() -> dict[Any, Callable[..., None]] | None:
    """Table of the SDK's encoders by type; None where it has an unknown form."""
    table: Any = getattr(_encode, "_ENCODE_MAP", None)
    return table if isinstance(table, dict) and callable(table.get(None)) else None


def encode(message: AmqpMessage) -> bytes:
    """Bytes of an outgoing message."""
    return bytes(_encode.encode_payload(bytearray(), message))


def to_amqp(annotated_message: Any) -> AmqpMessage:
    """Outgoing message as the SDK's library sends it."""
    return PyamqpTransport.to_outgoing_amqp_message(annotated_message)


class EncodedSection(tuple[Any, ...]):
    """A section that is a list of encoded fields, in the form in which the SDK describes sections."""

    _code: int
    _definition: tuple[Any, ...]

    def __new__(cls, kind: Any, fields: Mapping[int, bytes | None]) -> EncodedSection:
        """Create a section.

        kind: `Header` or `Properties`.
        fields: encoded values by number.
        """
        section = super().__new__(cls, (fields.get(number) for number in range(len(kind._fields))))
        section._code = kind._code
        section._definition = tuple(each._replace(type=None, multiple=False) for each in kind._definition)
        return section


# -- the transport of a client: assembly of transfers into messages, link credit, decoding, and sending of copies


class MessageDecoder(Protocol):
    """Decoder of a message from its encoded form; see `decoding.decode`."""

    def __call__(self, payload: bytes | bytearray, *, named: bool = False, keep: bool = False) -> Any: ...


def customize(receiver: Any, decode: MessageDecoder, credit: Callable[[], int] | None) -> None:
    """Let a receiver of a client with `Transport` decode its messages by `decode`.

    credit: returns the number of messages that may come now; None: the number that the SDK chooses.
    """
    receiver.decode, receiver.credit = decode, credit


class Transfers:
    """Decoder of the frames of one receiver link, which it assembles first.

    The SDK's link raises in the middle of a read when a value cannot be decoded. The message is then lost without a
    trace, or the link with it, and the collected frames are taken for the beginning of the next message.
    """

    def __init__(self, link: Any, decode: MessageDecoder) -> None:
        self._link = link
        self._decode = decode
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
        message = self._decode(collected or frame[PAYLOAD], named=named)
        first[PAYLOAD] = b""  # it is kept with the message
        if not named:
            first[2] = str(first[1]).encode()  # the SDK distinguishes deliveries by it
        link._received_delivery_tags.add(first[2])
        await link._on_transfer(first, message)


class ReceiveClient(ReceiveClientAsync):
    """Client of a receiver link that uses `Transfers` and grants credit by free space."""

    decode: MessageDecoder | None = None
    credit: Callable[[], int] | None = None
    """See `customize`."""

    async def _client_ready_async(self) -> bool:
        had = self._link
        ready = bool(await super()._client_ready_async())  # type: ignore[no-untyped-call]  # the SDK's
        if self._link is not had and self._link is not None and self.decode is not None:
            Transfers(self._link, self.decode)
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


def open_without_pauses(client: Any) -> Any:
    """Let the client of a sender or receiver open without the SDK's pause of 50 ms after each frame."""
    ready: Callable[[], Awaitable[bool]] = client.client_ready_async

    async def opened() -> bool:
        while not await ready():
            pass  # each round reads one frame
        del client.client_ready_async
        return True

    client.client_ready_async = opened
    return client


class Transport(PyamqpTransportAsync):
    """Transport that the SDK uses for senders, receivers and requests at `$management`."""

    @staticmethod
    def create_send_client_async(config: Any, **given: Any) -> Any:
        return open_without_pauses(PyamqpTransportAsync.create_send_client_async(config, **given))

    @staticmethod
    def create_receive_client_async(receiver: Any, **given: Any) -> Any:
        client: Any = PyamqpTransportAsync.create_receive_client_async(receiver, **given)
        client.__class__ = ReceiveClient  # made by a function with twenty arguments, which would have to be repeated
        client.decode, client.credit = getattr(receiver, "decode", None), getattr(receiver, "credit", None)
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
        decode: MessageDecoder | None = getattr(given.get("receiver"), "decode", None)
        if decode is None:
            return PyamqpTransportAsync.parse_received_message(message, message_type, **given)
        if not message.value:
            return []
        found = []
        for each in message.value[b"messages"]:
            decoded = decode(each[b"message"], keep=True)
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
    return True


def is_installed(part: ServiceBusClient | ServiceBusReceiver) -> bool:
    """Return whether a client, or a receiver of one, has the transport."""
    return getattr(part, "_amqp_transport", None) is Transport


# -- opening and closing in steps: the SDK opens connection and link at once, sleeps between the frames, and creates a
# new connection for every session


def opens_in_steps(part: Any) -> bool:
    """Return whether connection and link can be opened separately. The part must be a receiver of the known SDK."""
    ours = isinstance(part, ServiceBusReceiver) and is_installed(part)
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
    if client is not None and opens_in_steps(receiver):
        with public_errors():
            await client.auth_complete_async()


@contextmanager
def public_errors() -> Iterator[None]:
    """Translate errors of the SDK's AMQP library into the SDK's public errors."""
    try:
        yield
    except AMQPException as error:
        raise Transport.create_servicebus_exception(_log, error) from error


# -- calls on an open receiver


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


def end_keep_alive(part: Any) -> bool:
    """End the keep-alive task of an open receiver or sender; False when it has none.

    The SDK's `close` awaits this task, which sleeps for a second between two looks.
    """
    handler: Any = getattr(part, "_handler", None)
    keep_alive: Any = getattr(handler, "_keep_alive_thread", None)
    if not isinstance(keep_alive, asyncio.Future):
        return False
    handler._keep_alive_thread = None
    keep_alive.cancel()
    return True


def is_link_attached(receiver: ServiceBusReceiver) -> bool:
    """Return whether the receiver's link is attached; True when that is unknown."""
    handler: Any = getattr(receiver, "_handler", receiver)
    state: Any = getattr(getattr(handler, "_link", None), "state", None)
    return handler is not None and getattr(state, "name", "ATTACHED") == "ATTACHED"


async def release(receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> bool:
    """Give a message back without raising its delivery count; False when it stays locked until its lock expires.

    The SDK does this only for buffered messages when a receiver closes. This message had already been received. The
    number of a delivery belongs to its receiver: on another one it would name another message.
    """
    if getattr(message, "_receiver", receiver) is not receiver:
        return False
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


# -- facts about messages and errors


def received(raw: ServiceBusReceivedMessage) -> Any:
    """The message as it was decoded; None where it is not found."""
    return getattr(raw, "_message", None)


def delivery_tag(raw: ServiceBusReceivedMessage) -> Any:
    """Tag of the delivery, which may be the token of its lock."""
    return raw._delivery_tag


def is_settleable(raw: ServiceBusReceivedMessage) -> bool:
    """Return whether the service sent the delivery id by which the message is settled."""
    return raw._delivery_id is not None


def condition(error: BaseException | None) -> str | None:
    """AMQP condition of an error of the SDK, such as `amqp:not-allowed`; None where it has none."""
    found: Any = getattr(error, "_condition", None)
    return found.decode() if isinstance(found, bytes) else found


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
