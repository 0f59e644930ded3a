"""States of dead letters on an engine: the entity of one block of offsets, and its client."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from durabletask.client import EntityQuery
from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import (
    DEAD_LETTER_BLOCK,
    DEAD_LETTER_STATES,
    dead_letter_block,
    dead_letter_block_key,
    dead_letter_prefix,
)
from bridge.dead_letters.state_machine import BlockStates, DeadLetterState, Mark
from bridge.engines.base import Engine, StoredEntities
from bridge.engines.entity_reads import latest, read_effect

_ID = re.compile(r"(.+)/([0-9]{1,10})@([0-9]{1,19})", re.DOTALL)

_READ = "read the states of dead letters"

_AT_ONCE = 16
"""Entities that are read or signalled side by side."""


class DeadLetterRef(NamedTuple):
    """Position of one dead letter.

    written: time of the dead letter, seconds since the Unix epoch; None if the broker states none.
    """

    broker: str
    topic: str
    partition: int
    offset: int
    written: float | None = None

    @property
    def key(self) -> str:
        """Key of the entity with its state."""
        return dead_letter_block_key(self.broker, self.topic, self.partition, self.offset)

    @property
    def id(self) -> str:
        """Id of the dead letter in lists and as an item of a job, like `orders.dlq/0@12`."""
        return f"{self.topic}/{self.partition}@{self.offset}"

    @classmethod
    def parse(cls, broker: str, id_: str, written: float | None = None) -> DeadLetterRef:
        """Position of an `id`. Raises: ValueError."""
        found = _ID.fullmatch(id_)
        if found is None:
            raise ValueError(f"{id_[:300]!r} is no id of a dead letter")
        return cls(broker, found[1], int(found[2]), int(found[3]), written)


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


class TopicStates:
    """States of the dead letters of one topic, as read at one moment."""

    def __init__(self, blocks: Mapping[tuple[int, int], BlockStates]) -> None:
        """Create the states. blocks: by partition and first offset."""
        self.blocks = blocks

    def mark(self, partition: int, offset: int, written: float | None = None) -> Mark | None:
        """Mark of a dead letter; None when it is open."""
        block = self.blocks.get((partition, offset - offset % DEAD_LETTER_BLOCK))
        return None if block is None else block.mark(offset, written)

    def state(self, partition: int, offset: int, written: float | None = None) -> DeadLetterState:
        """State of a dead letter."""
        mark = self.mark(partition, offset, written)
        return DeadLetterState.OPEN if mark is None else mark.state


class DeadLetterStates:
    """States of dead letters on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def topic(self, broker: str, topic: str) -> TopicStates:
        """Read all states of a topic. An embedded engine is read from its file, also while no process hosts it."""
        prefix = dead_letter_prefix(broker, topic)
        id_prefix = f"@{DEAD_LETTER_STATES}@{prefix}"
        if isinstance(self._engine, StoredEntities):
            stored = await self._engine.entity_states(id_prefix)
            states = {id_.removeprefix(f"@{DEAD_LETTER_STATES}@"): state for id_, state in stored.items()}
        else:
            query = EntityQuery(id_prefix, include_state=True)
            what = f"read the states of the dead letters of {topic}"
            found = await self._engine.client.get_all_entities(query, what=what)
            states = {each.id.key: each.get_state() or "null" for each in found}
        blocks = {}
        for key, text in states.items():
            where, state = dead_letter_block(prefix, key), json.loads(text)
            if where is not None and state is not None:
                blocks[where] = BlockStates(state)
        return TopicStates(blocks)

    async def read(self, refs: Iterable[DeadLetterRef]) -> dict[DeadLetterRef, Mark]:
        """Read the marks of dead letters. Open ones are left out."""
        wanted = list(refs)
        return await self._marks(wanted, self._block)

    async def take(
        self, job: str, refs: Iterable[DeadLetterRef], *, by: str = "", at: float | None = None
    ) -> dict[DeadLetterRef, Mark]:
        """Take open dead letters for a job, and return the marks of all.

        The job has those whose mark is REPLAYING with its id; others keep the mark that they had. A repeated call
        returns the same. Raises: EngineUnavailable when no worker has processed the operations in time.
        """
        return await self.apply("take", refs, {"job": job, "by": by, "at": _now(at)})

    async def drop(
        self, job: str, refs: Iterable[DeadLetterRef], *, by: str, reason: str, at: float | None = None
    ) -> dict[DeadLetterRef, Mark]:
        """Drop open dead letters, and return the marks of all. Raises: as `take`."""
        return await self.apply("drop", refs, {"job": job, "by": by, "reason": reason, "at": _now(at)})

    async def apply(
        self, operation: str, refs: Iterable[DeadLetterRef], value: Mapping[str, Any]
    ) -> dict[DeadLetterRef, Mark]:
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
    ) -> dict[DeadLetterRef, Mark]:
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
