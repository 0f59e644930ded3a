"""Number and size of all messages that wait on one engine, early and quarantined, and their limit."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from bridge.core.errors import EngineError, WaitingFull
from bridge.core.system_names import EARLY_MESSAGES, QUARANTINE
from bridge.engines.base import Engine
from bridge.engines.errors import translate
from bridge.engines.response_limits import one_response

_PAGE = 100
"""Entities that are read at once; the embedded engine sends fewer when they are large."""


@dataclass(frozen=True, slots=True)
class WaitingCount:
    """Number of messages that wait on an engine, and bytes of their JSON. early: number of early messages."""

    early: int = 0
    messages: int = 0
    bytes: int = 0


class WaitingTotals:
    """Waiting messages of one engine as known to this process: the last count, and its own changes since.

    Each process knows the changes of other processes only up to its last count. Together they may exceed the limit by
    the messages that they add between two counts. Methods may be called from any thread.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._counted = WaitingCount()
        self._since = [0, 0]
        """Messages and bytes added since the last count began."""
        self._during: list[int] | None = None
        """Messages and bytes added since the current count began; None while none runs."""
        self._admitted = [0, 0]
        self.refused = 0

    @property
    def messages(self) -> int:
        return max(0, self._counted.messages + self._since[0])

    @property
    def bytes(self) -> int:
        return max(0, self._counted.bytes + self._since[1])

    @property
    def early(self) -> int:
        """Number of early messages at the last count."""
        return self._counted.early

    def admit(self, size: int) -> None:
        """Reserve room for one more message. Raises: WaitingFull."""
        with self._lock:
            if self.messages >= self._max_messages or self.bytes + size > self._max_bytes:
                self.refused += 1
                raise WaitingFull(
                    f"{self.messages} messages of {self.bytes} bytes wait on the engine; at most "
                    f"{self._max_messages} messages and {self._max_bytes} bytes may"
                )
            self._admitted[0] += 1
            self._admitted[1] += size
            self._add(1, size)

    def changed(self, messages: int, size: int) -> None:
        """Record messages that were added to the waiting ones, or have left them."""
        with self._lock:
            self._add(messages, size)

    async def count(self, engine: Engine) -> None:
        """Count the waiting messages again. Raises: EngineError."""
        with self._lock:
            self._during = [0, 0]
        early = messages = size = backlog = 0
        for name, part in ((EARLY_MESSAGES, "items"), (QUARANTINE, "held")):
            with one_response(keeps=False):
                async for entity in _entities(engine.client, name):
                    try:
                        found = json.loads(entity.serializedState.value or "null") or {}
                        messages += len(found.get(part, ()))
                        size += int(found.get("size", 0))
                    except (ValueError, TypeError, AttributeError) as error:
                        raise EngineError("count waiting messages: the state of an entity cannot be read") from error
                    backlog += entity.backlogQueueSize
            if name == EARLY_MESSAGES:
                early = messages
        with self._lock:
            # Each unprocessed operation may add a message of average size
            usual = self._admitted[1] // max(1, self._admitted[0])
            self._counted = WaitingCount(early, messages + backlog, size + backlog * usual)
            self._since = self._during
            self._during = None

    def _add(self, messages: int, size: int) -> None:
        for sums in (self._since, self._during):
            if sums is not None:
                sums[0] += messages
                sums[1] += size


async def _entities(client: AsyncTaskHubGrpcClient, name: str) -> AsyncIterator[pb.EntityMetadata]:
    """All entities of a name, page by page, because their states may be large together. Raises: EngineError."""
    token: StringValue | None = None
    while True:
        query = pb.EntityQuery(
            instanceIdStartsWith=StringValue(value=f"@{name}@"),
            includeState=True,
            includeTransient=True,
            pageSize=Int32Value(value=_PAGE),
            continuationToken=token,
        )
        try:
            # The client's own method collects all pages before it returns
            page = await client._get_stub().QueryEntities(pb.QueryEntitiesRequest(query=query))
        except Exception as error:
            raise translate(error, what="count waiting messages") from error
        for entity in page.entities:
            yield entity
        if page.continuationToken.value in ("", "" if token is None else token.value):
            return
        token = page.continuationToken
