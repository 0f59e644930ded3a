"""Readiness of the bridge, decided from observed numbers. Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from bridge.core.states import (
    READY,
    CandidateState,
    ComponentState,
    DaemonState,
    EngineState,
    QuarantineState,
    SagaState,
    SourceState,
    WorkerState,
    WorkflowState,
)

PartKind = Literal["engine", "worker", "workflows", "quarantine", "sagas", "candidate"]
_PARTS: dict[PartKind, tuple[ComponentState, ComponentState]] = {
    "engine": (EngineState.UP, EngineState.AWAY),
    "worker": (WorkerState.UP, WorkerState.STUCK),
    "workflows": (WorkflowState.UP, WorkflowState.INCOMPATIBLE),
    "quarantine": (QuarantineState.UP, QuarantineState.ORPHANED),
    "sagas": (SagaState.UP, SagaState.FAILED),
    "candidate": (CandidateState.ACTIVE, CandidateState.FALLBACK),
}
"""States of a usable and of an unusable part, by kind."""


@dataclass(frozen=True, slots=True)
class SourceReading:
    """Observed state of one source.

    settled: deliveries settled or abandoned since the start. Its growth is progress.
    waiting: records to be processed: in flight, or behind (lag).
    holds: outages that hold the source, from cause to sentence.
    probing: reason why its dead letters are limited.
    dead: reason why its tasks have ended by a bug.
    throttled: routes whose commands wait for a limit, with a sentence.
    paused: sentence about a pause by a person.
    """

    name: str
    settled: int
    waiting: int
    holds: Mapping[str, str] = field(default_factory=dict)
    probing: str | None = None
    dead: str | None = None
    throttled: Mapping[str, str] = field(default_factory=dict)
    paused: str | None = None


@dataclass(frozen=True, slots=True)
class PartReading:
    """Observed state of an engine, of its workflows, worker, quarantine or sagas, or of a candidate.

    away: reason why the part cannot be used; None when it can.
    note: detail shown while the part is up.
    """

    kind: PartKind
    name: str
    away: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """State of one component. detail: a sentence for a person, without payload."""

    kind: Literal["source"] | PartKind
    name: str
    state: ComponentState
    detail: str = ""

    @property
    def ready(self) -> bool:
        return self.state in READY


@dataclass(frozen=True, slots=True)
class Readiness:
    """Answer of `/readyz`: ready when the bridge runs and every component is ready."""

    phase: DaemonState
    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        return self.phase == DaemonState.RUNNING and all(check.ready for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Answer as JSON types."""
        return {
            "ready": self.ready,
            "phase": self.phase,
            "components": [
                {
                    "kind": check.kind,
                    "name": check.name,
                    "ready": check.ready,
                    "state": check.state,
                    **({"detail": check.detail} if check.detail else {}),
                }
                for check in self.checks
            ],
        }


class Health:
    """Progress of each source over time, which separates a stuck source from a slow one.

    A source is stuck when it has waiting records in two calls of `assess` that are `stuck_after` seconds or more apart,
    and no call in between saw progress or no waiting records.
    """

    def __init__(self, stuck_after: float) -> None:
        self._stuck_after = stuck_after
        self._seen: dict[str, tuple[int, float | None]] = {}

    def assess(
        self,
        sources: Iterable[SourceReading],
        parts: Iterable[PartReading],
        now: float,
        phase: DaemonState = DaemonState.RUNNING,
    ) -> Readiness:
        """Judge one set of readings. now: monotonic seconds, never smaller than in the last call."""
        checks = [self._judge(source, now) for source in sources]
        for part in parts:
            up, away = _PARTS[part.kind]
            checks.append(
                Check(part.kind, part.name, up, part.note)
                if part.away is None
                else Check(part.kind, part.name, away, part.away)
            )
        return Readiness(phase, tuple(checks))

    def _judge(self, source: SourceReading, now: float) -> Check:
        def check(state: SourceState, detail: str = "") -> Check:
            return Check("source", source.name, state, detail)

        # An idle, held or throttled source need not make progress; its time starts anew afterwards
        calm = not source.holds and not source.throttled and source.probing is None and source.paused is None
        expected = source.waiting > 0 and calm
        settled, since = self._seen.get(source.name, (source.settled, None))
        if since is None or settled != source.settled:
            since = now
        self._seen[source.name] = (source.settled, since if expected else None)
        if source.dead is not None:
            return check(SourceState.DEAD, source.dead)
        if source.paused is not None:
            return check(SourceState.PAUSED, source.paused)
        if source.holds:
            return check(SourceState.HELD, "; ".join(f"{cause}: {text}" for cause, text in source.holds.items()))
        if source.probing is not None:
            return check(SourceState.PROBING, source.probing)
        if source.throttled:
            what = "; ".join(f"route {route}: {text}" for route, text in source.throttled.items())
            return check(SourceState.THROTTLED, what)
        if not source.waiting:
            return check(SourceState.IDLE)
        idle_for = now - since
        if idle_for >= self._stuck_after:
            return check(SourceState.STUCK, f"{source.waiting} records wait, and none was settled for {idle_for:.0f} s")
        return check(SourceState.CONSUMING, f"{source.waiting} records wait")
