"""Job kind `replay`: brings dead letters into the replay queues of their sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bridge.brokers.base import Broker
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message, Position
from bridge.core.stored_message import ReplayOf
from bridge.core.system_names import replay_key
from bridge.dead_letters.state_machine import DeadLetterState, Mark
from bridge.dead_letters.store import DeadLetterRef
from bridge.engines.base import Engine
from bridge.jobs.kind import ItemResult, Job, Result, TryLater
from bridge.replay.original import missing_parts, stored_original
from bridge.replay.reading import read_letters
from bridge.replay.state_machine import ReplayLimits
from bridge.replay.store import ReplayStore

REPLAY_KIND = "replay"

_FULL_SECONDS = 0.05


class States(Protocol):
    """States of dead letters, as `bridge.dead_letters.store.DeadLetterStates` has them."""

    async def take(self, job: str, refs: Sequence[DeadLetterRef]) -> Mapping[DeadLetterRef, Mark]: ...

    async def send(self, operation: str, refs: Sequence[DeadLetterRef], value: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """Source that executes replayed messages.

    dead_letter_topic: topic of the next dead letter, with `{topic}` for the origin; empty where the broker keeps the
    dead letter until its message succeeds.
    topics: topics that the source reads now.
    max_replays: replays that may fail before `force` is needed.
    """

    name: str
    broker: str
    dead_letter_topic: str
    has_groups: bool
    max_replays: int
    limits: ReplayLimits
    reads: Callable[[str], bool]
