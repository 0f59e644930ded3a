"""Bulk actions on instances, which are jobs, and their dry run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from durabletask.client import OrchestrationStatus
from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app.operations.instances.jobs import SPACE
from bridge.app.operations.instances.selection import MAX_READS, BulkFilter, InstanceSelection
from bridge.app.operations.operation import (
    JOB_ID,
    NEW,
    JobParameters,
    Operation,
    Parameters,
    Scene,
    Words,
    checked,
    json_object,
)
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.jobs.kind import DEFAULT_FOLLOW, JobRequest
from bridge.jobs.store import JobStore
from bridge.routing.identifier import check_name
from bridge.system.clock import time_of

InstanceAction = Literal["terminate", "suspend", "resume", "rewind", "restart", "raise"]


class FilterInstances(Parameters):
    """Filter of instances. Parts that are left out mean any.

    orchestration: name of the orchestration, or own name of a saga.
    since, until: limits of the creation.
    where: CEL over id, name, status, created, updated, tags, custom_status, input, output.
    limit: most instances.
    all: every instance that the action works on; required for a filter without another part.
    yes: read more than 100,000 instances where the engine cannot answer the filter.
    """

    orchestration: str | None = None
    statuses: Words = ()
    prefix: str | None = None
    tags: Annotated[Mapping[str, str], BeforeValidator(json_object)] = Field(default_factory=dict)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    where: str | None = None
    limit: int | None = Field(None, ge=1)
    all: bool = False
    yes: bool = False

    @property
    def filter(self) -> BulkFilter:
        """Filter. Raises: InvalidCommand when it is empty without `all`, or names no status."""
        for status in self.statuses:
            if status not in OrchestrationStatus.__members__:
                raise InvalidCommand(
                    f"`statuses`: {status[:100]!r} is not one of {', '.join(OrchestrationStatus.__members__)}"
                )
        found = BulkFilter(
            self.orchestration, self.statuses, self.prefix, self.tags, self.since, self.until, self.where, self.limit
        )
        if found.is_empty and not self.all:
            raise InvalidCommand("the filter is empty; `all` selects every instance")
        return found

    @property
    def audited(self) -> dict[str, Any]:
        """Filter for the audit line. The condition may name a person."""
        given = self.model_dump(mode="json", exclude={"engine", "reason", "data", "output"}, exclude_defaults=True)
        if self.where is not None:
            given["where"] = hashlib.sha256(self.where.encode("utf-8", "surrogatepass")).hexdigest()
        return given


class MatchInstances(FilterInstances):
    """Dry run of a bulk action."""

    action: InstanceAction


class BulkInstances(JobParameters, FilterInstances):
    """Bulk action. job: id of the job; random when None."""

    job: str | None = Field(None, pattern=JOB_ID)


class TerminateInstances(BulkInstances):
    output: Any = None
    recursive: bool = True


class RaiseToInstances(BulkInstances):
    event: str
    data: Any = None


class Matched(TypedDict):
    count: int
    reads: int
    cut_off: str


class JobSubmitted(TypedDict):
    job: str
    count: int
    reads: int


async def _match(scene: Scene, given: MatchInstances) -> Any:
    max_reads = None if given.yes else MAX_READS
    cut_off = time.time()
    selection = InstanceSelection(await scene.engine(), given.action, given.filter, cut_off, max_reads)
    if not await selection.counted():
        async for _ in selection.ids():
            pass
    return {"count": selection.count, "reads": selection.reads, "cut_off": time_of(cut_off)}


async def _bulk(action: InstanceAction, scene: Scene, given: BulkInstances, arguments: Mapping[str, Any]) -> Any:
    engine, cut_off = await scene.engine(), time.time()
    selection = InstanceSelection(engine, action, given.filter, cut_off, None if given.yes else MAX_READS)
    request = JobRequest(
        f"instances.{action}",
        dict(arguments),
        given.filter.text(),
        cut_off,
        given.rate,
        given.ramp,
        given.failures,
        DEFAULT_FOLLOW,
        given.reason or "",
        scene.actor.name,
    )
    submitted = await JobStore(engine).submit(request, selection.ids(), SPACE, given.job)
    if submitted is None:
        raise InstanceNotFound("no instance matches the filter")
    return {"job": submitted[0], "count": submitted[1], "reads": selection.reads}


async def _terminate(scene: Scene, given: TerminateInstances) -> Any:
    return await _bulk("terminate", scene, given, {"output": checked(given.output), "recursive": given.recursive})


async def _raise(scene: Scene, given: RaiseToInstances) -> Any:
    event = check_name(given.event, "the event name")
    return await _bulk("raise", scene, given, {"event": event, "data": checked(given.data)})


def _reads_payloads(given: FilterInstances) -> bool:
    """True for a condition: the number of instances for which it holds says something about their payloads."""
    return given.where is not None


def _simple(action: InstanceAction) -> Operation[Any]:
    async def run(scene: Scene, given: BulkInstances) -> Any:
        return await _bulk(action, scene, given, {})

    return _of_instances(action, BulkInstances, run)


def _of_instances(action: InstanceAction, parameters: type[Any], run: Any) -> Operation[Any]:
    return Operation(
        f"instances.{action}_by", "operator", f"instances:{action}", parameters, run, JobSubmitted, lambda given: NEW,
        lambda given: given.audited, reads_payloads=_reads_payloads, submits=True,
    )  # fmt: skip


BULK_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "instances.match", "reader", "instances:match", MatchInstances, _match, Matched, reads_payloads=_reads_payloads
    ),
    _of_instances("terminate", TerminateInstances, _terminate),
    _of_instances("raise", RaiseToInstances, _raise),
    *(_simple(action) for action in ("suspend", "resume", "rewind", "restart")),
)  # fmt: skip
