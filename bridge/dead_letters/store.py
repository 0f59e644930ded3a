"""States of dead letters on an engine: the entity of one block of offsets, and its client."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import DEAD_LETTER_STATES
from bridge.dead_letters.state_machine import BlockStates, DeadLetterMark
from bridge.dead_letters.topic_states import DeadLetterRef, TopicStates, id_prefix, stored_topic_states, topic_states
from bridge.engines.base import Engine, StoredEntities
from bridge.engines.entity_reads import latest, read_effect

_READ = "read the states of dead letters"

_AT_ONCE = 16
"""Entities that are read or signalled side by side."""


def dead_letter_states_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name DEAD_LETTER_STATES."""

    def dead_letters(ctx: EntityContext, value: Any) -> None:
        states = BlockStates(ctx.get_state())
        states.apply(ctx.operation, value or {})
        ctx.set_state(states.to_json())

    dead_letters.__name__ = DEAD_LETTER_STATES
    return dead_letters


def signals(
    operation: str, refs: Iterable[DeadLetterRef], value: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and values of the signals that apply an operation to dead letters.

    An entity that ends a replay sends them with its own commit: `ctx.signal_entity(EntityInstanceId(
    DEAD_LETTER_STATES, key), "replayed", value)`.

    operation: see `BlockStates.apply`.
    value: `job`, and for some operations `at`, `by` and `reason`.
    """
    blocks: dict[str, list[DeadLetterRef]] = {}
    for ref in refs:
        blocks.setdefault(ref.key, []).append(ref)
    for key, members in blocks.items():
        if operation in ("take", "drop"):
            yield key, {**value, "items": [(each.offset, each.written) for each in members]}
        else:
            yield key, {**value, "offsets": [each.offset for each in members]}


class DeadLetterStates:
    """States of dead letters on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def topic(self, broker: str, topic: str) -> TopicStates:
        """Read all states of a topic. An embedded engine is read from its file, also while no process hosts it."""
        if isinstance(self._engine, StoredEntities):
            return await stored_topic_states(self._engine, broker, topic)
        query = EntityQuery(id_prefix(broker, topic), include_state=True)
        what = f"read the states of the dead letters of {topic}"
        found = await self._engine.client.get_all_entities(query, what=what)
        states = {f"@{DEAD_LETTER_STATES}@{each.id.key}": each.get_state() or "null" for each in found}
        return topic_states(broker, topic, states)

    async def read(self, refs: Iterable[DeadLetterRef]) -> dict[DeadLetterRef, DeadLetterMark]:
        """Read the marks of dead letters. Open ones are left out."""
        wanted = list(refs)
        return await self._marks(wanted, self._block)

    async def take(
        self, job: str, refs: Iterable[DeadLetterRef], *, by: str = "", at: float | None = None
    ) -> dict[DeadLetterRef, DeadLetterMark]:
        """Take open dead letters for a job, and return the marks of all.

        The job has those whose mark is REPLAYING with its id; others keep the mark that they had. A repeated call
        returns the same. Raises: EngineUnavailable when no worker has processed the operations in time.
        """
        return await self.apply("take", refs, {"job": job, "by": by, "at": _now(at)})

    async def drop(
        self, job: str, refs: Iterable[DeadLetterRef], *, by: str, reason: str, at: float | None = None
    ) -> dict[DeadLetterRef, DeadLetterMark]:
        """Drop open dead letters, and return the marks of all. Raises: as `take`."""
        return await self.apply("drop", refs, {"job": job, "by": by, "reason": reason, "at": _now(at)})

    async def apply(
        self, operation: str, refs: Iterable[DeadLetterRef], value: Mapping[str, Any]
    ) -> dict[DeadLetterRef, DeadLetterMark]:
        """Apply an operation, wait for it, and return the marks that the dead letters have then. Raises: as `take`."""
        wanted, token = list(refs), secrets.token_hex(6)
        await self.send(operation, wanted, {**value, "token": token})

        def find(state: Any) -> BlockStates | None:
            block = BlockStates(state)
            # Other jobs may change the same dead letters: only the token shows that the marks are from after the
            # operation. A block without marks has lost its tokens, and has nothing to restore
            applied = block.has_applied(token) or (not len(block) and operation in ("restore", "open"))
            return block if applied else None

        async def read(entity: EntityInstanceId) -> BlockStates:
            late = "the engine has the change of the dead letters, but no worker has processed it; is one running?"
            return await read_effect(self._engine.client, entity, _READ, late, find)

        return await self._marks(wanted, read)

    async def send(self, operation: str, refs: Iterable[DeadLetterRef], value: Mapping[str, Any]) -> None:
        """Send an operation; return when the engine has durably accepted it."""
        sending = asyncio.Semaphore(_AT_ONCE)

        async def send(key: str, given: dict[str, Any]) -> None:
            entity = EntityInstanceId(DEAD_LETTER_STATES, key)
            async with sending:
                await self._engine.client.signal_entity(entity, operation, given, what=f"dead letters: {operation}")

        await asyncio.gather(*(send(*each) for each in signals(operation, refs, value)))

    async def _marks(
        self, refs: list[DeadLetterRef], read: Callable[[EntityInstanceId], Awaitable[BlockStates]]
    ) -> dict[DeadLetterRef, DeadLetterMark]:
        reading = asyncio.Semaphore(_AT_ONCE)

        async def block(key: str) -> tuple[str, BlockStates]:
            async with reading:
                return key, await read(EntityInstanceId(DEAD_LETTER_STATES, key))

        keys = {ref: ref.key for ref in refs}
        states = dict(await asyncio.gather(*map(block, dict.fromkeys(keys.values()))))
        marks = ((ref, states[key].mark(ref.offset, ref.written)) for ref, key in keys.items())
        return {ref: mark for ref, mark in marks if mark is not None}

    async def _block(self, entity: EntityInstanceId) -> BlockStates:
        state, _ = await latest(self._engine.client, entity, _READ)
        return BlockStates(state)


def _now(at: float | None) -> float:
    return time.time() if at is None else at
