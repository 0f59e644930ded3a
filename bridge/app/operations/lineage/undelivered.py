"""Undelivered messages: those that wait on the engine, and those that were dead-lettered after a wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from durabletask.client import OrchestrationQuery, OrchestrationState
from durabletask.entities import EntityInstanceId

from bridge.app.connection import payload
from bridge.core.message import Position
from bridge.core.origin import is_named
from bridge.core.provenance import current_reason
from bridge.core.states import MessageState, Outcome
from bridge.core.system_names import DEAD_LETTER_IDS, EARLY_MESSAGES, QUARANTINE
from bridge.early_messages.operations import EarlyMessageOperations
from bridge.engines.base import Engine
from bridge.quarantine.operations import QuarantineOperations
from bridge.system.clock import stamp
from bridge.waiting.operations import WaitingMessage

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class UndeliveredInfo:
    """Message that reached no instance.

    state, at: the state, and the time (RFC 3339) since which the message waits or was dead-lettered.
    instance_id: instance that the message waited for; None for a quarantined message.
    key: its quarantined key.
    until: end of the wait.
    position: position of the message in its broker.
    topic: topic of the dead letter.
    """

    state: Literal[MessageState.EARLY, MessageState.QUARANTINED, Outcome.DEAD_LETTERED]
    at: str
    message_id: str
    source: str
    route: str | None
    instance_id: str | None
    reason: str
    detail: str
    key: str | None = None
    until: str | None = None
    position: str | None = None
    topic: str | None = None

    def is_named(self, wanted: str) -> bool:
        """True when a person means this message."""
        return is_named(self.message_id, self.position, wanted) or (self.key is not None and self.key == wanted)


async def every(engine: Engine, prefix: str | None, since: datetime | None) -> list[UndeliveredInfo]:
    """Waiting messages, and those dead-lettered after `since`. prefix: prefix of instance ids. Raises: EngineError."""
    waiting = await EarlyMessageOperations(engine).list(prefix)
    if prefix is None:
        waiting = sorted([*waiting, *await QuarantineOperations(engine).list()], key=lambda one: one.since)
    found = [each for one in waiting for each in waits(one)]
    query = OrchestrationQuery(
        created_time_from=since,
        instance_id_prefix=DEAD_LETTER_IDS,
        fetch_inputs_and_outputs=True,
        max_instance_count=_PAGE,
    )
    states = await engine.client.get_all_orchestration_states(query, what="list dead letters")
    given_up = [each for state in states for each in dead_lettered(state)]
    return found + [each for each in given_up if (each.instance_id or "").startswith(prefix or "")]


async def of_entity(engine: Engine, entity_id: str) -> list[UndeliveredInfo]:
    """Messages that an entity keeps. Raises: EngineError."""
    name, _, key = entity_id[1:].partition("@")
    found = await engine.client.find_entity(EntityInstanceId(name, key), what="read waiting messages")
    if found is None or name not in (EARLY_MESSAGES, QUARANTINE):
        return []
    operations = EarlyMessageOperations(engine) if name == EARLY_MESSAGES else QuarantineOperations(engine)
    return [each for one, _ in operations.of(found) for each in waits(one)]


def waits(one: WaitingMessage) -> Iterable[UndeliveredInfo]:
    """State of a message that waits."""
    if one.message_id is not None or one.key is not None:
        state: Literal[MessageState.EARLY, MessageState.QUARANTINED]
        state = MessageState.QUARANTINED if one.instance_id is None else MessageState.EARLY
        yield UndeliveredInfo(
            state, one.since, one.message_id or one.position, one.source, one.route, one.instance_id, one.reason,
            one.detail, one.key, one.until, one.position,
        )  # fmt: skip


def dead_lettered(state: OrchestrationState) -> Iterable[UndeliveredInfo]:
    """State of the message that an orchestration dead-letters; nothing for another orchestration."""
    document = payload(state.serialized_input)
    if not state.instance_id.startswith(DEAD_LETTER_IDS) or not isinstance(document, dict):
        return
    item = document["item"]
    message = item["letter"]
    position = str(Position(*message["at"]))
    instance_id = item.get("command", {}).get("instance_id")
    yield UndeliveredInfo(
        Outcome.DEAD_LETTERED, stamp(state.created_at), item.get("id") or message.get("id") or position,
        message["source"], item.get("route"), instance_id, current_reason(document["reason"]), document["detail"],
        position=position, topic=message["topic"],
    )  # fmt: skip
