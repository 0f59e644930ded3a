"""Operations of the writer, by kind, and the subjects that are given up when one cannot be applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bridge.engines.embedded.dispatch import Lease
from bridge.engines.embedded.reply import Reply
from bridge.engines.embedded.store import Task, Timer


class Kind(StrEnum):
    """Kinds of operations. The values are labels of a metric."""

    CALL = "call"
    """A client's request."""
    TURN = "turn"
    """An orchestrator's answer."""
    ACTIVITY = "activity"
    """An activity's result."""
    BATCH = "batch"
    """The results of an entity's operations."""
    RETURN = "return"
    """Work that a worker gave back, lost, or held too long."""
    WORKER = "worker"
    """A worker that comes or goes, a caller that no longer waits."""
    TIMER = "timer"
    """A timer, delayed start or delayed signal that is due."""
    CLOCK = "clock"
    """A look at all timers, since the wall clock was set."""
    MOVE = "move"
    """A consequence of the last transaction."""
    PURGE = "purge"
    """A further step of a long purge."""
    RETENTION = "retention"
    """A look for instances that are over the limits, and the removal of one."""
    HANDOUT = "handout"
    """A work item for a worker."""
    RECOVERY = "recovery"
    """Something that was found in the file at the start."""


@dataclass(frozen=True, slots=True)
class Queued:
    """The operations that an entity has not processed."""

    entity: str


@dataclass(frozen=True, slots=True)
class Orchestration:
    """An instance, by its key."""

    key: int


Subject = Lease | Timer | Task | Queued | Orchestration


@dataclass(slots=True, eq=False)
class Operation:
    """One operation. `subject` is given up with it when it cannot be applied; `reply` is its caller's."""

    kind: Kind
    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    reply: Reply | None = None
    subject: Subject | None = None
