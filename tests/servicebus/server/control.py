"""Control port for other processes: faults and counters as one JSON object a line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from dataclasses import asdict
from typing import Any

from tests.servicebus.server import emulator
from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.faults import Fault
from tests.servicebus.server.message import Message
from tests.servicebus.server.server import ServiceBusServer

_OF_FAULTS = ("add", "busy", "clear", "close", "detach", "drop", "freeze", "lose_locks", "mute", "skew", "slow", "thaw")
_OF_THE_SERVER = ("start", "stop", "clear")
_SECTIONS = {"properties", "application_properties", "body", "footer"}


class Control:
    """Control protocol: calls are `{"call": NAME, "arguments": {...}}`, answers `{"result": ...}` or `{"error": TEXT}`.

    Names: those of Faults as `faults.NAME`; `server.start`, `server.stop`, `server.clear`; `counters`; `contents` with
    a `path`. `create` adds entities from a `document` in the emulator's form. `key` adds an access key with a `name`, a
    `key`, its `rights` and an optional `entity`. `hits` returns how often each added fault struck. `store` stores a
    message unchanged at a `path`, with a `message_id`, a `session_id` and optional `properties`,
    `application_properties`, `body` and `footer`: whole sections in base 64.
    """

    def __init__(self, server: ServiceBusServer) -> None:
        self._server = server
        self._added: list[Fault] = []
        self._listener: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def start(self) -> int:
        """Start listening. Returns the port."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for writer in self._clients.values():
            writer.close()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients[task] = writer
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    call = json.loads(line)
                    answer = {"result": await self._call(call["call"], call.get("arguments") or {})}
                except Exception as problem:
                    answer = {"error": f"{type(problem).__name__}: {problem}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        del self._clients[task]
        writer.close()

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        room, _, verb = name.rpartition(".")
        if room == "faults" and verb in _OF_FAULTS:
            result = getattr(self._server.faults, verb)(**arguments)
            if isinstance(result, Fault):
                self._added.append(result)
                return asdict(result)
            return result
        if room == "server" and verb in _OF_THE_SERVER:
            outcome = getattr(self._server, verb)()
            return await outcome if asyncio.iscoroutine(outcome) else outcome
        if name == "counters":
            return self._server.counters.to_json() | {"open_connections": self._server.open_connections}
        if name == "contents":
            return asdict(self._server.queue(arguments["path"]).contents())
        if name == "store":
            return self._store(**arguments)
        if name == "create":
            return self._server.namespace.create(*emulator.read(arguments["document"]))
        if name == "key":
            rights = frozenset(arguments["rights"])
            key = AccessKey(arguments["name"], arguments["key"], rights, arguments.get("entity"))
            return self._server.keys.append(key)
        if name == "hits":
            return [fault.hits for fault in self._added]
        raise LookupError(f"no call {name!r}")

    def _store(self, path: str, message_id: str, session_id: str | None = None, **sections: str) -> int:
        """Store a message in a queue; its sections are not parsed."""
        message = Message(b"")
        message.message_id, message.session_id = message_id, session_id
        for name in _SECTIONS & sections.keys():
            setattr(message, name, base64.b64decode(sections[name]))
        return self._server.queue(path).accept(message)
