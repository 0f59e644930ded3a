"""Replay queues on an engine: client of their entities."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId

from bridge.core.stored_message import StoredMessage
from bridge.core.system_names import REPLAY
from bridge.engines.base import Engine
from bridge.engines.message_sealer import MessageSealer
from bridge.waiting.claim import Claim


@dataclass(frozen=True, slots=True)
class QueuedReplay:
    """One message in a replay queue. mark: its identity in the queue."""

    mark: str
    item: Mapping[str, Any]
    sealer: MessageSealer

    @property
    def job(self) -> str:
        """Id of the job that has added the message."""
        return str(self.item["job"])

    @property
    def id(self) -> str:
        """Identity across jobs: a dead letter that was restored may be replayed again."""
        return f"{self.job}/{self.mark}"

    @property
    def message(self) -> StoredMessage:
        """Decrypted message. Raises: EngineError when it cannot be decrypted."""
        return StoredMessage.from_json(self.sealer.open(self.item)["letter"])


@dataclass(frozen=True, slots=True)
class QueueState:
    """Replay queue at one moment.

    key: key of its entity.
    topic, partition: origin of its messages; None if unknown.
    messages: in order.
    size: bytes of the messages as JSON.
    unsettled: operations wait to be processed. An engine may leave out those that a worker is processing: their effect
    changes the time that `ReplayStore.list` shows.
    added: last page of each job, and the marks of its messages that were added, in or no longer in the queue.
    """

    key: str
    topic: str | None = None
    partition: int | None = None
    messages: Sequence[QueuedReplay] = ()
    size: int = 0
    claim: Claim = field(default_factory=Claim)
    unsettled: bool = False
    added: Mapping[str, tuple[int, Collection[str]]] = field(default_factory=dict)

    def has_added(self, job: str, page: int, mark: str) -> bool:
        """True if the queue has processed the addition of a message of a job."""
        last, marks = self.added.get(job, (-1, ()))
        return page < last or (page == last and mark in marks)


class ReplayStore:
    """Replay queues on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def list(self) -> dict[str, datetime | None]:
        """Times of the last change of all replay queues, by key; None for one with operations that wait."""
        query = EntityQuery(f"@{REPLAY}@", include_state=False, include_transient=True)
        found = await self.engine.client.get_all_entities(query, what="list replay queues")
        return {each.id.key: None if each.backlog_queue_size else each.last_modified for each in found}

    async def load(self, key: str) -> QueueState:
        """Read a replay queue."""
        entity = EntityInstanceId(REPLAY, key)
        found = await self.engine.client.find_entity(entity, what="read a replay queue")
        text, unsettled = (None, False) if found is None else (found.get_state(), bool(found.backlog_queue_size))
        state = _parsed(text or "null")
        if state is None:
            return QueueState(key, unsettled=unsettled)
        sealer = self.engine.messages
        messages = [QueuedReplay(item["mark"], item, sealer) for item in state["items"]]
        added = {job: (page, marks) for job, (page, marks, _) in state["jobs"].items()}
        return QueueState(
            key, state["topic"], state["partition"], messages, state["size"], Claim.of(state), unsettled, added
        )

    async def send(self, key: str, operation: str, value: Mapping[str, Any]) -> None:
        """Send an operation durably."""
        entity = EntityInstanceId(REPLAY, key)
        await self.engine.client.signal_entity(entity, operation, value, what=f"replay queue: {operation}")

    def item(self, mark: str, message: StoredMessage) -> dict[str, Any]:
        """Message as an item of a queue, encrypted where the engine does not encrypt."""
        item = self.engine.messages.seal({"mark": mark, "letter": message.to_json()})
        return item | {"size": len(json.dumps(item, separators=(",", ":")))}


def _parsed(text: str) -> Any:
    """JSON value of a state, which is large: orjson is faster, but refuses half of a surrogate pair."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
