"""Operations of the writer, by kind, and the subjects that are given up when an operation cannot be applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bridge.sqlite_engine.hub.dispatch import Lease
from bridge.sqlite_engine.model.reply import Reply
from bridge.sqlite_engine.model.work import Task, Timer


class Kind(StrEnum):
    """Kinds of operations. The values are labels of a metric."""

    CALL = "call"
    """Request of a client."""
    TURN = "turn"
    """Response of an orchestrator."""
    ACTIVITY = "activity"
    """Result of an activity."""
    BATCH = "batch"
    """Results of an entity's operations."""
    RETURN = "return"
    """Work that a worker returned, lost, or held too long."""
    WORKER = "worker"
    """Connection or end of a worker, or the end of a caller that waited."""
    TIMER = "timer"
    """Timer, delayed start or delayed signal that is due."""
    CLOCK = "clock"
    """Check of all timers after the wall clock was set."""
    MOVE = "move"
    """Consequence of the last transaction."""
    PURGE = "purge"
    """Further step of a long purge."""
    RETENTION = "retention"
    """Search for instances beyond the retention limits, and the removal of one."""
    HANDOUT = "handout"
    """Work item for a worker."""
    RECOVERY = "recovery"
    """Item found in the file at the start."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Operations that an entity has not processed."""

    entity: str


@dataclass(frozen=True, slots=True)
class Orchestration:
    """Instance, by its key."""

    key: int


Subject = Lease | Timer | Task | Queued | Orchestration


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of the writer.

    subject: given up when the operation cannot be applied.
    reply: reply of its caller.
    """

    kind: Kind
    run: Callable[..., Any]
    args: tuple[Any, ...] = ()
    reply: Reply | None = None
    subject: Subject | None = None
