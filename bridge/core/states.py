"""States of deliveries, messages, sources, partitions, engines and the daemon. Pure.

Documents, `/readyz`, the command line, logs and metrics use these words and no others.
"""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of a settled delivery. Each delivery has exactly one."""

    EXECUTED = "executed"
    """The engine has accepted the commands."""
    DUPLICATE = "duplicate"
    """The engine had executed the commands before."""
    IGNORED = "ignored"
    """A rule or the source says that nothing happens."""
    EARLY = "early"
    """A command waits on its engine for the start of its instance."""
    QUARANTINED = "quarantined"
    """The message waits on an engine, with later ones of its key, for a release or for the end of a delay."""
    DEAD_LETTERED = "dead_lettered"
    """A copy with the cause is a dead letter."""


class MessageState(StrEnum):
    """State of a message."""

    QUEUED = "queued"
    """Received, and waiting for its turn."""
    RETRYING = "retrying"
    """The last attempt failed and is repeated."""
    EARLY = "early"
    """Waiting on the engine for the start of its instance."""
    QUARANTINED = "quarantined"
    """Waiting on the engine, with its ordering key."""
    SETTLED = "settled"
    """Completed or dead-lettered."""


class SourceState(StrEnum):
    """State of a source."""

    IDLE = "idle"
    """There is nothing to do."""
    CONSUMING = "consuming"
    """Records wait, and some were settled lately."""
    THROTTLED = "throttled"
    """Commands wait for a limit of their route, or starts for one of their engine."""
    HELD = "held"
    """An outage of a broker, an engine or a registry, or a stopped partition, holds the source."""
    PAUSED = "paused"
    """A person has paused the source."""
    PROBING = "probing"
    """A route has exceeded the dead-letter limit: one dead letter is tried per pause."""
    STUCK = "stuck"
    """Records wait, nothing holds them, and none was settled for a time."""
    DEAD = "dead"
    """A task of the source has ended by a bug."""


class PartitionState(StrEnum):
    """State of an assigned partition."""

    CONSUMING = "consuming"
    STOPPED = "stopped"
    """A message that cannot be read stops it, until a person decides."""


class EngineState(StrEnum):
    """State of an engine."""

    UP = "up"
    AWAY = "away"
    """The engine does not answer, or refuses the bridge."""


class WorkerState(StrEnum):
    """State of the worker of an engine in this process."""

    UP = "up"
    STUCK = "stuck"
    """All threads of a pool are busy with the same work for a time while other work waits."""


class ProcessState(StrEnum):
    """State of a worker process."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    """Ended unexpectedly; the successor starts soon."""
    STOPPED = "stopped"
    JOINED = "joined"
    """Process of a `bridge worker` that has joined. It vanishes with its end."""


class WorkflowState(StrEnum):
    """State of the workflow code of an engine."""

    UP = "up"
    INCOMPATIBLE = "incompatible"
    """Instances failed because their code was changed while they ran."""


class QuarantineState(StrEnum):
    """State of the quarantined keys on an engine."""

    UP = "up"
    ORPHANED = "orphaned"
    """The configuration has no source that releases some of the keys."""


class SagaState(StrEnum):
    """State of the sagas on an engine, where `ops.unready_on` asks for it."""

    UP = "up"
    FAILED = "failed"
    """Sagas failed or could not be compensated, and still exist."""


class CandidateState(StrEnum):
    """State of the candidate of `rules`."""

    ACTIVE = "active"
    """The candidate decides about its share of the ordering keys."""
    FALLBACK = "fallback"
    """The present rules decide about all ordering keys again: too many failures, or a person has aborted it."""


class DeadLetterState(StrEnum):
    """State of a dead letter."""

    OPEN = "open"
    """A person has to decide about it."""
    REPLAYING = "replaying"
    """A job has taken it and replays it."""
    REPLAYED = "replayed"
    """A job has replayed it; the bridge has executed it, or had executed it before."""
    DROPPED = "dropped"
    """A person has dropped it. It can be restored."""
    RETURNED = "returned"
    """A job has replayed it and it failed again: a new dead letter continues it."""


class JobState(StrEnum):
    """State of a job."""

    SELECTING = "selecting"
    """The selection of its items is not complete."""
    RUNNING = "running"
    """Items are worked on, or the job follows waiting ones."""
    PAUSED = "paused"
    """A person has paused the job."""
    STOPPED = "stopped"
    """Too many items failed, or the work met an error: a person resumes or aborts the job."""
    ABORTED = "aborted"
    """A person has aborted the job, or its selection did not finish."""
    DONE = "done"
    """Every item has a result."""


class DaemonState(StrEnum):
    """State of a daemon."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"


STATES: dict[str, type[StrEnum]] = {
    "delivery": Outcome,
    "dead letter": DeadLetterState,
    "message": MessageState,
    "source": SourceState,
    "partition": PartitionState,
    "engine": EngineState,
    "worker": WorkerState,
    "workflows": WorkflowState,
    "quarantine": QuarantineState,
    "sagas": SagaState,
    "candidate": CandidateState,
    "job": JobState,
    "daemon": DaemonState,
}
"""States by their subject. `/readyz` has components of source, engine, worker, workflows, quarantine, sagas and
candidate."""

ComponentState = SourceState | EngineState | WorkerState | WorkflowState | QuarantineState | SagaState | CandidateState
"""State of a component of `/readyz`."""

READY: frozenset[ComponentState] = frozenset(
    {
        SourceState.IDLE, SourceState.CONSUMING, SourceState.THROTTLED, SourceState.PAUSED, EngineState.UP,
        WorkerState.UP, WorkflowState.UP, QuarantineState.UP, SagaState.UP,
        CandidateState.ACTIVE, CandidateState.FALLBACK,
    }
)  # fmt: skip
"""States of components that can do their work."""
