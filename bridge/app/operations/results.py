"""Types of the results of operations, for the description of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from bridge.app.dead_letters.groups import Newest
from bridge.app.operations.configuration import ConfigurationDifference, StartedConfiguration
from bridge.app.operations.dead_letters.batches import Submitted
from bridge.app.operations.decisions import ExplainedMessage
from bridge.app.operations.entities import Entity
from bridge.app.operations.erase import Finding
from bridge.app.operations.instances.instances import Instance
from bridge.app.operations.keys import KeyInfo
from bridge.app.operations.lineage.trace import Found
from bridge.core.errors import Problem
from bridge.jobs.store import JobItem
from bridge.pipeline.in_flight_search import InFlightMessage
from bridge.waiting.operations import Change, WaitingMessage


class EngineResult(TypedDict):
    name: str
    type: str
    fingerprint: str
    table: int


class CanaryFallback(TypedDict):
    at: float
    by: str
    reason: str


class CanaryResult(TypedDict):
    candidate: str
    state: str
    messages: int
    dead_letters: int
    failed_instances: int
    round: int
    fallback: CanaryFallback | None


class InstanceList(TypedDict):
    """Instances, newest first. all: number that match; null with a cursor. next: cursor of the next part."""

    all: int | None
    next: str | None
    instances: list[Instance]


class CountOfInstances(TypedDict):
    """Number of instances of one name and status, or of one saga and outcome."""

    name: str
    status: str
    count: int


class CauseOfFailure(TypedDict):
    """Failure that ended an instance. instance_id: of the instance whose code or activity failed."""

    instance_id: str
    document: dict[str, Any]


class TimelineEntry(TypedDict):
    """Line of a timeline. after: seconds since the first event."""

    at: str
    after: float
    event: str
    data: Any


class RecordedHistory(TypedDict):
    """History in the form of `bridge instances export`. events: in the JSON form of protobuf."""

    format: str
    version: int
    instance_id: str
    orchestration: str
    events: list[dict[str, Any]]


class MatchedWaiting(TypedDict):
    """Number of instances or keys of a filter, and of their messages."""

    count: int
    messages: int


class WaitingJobSubmitted(MatchedWaiting):
    job: str


class Unprocessed(TypedDict):
    """Number of entities with operations that no worker has processed."""

    count: int


class Started(TypedDict):
    instance_id: str
    message_id: str | None
    repeated: bool


class Raised(TypedDict):
    instance_id: str
    event: str
    message_id: str | None
    repeated: bool


class OneId(TypedDict):
    instance_id: str


class Purged(TypedDict):
    purged: int


class PurgedBy(TypedDict):
    purged: int
    complete: bool


class Signalled(TypedDict):
    entity: str
    key: str
    operation: str
    message_id: str | None


class Cleaned(TypedDict):
    removed: int
    released: int


class Paused(TypedDict):
    source: str
    since: float


class Resumed(TypedDict):
    source: str
    paused: bool
    routes: list[str]


class SourceLine(TypedDict, total=False):
    source: str
    route: str | None
    state: str | None
    pause: float | None
    next: float | None
    seek: list[str]
    since: float
    by: str
    reason: str


class Configured(TypedDict):
    running: int | None
    rate: float | None


class RouteLimit(TypedDict):
    route: str
    running: int | None
    rate: float | None
    until: float
    since: float
    by: str
    reason: str


class RouteLimitLine(RouteLimit):
    engine: str
    daemons: list[str]
    configured: Configured


class ClearedLimit(TypedDict):
    route: str


class Cancelled(TypedDict):
    cancelled: list[str]


class KeyId(TypedDict):
    id: str


class Matched(TypedDict):
    count: int
    reads: int
    cut_off: float


class JobSubmitted(TypedDict):
    job: str
    count: int
    reads: int


class Job(TypedDict):
    """Job. Times are RFC 3339 in UTC; `eta_seconds` is null while it is unknown."""

    job: str
    kind: str
    state: str
    why: str | None
    follows: bool
    selection: str
    arguments: dict[str, Any]
    reason: str
    by: str
    cut_off: str | None
    created: str | None
    began: str | None
    ended: str | None
    rate: float | None
    ramp: list[int]
    stop_after_failures: int | None
    follow: float
    selected: int
    counts: dict[str, int]
    per_second: float | None
    eta_seconds: float | None
    control: dict[str, Any] | None
    next: str | None


class DeadLetterGroup(TypedDict):
    """Dead letters with one cause. first, last: seconds since the Unix epoch."""

    group: str
    reason: str
    error: str
    format: str
    count: int
    first: float | None
    last: float | None
    detail: str
    example: str
    sources: dict[str, int]
    routes: dict[str, int]
    configs: dict[str, int]
    trend: list[int]


class DeadLetterGroups(TypedDict):
    groups: list[DeadLetterGroup]
    gone: list[str]


class ReplayLine(TypedDict):
    """Dead letters of whose replay the same would become. would: in words. outcome: of their deliveries."""

    count: int
    outcome: str
    would: str
    detail: str
    example: str


class ReplayCheck(TypedDict):
    """Dry run of a replay."""

    total: int
    failing: int
    lines: list[ReplayLine]


class Configuration(TypedDict):
    """Configuration of the daemon. effective: YAML with the origin of each value, secrets masked."""

    version: str
    directory: str
    effective: str


_Rows = list[dict[str, Any]]

RESULTS: Mapping[str, Any] = {
    "engines.list": list[EngineResult],
    "instances.list": InstanceList,
    "instances.show": Instance,
    "instances.history": _Rows,
    "instances.count": list[CountOfInstances],
    "instances.cause": CauseOfFailure | None,
    "instances.timeline": list[TimelineEntry],
    "instances.recording": RecordedHistory,
    "instances.wait": Instance | None,
    "instances.start": Started,
    "instances.raise": Raised,
    "instances.suspend": OneId,
    "instances.resume": OneId,
    "instances.terminate": OneId,
    "instances.restart": OneId,
    "instances.rewind": OneId,
    "instances.purge": Purged,
    "instances.purge_by": PurgedBy,
    "instances.match": Matched,
    **{
        f"instances.{action}_by": JobSubmitted
        for action in ("terminate", "raise", "suspend", "resume", "rewind", "restart")
    },
    "entities.list": list[Entity],
    "entities.show": Entity,
    "entities.signal": Signalled,
    "entities.clean": Cleaned,
    "early.list": list[WaitingMessage],
    "early.unprocessed": Unprocessed,
    "early.match": MatchedWaiting,
    "quarantine.match": MatchedWaiting,
    **{
        f"{kind}.{action}_by": WaitingJobSubmitted for kind in ("early", "quarantine") for action in ("release", "drop")
    },
    "early.release": Change,
    "early.drop": Change,
    "quarantine.list": list[WaitingMessage],
    "quarantine.unprocessed": Unprocessed,
    "quarantine.release": list[Change],
    "quarantine.drop": Change,
    "canary.show": CanaryResult,
    "canary.abort": CanaryResult,
    "canary.resume": CanaryResult,
    "sources.list": list[SourceLine],
    "sources.pause": Paused,
    "sources.resume": Resumed,
    "sources.lag": _Rows,
    "sources.seek.plan": dict[str, Any],
    "sources.seek.show": dict[str, Any],
    "sources.seek": dict[str, Any],
    "sources.seek.cancel": Cancelled,
    "messages.show": list[InFlightMessage],
    "messages.trace": Found,
    "messages.explain": list[ExplainedMessage],
    "keys.list": list[KeyInfo],
    "keys.rotate": KeyInfo,
    "keys.retire": KeyId,
    "erase": list[Finding],
    "dlq.replay": list[Submitted],
    "dlq.drop": list[Submitted],
    "dlq.restore": list[Submitted],
    "dlq.edit": Submitted,
    "dlq.groups": DeadLetterGroups,
    "dlq.list": _Rows,
    "dlq.newest": Newest,
    "dlq.check": ReplayCheck,
    "dlq.show": _Rows,
    "jobs.list": list[Job],
    "jobs.show": Job,
    "jobs.items": list[JobItem],
    "jobs.pause": Job,
    "jobs.resume": Job,
    "jobs.abort": Job,
    "audit.list": _Rows,
    "config.show": Configuration,
    "config.history": list[StartedConfiguration],
    "config.diff": ConfigurationDifference,
    "limits.list": list[RouteLimitLine],
    "limits.set": RouteLimit,
    "limits.clear": ClearedLimit,
    "reload": dict[str, Any],
    "reload.all": dict[str, Any],
    "reload.show": dict[str, Any],
    "reload.plan": dict[str, Any],
    "config.problems": list[Problem],
    "routes.list": _Rows,
    "targets.list": dict[str, dict[str, Any]],
}
"""Type of the result of each operation."""
