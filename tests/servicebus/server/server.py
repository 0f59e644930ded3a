"""Server: accepts connections, keeps messages over stop and start, and provides connection strings."""

from __future__ import annotations

import asyncio
import ssl

from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.clock import Clock
from tests.servicebus.server.config import ServerConfig
from tests.servicebus.server.connection import Connection
from tests.servicebus.server.counters import Counters
from tests.servicebus.server.entities.namespace import Namespace
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.faults import Faults
from tests.servicebus.server.state import State
from tests.servicebus.server.websocket import WebSocketListener


class ServiceBusServer:
    """Service Bus test server; all of its state belongs to the event loop that starts it.

    counters: recorded events. faults: fault injection. namespace: the entities and their messages. keys: initially
    those of the configuration; tests may add keys.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.counters = Counters()
        self.clock = Clock(config.clock_skew)
        self.namespace = Namespace(config, self.clock, self.counters)
        self._connections: set[Connection] = set()
        self.faults = Faults(self.namespace, _Strikes(self._connections), self._set_skew)
        self.faults.round_trip = config.round_trip
        self.port = config.port
        self.keys = list(config.keys)
        self._state = State(config, self.clock, self.counters, self.namespace, self.faults, self.keys)
        self._listener: asyncio.Server | WebSocketListener | None = None

    async def start(self) -> None:
        """Start listening; after a stop on the same port as before. Raises: OSError when the port is taken."""
        assert self._listener is None
        loop = asyncio.get_running_loop()
        tls = None
        if self.config.certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self.config.certificate)

        def connection() -> Connection:
            return Connection(self._state, self._connections)

        if self.config.websockets:
            self._listener = WebSocketListener(connection)
            self.port = await self._listener.start(self.config.host, self.port, tls)
        else:
            self._listener = await loop.create_server(connection, self.config.host, self.port, ssl=tls)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Reset all connections and stop listening. Messages and running locks stay."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        if isinstance(listener, WebSocketListener):
            self.faults.drop()
            await listener.stop()
        else:
            listener.close()
            self.faults.drop()
        while self._connections:
            await asyncio.sleep(0)

    async def __aenter__(self) -> ServiceBusServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def address(self) -> str:
        """Host and port; a TLS client gives them as `custom_endpoint_address`, after `sb://`."""
        return f"{self.config.host}:{self.port}"

    @property
    def connection_string(self) -> str:
        """Connection string with the first key."""
        return self.connection_string_with(self.config.keys[0])

    def connection_string_with(self, key: AccessKey) -> str:
        """Connection string with this key.

        Without TLS the string names the development emulator: the SDK then speaks plain TCP to the port.
        """
        plain = "" if self.config.certificate is not None else "UseDevelopmentEmulator=true;"
        return f"Endpoint=sb://{self.address};SharedAccessKeyName={key.name};SharedAccessKey={key.key};{plain}"

    def queue(self, path: str) -> Queue:
        """Return a queue, a subscription (`topic/Subscriptions/name`) or dead letters (`.../$DeadLetterQueue`)."""
        return self.namespace.queue(path)

    def dead_letters(self, path: str) -> Queue:
        return self.namespace.queue(f"{path}/$DeadLetterQueue")

    def clear(self) -> None:
        """Remove all messages; connections and counters stay."""
        self.namespace.clear()

    def _set_skew(self, seconds: float) -> None:
        self.clock.skew = seconds


class _Strikes:
    """Operations of faults on the open connections."""

    def __init__(self, connections: set[Connection]) -> None:
        self._connections = connections

    def drop(self, entity: str | None) -> int:
        chosen = [c for c in self._connections if entity is None or c.has_link_to(entity)]
        for connection in chosen:
            connection.drop()
        return len(chosen)

    def freeze(self, seconds: float | None) -> None:
        for connection in list(self._connections):
            connection.freeze(seconds)

    def thaw(self) -> None:
        for connection in list(self._connections):
            connection.thaw()

    def close(self, condition: str | None, description: str) -> int:
        chosen = list(self._connections)
        for connection in chosen:
            connection.close(condition, description)
        return len(chosen)
