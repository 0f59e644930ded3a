"""States of the dead letters of a topic, and the positions of dead letters.

The module does not import the SDK: a command that only reads starts faster without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from bridge.core.system_names import (
    DEAD_LETTER_BLOCK,
    DEAD_LETTER_STATES,
    dead_letter_block,
    dead_letter_block_key,
    dead_letter_prefix,
)
from bridge.dead_letters.state_machine import BlockStates, DeadLetterMark, DeadLetterState
from bridge.engines.base import StoredEntities

_ID = re.compile(r"(.+)/([0-9]{1,10})@([0-9]{1,19})", re.DOTALL)


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


class TopicStates:
    """States of the dead letters of one topic, as read at one moment."""

    def __init__(self, blocks: Mapping[tuple[int, int], BlockStates]) -> None:
        """Create the states. blocks: by partition and first offset."""
        self.blocks = blocks

    def mark(self, partition: int, offset: int, written: float | None = None) -> DeadLetterMark | None:
        """Mark of a dead letter; None when it is open."""
        block = self.blocks.get((partition, offset - offset % DEAD_LETTER_BLOCK))
        return None if block is None else block.mark(offset, written)

    def state(self, partition: int, offset: int, written: float | None = None) -> DeadLetterState:
        """State of a dead letter."""
        mark = self.mark(partition, offset, written)
        return DeadLetterState.OPEN if mark is None else mark.state


def id_prefix(broker: str, topic: str) -> str:
    """Beginning of the ids of the entities with the states of a topic."""
    return f"@{DEAD_LETTER_STATES}@{dead_letter_prefix(broker, topic)}"


def topic_states(broker: str, topic: str, states: Mapping[str, str]) -> TopicStates:
    """States of a topic. states: JSON states of entities by id, like `StoredEntities.entity_states`."""
    prefix, blocks = dead_letter_prefix(broker, topic), {}
    for id_, text in states.items():
        where = dead_letter_block(prefix, id_.removeprefix(f"@{DEAD_LETTER_STATES}@"))
        state = json.loads(text)
        if where is not None and state is not None:
            blocks[where] = BlockStates(state)
    return TopicStates(blocks)


async def stored_topic_states(stored: StoredEntities, broker: str, topic: str) -> TopicStates:
    """States of a topic in the file of an engine. Raises: as `StoredEntities.entity_states`."""
    return topic_states(broker, topic, await stored.entity_states(id_prefix(broker, topic)))
