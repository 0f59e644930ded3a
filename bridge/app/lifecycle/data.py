"""Data of lifecycle events, and its JSON Schema. Words of configuration, code and operation only: no payload."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from bridge.core.lifecycle import EventKind


class InstanceData(TypedDict):
    """Failed or compensated instance.

    execution: id of this run of the instance. parent: id of the orchestration that called it.
    saga, outcome, step, reason, compensation: of its saga. step: failed one. compensation: steps whose compensation
    failed, with commas between them.
    error: type of the error. frame: its place in the code. Texts are empty where they are not known.
    next: command that shows more.
    """

    engine: str
    orchestration: str
    instance: str
    execution: str
    parent: str
    saga: str
    outcome: str
    step: str
    reason: str
    compensation: str
    error: str
    frame: str
    next: str


class CauseData(TypedDict):
    """Cause of dead letters that has open ones for the first time, or again.

    group: fingerprint of the cause. count: open dead letters of it. first_at: time of the oldest one.
    """

    source: str
    broker: str
    topic: str
    group: str
    reason: str
    route: str
    error: str
    count: int
    first_at: str | None
    next: str


class SourceData(TypedDict):
    """State of a source in one daemon.

    before: state that has ended, of an event `source.recovered`; null of others.
    detail: sentence for a person. since: time since which the state is known.
    """

    daemon: str
    source: str
    state: str
    before: str | None
    detail: str
    since: str
    next: str


class JobData(TypedDict):
    """Job that has ended, or was stopped.

    counts: items by result. why: cause of a stop or an abort. by, note: person who submitted it, and the reason.
    """

    engine: str
    job: str
    kind: str
    state: str
    why: str
    selected: int
    counts: dict[str, int]
    by: str
    note: str
    next: str


class ConfigurationData(TypedDict):
    """Reload of one daemon.

    before, version: versions before and after. A refused reload leaves the version.
    by: name of the person or signal. problems: first causes of a refusal. problem_count: number of all.
    """

    daemon: str
    before: str
    version: str
    by: str
    sources: dict[str, str]
    routes: dict[str, str]
    problems: list[str]
    problem_count: int
    next: str


_DATA: Mapping[EventKind, Any] = MappingProxyType(
    {
        EventKind.INSTANCE_FAILED: InstanceData,
        EventKind.INSTANCE_COMPENSATED: InstanceData,
        EventKind.DEAD_LETTER_CAUSE: CauseData,
        EventKind.SOURCE_HELD: SourceData,
        EventKind.SOURCE_PAUSED: SourceData,
        EventKind.SOURCE_PROBING: SourceData,
        EventKind.SOURCE_STUCK: SourceData,
        EventKind.SOURCE_RECOVERED: SourceData,
        EventKind.JOB_STOPPED: JobData,
        EventKind.JOB_FINISHED: JobData,
        EventKind.CONFIGURATION_RELOADED: ConfigurationData,
        EventKind.CONFIGURATION_REFUSED: ConfigurationData,
    }
)
"""Shape of the data of each kind."""


def schema(kind: EventKind) -> dict[str, Any]:
    """JSON Schema (2020-12) of the data of a kind."""
    return TypeAdapter(_DATA[kind]).json_schema()
