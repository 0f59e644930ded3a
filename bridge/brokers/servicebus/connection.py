"""Connections of one namespace: their number, and the SDK's receivers and senders on them, within time limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from azure.core.exceptions import AzureError
from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import OperationTimeoutError

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import decoding, encoding
from bridge.brokers.servicebus.amqp import values as amqp_values
from bridge.brokers.servicebus.entity import EntityPath
from bridge.brokers.servicebus.faults import Doing, broker_error, translate
from bridge.brokers.servicebus.security import NamespaceAccess
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.core.errors import BrokerError, BrokerUnavailable

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

SDK_ERRORS = (AzureError, OSError, TimeoutError, ValueError, RuntimeError)
"""Errors that the SDK raises: its own, those of the system, and ValueError and RuntimeError for links closed
meanwhile."""

SETTLE_READ = 0.02
"""Longest read in seconds while others wait to write on the same connection. Concurrent settlements that find nothing
to read wait for each other's reads to end."""

SESSION_READ = 0.2
"""The same limit for a connection with one session, whose messages are settled one after another."""

IDLE_READ = 1.0
"""Longest read in seconds while nothing is in flight; a pending write ends it."""

CLOSE_READ = 0.2
"""Seconds of silence, twice in a row, after which a closing link counts as drained."""

CLOSE_SECONDS = 8.0

PUBLISHING = 3
"""Number of connections reserved for senders."""


class SlotHolder(Protocol):
    """A receiver, as far as its connection is concerned."""

    @property
    def number(self) -> int: ...

    @property
    def is_dispensable(self) -> bool:
        """True for a receiver that can do without a connection where a namespace allows few of them."""
        ...

    def yield_connection(self) -> None:
        """Leave the connection to another receiver that needs the connection."""
        ...


class ConnectionSlots:
    """Connections of one namespace. most: number of connections; None: no limit.

    The first receiver of an entity always has a connection, and so has every receiver without sessions. The other
    session receivers share the rest, in turns over the entities.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._receivers: list[SlotHolder] = []
        self._taken: set[SlotHolder] = set()
        """Spare receivers that have a connection, possibly beyond their share."""

    def join(self, receivers: Sequence[SlotHolder]) -> None:
        """Add receivers that need connections. Those that lose their connections to them are notified."""
        self._receivers += receivers
        for receiver in self._receivers:
            if not self.is_entitled(receiver):
                receiver.yield_connection()

    def leave(self, receivers: Sequence[SlotHolder]) -> None:
        """Remove receivers that need no connection any more."""
        self._receivers = [each for each in self._receivers if each not in receivers]
        self._taken.difference_update(receivers)

    def is_entitled(self, receiver: SlotHolder) -> bool:
        """Return whether the receiver is entitled to a connection."""
        if self._most is None or not receiver.is_dispensable:
            return True
        dispensable = sorted((each for each in self._receivers if each.is_dispensable), key=lambda each: each.number)
        return receiver in dispensable[: self._left(self._most)]

    def take(self, receiver: SlotHolder) -> bool:
        """Return whether the receiver may connect now. A dispensable receiver may have to wait until others
        have released theirs.
        """
        if self._most is None or not receiver.is_dispensable or receiver in self._taken:
            return self.is_entitled(receiver)
        if not self.is_entitled(receiver) or len(self._taken) >= self._left(self._most):
            return False
        self._taken.add(receiver)
        return True

    def give_back(self, receiver: SlotHolder) -> None:
        """Record that the receiver's connection is closed. Idempotent."""
        self._taken.discard(receiver)

    def _left(self, most: int) -> int:
        return max(0, most - PUBLISHING - sum(not each.is_dispensable for each in self._receivers))


class Connection:
    """Factory of the receivers and senders of one namespace."""

    def __init__(self, name: str, config: ServiceBusBrokerConfig, access: NamespaceAccess) -> None:
        self.name = name
        self.config = config
        self.access = access
        self.slots = ConnectionSlots(config.most_connections)
        self._client: ServiceBusClient | None = None

    @property
    def client(self) -> ServiceBusClient:
        """SDK client for all receivers and senders; each of them opens its own connection."""
        if self._client is None:
            self._client = self.access.client()
            known = amqp_values.extend_decoders() and sdk_internals.install(self._client)
            if not (known and self.exact):
                _log.warning("%s: this version of azure-servicebus is not supported; see docs/servicebus.md", self.name)
        return self._client

    @property
    def exact(self) -> bool:
        """True when the client sends encoded values unchanged."""
        return sdk_internals.is_installed(self.client) and encoding.extend_encoder()

    async def stop(self) -> None:
        """Close the client. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await self._bounded(client.close(), "close the client")
        await self.access.close()

    def receiver(
        self,
        path: EntityPath,
        prefetch: int,
        accept: float | None = None,
        credit: Callable[[], int] | None = None,
    ) -> ServiceBusReceiver:
        """Create a receiver without opening it.

        accept: wait for the next session in seconds; None for a receiver without sessions.
        credit: returns the number of messages that may come now.
        """
        given: dict[str, Any] = {
            "prefetch_count": prefetch,
            "socket_timeout": SETTLE_READ,
            "timeout": self.config.request_timeout,
            # The owner of a receiver reads continuously; a second reading task would block its writes
            "keep_alive": 0,
        }
        if accept is not None:
            given |= {"session_id": NEXT_AVAILABLE_SESSION, "max_wait_time": accept, "socket_timeout": SESSION_READ}
        client = self.client
        make = client.get_queue_receiver if path.subscription is None else client.get_subscription_receiver
        receiver: Any = make(**path.arguments, **given)
        sdk_internals.customize(receiver, decoding.decode, credit)
        return receiver  # type: ignore[no-any-return]  # the created object is one

    def sender(self, entity: str) -> ServiceBusSender:
        """Create a sender to a queue or topic without opening it. Queues and topics are the same on the wire."""
        return self.client.get_queue_sender(entity)

    async def open(self, part: ServiceBusReceiver | ServiceBusSender, what: str, seconds: float) -> None:
        """Open a receiver or sender. Raises: BrokerError; the part is then closed."""
        if sdk_internals.opens_in_steps(part):
            await self._bounding(part, self._connect_and_attach(part), what, seconds)
        else:
            await self._bounding(part, part.__aenter__(), what, seconds)

    @staticmethod
    async def _connect_and_attach(part: Any) -> None:
        await sdk_internals.connect(part)
        await sdk_internals.attach(part)

    async def connect(self, part: ServiceBusReceiver, what: str, seconds: float) -> None:
        """Open the connection of a receiver, without its link. Raises: BrokerError; the receiver is then closed."""
        await self._bounding(part, sdk_internals.connect(part), what, seconds)

    async def attach(self, part: ServiceBusReceiver, what: str, seconds: float) -> bool:
        """Attach the link of a connected receiver to the next session; False when there is none.

        Raises: BrokerError; the receiver is then closed.
        """
        return await self._bounding(part, self._next(part), what, seconds)

    @staticmethod
    async def _next(part: ServiceBusReceiver) -> bool:
        try:
            await sdk_internals.attach(part)
        except OperationTimeoutError:
            # The service answers so after the given time
            await sdk_internals.detach(part)
            return False
        return True

    async def detach(self, part: ServiceBusReceiver) -> bool:
        """Give the session of a receiver back. True when its connection can take another session, otherwise the
        receiver is closed.
        """
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await sdk_internals.detach(part)
        except SDK_ERRORS as error:
            _log.debug("%s: release a session: %s: %s", self.name, type(error).__name__, error)
            await self.close(part)
            return False
        except BaseException:
            await self.close(part)
            raise
        return True

    async def _bounding(self, part: Any, opening: Awaitable[_T], what: str, seconds: float) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await opening
        except SDK_ERRORS as error:
            await self.close(part)
            path = part.entity_path if isinstance(part, ServiceBusReceiver) else part.entity_name
            doing: Doing = "reading" if isinstance(part, ServiceBusReceiver) else "opening"
            raise self.translate(error, what, doing=doing, path=path) from error
        except BaseException:
            await self.close(part)
            raise

    async def close(self, part: ServiceBusReceiver | ServiceBusSender) -> None:
        """Close within a time limit; messages received in advance are given back. Never raises for errors of the
        SDK.
        """
        sdk_internals.set_read_timeout(part, CLOSE_READ)
        sdk_internals.end_keep_alive(part)
        await self._bounded(part.close(), "close a link")

    async def _bounded(self, closing: Any, what: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await closing
        except SDK_ERRORS as error:
            _log.debug("%s: %s: %s: %s", self.name, what, type(error).__name__, error)

    def translate(self, error: BaseException, what: str, *, doing: Doing = "reading", path: str = "") -> BrokerError:
        """See `faults.translate`. A bug is logged and reported as BrokerUnavailable: nothing was settled."""
        found = translate(error, f"{self.name}: {what}", doing=doing, path=path, namespace=self.access.namespace)
        if found is None:
            _log.error("%s: %s failed unexpectedly", self.name, what, exc_info=error)
            return BrokerUnavailable(f"{self.name}: {what}: unexpected {type(error).__name__}, see the log")
        return broker_error(found)


class ReceiverLink:
    """One open receiver of the SDK: its health, and the meaning of its errors."""

    def __init__(self, connection: Connection, path: str, sdk: ServiceBusReceiver) -> None:
        """Create a link. path: of the entity."""
        self.sdk = sdk
        self.timeout = connection.config.request_timeout
        """Deadline of one request in seconds."""
        self.broken: BrokerError | None = None
        """Error that made the connection useless."""
        self.last_answer = time.monotonic()
        """Time of the last answer of the service, in monotonic seconds."""
        self._connection = connection
        self._path = path

    def break_off(self, error: BrokerError) -> None:
        """Record an error that makes the connection useless."""
        self.broken = error

    def check(self) -> None:
        """Raise the error that made the connection useless, if there is one."""
        if self.broken is not None:
            raise self.broken

    def record_answer(self) -> None:
        """Record an answer of the service."""
        self.last_answer = time.monotonic()

    def translate(self, error: BaseException, what: str, *, doing: Doing = "reading") -> BrokerError:
        """Translate an SDK error raised at this entity into an error of the bridge."""
        return self._connection.translate(error, f"{what} {self._path}", doing=doing, path=self._path)
