"""Operations on jobs, and the bulk actions that are jobs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from durabletask.client import OrchestrationStatus
from pydantic import AwareDatetime, BeforeValidator, Field
from typing_extensions import TypedDict

from bridge.app.operations.cursors import Cursor, InParts, Order
from bridge.app.operations.dead_letters.replays import why_waiting
from bridge.app.operations.instances.jobs import SPACE
from bridge.app.operations.instances.selection import MAX_READS, BulkFilter, InstanceSelection
from bridge.app.operations.operation import NEW, Operation, Parameters, Scene, Words, checked, json_object
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.jobs.kind import DEFAULT_FOLLOW, JobRequest
from bridge.jobs.state_machine import COUNTS, JobRecord
from bridge.jobs.store import Action, ItemNumber, JobItem, JobStore
from bridge.jobs.view import document
from bridge.routing.identifier import check_name
from bridge.system.clock import time_of

_JOB = r"^[0-9a-z]{1,32}$"
"""Id of a job."""

InstanceAction = Literal["terminate", "suspend", "resume", "rewind", "restart", "raise"]


class OneJob(Parameters):
    job: str = Field(pattern=_JOB)


class JobItems(OneJob):
    """Items of a job.

    statuses: results, `in_progress` or `left`, separated by commas in a query; empty for all.
    limit: most items.
    offset: items to leave out at the beginning; 0 with a cursor.
    """

    statuses: Words = ()
    limit: int = Field(100, ge=1, le=10_000)
    offset: int = Field(0, ge=0)
    cursor: Cursor = None


class JobItemsPart(TypedDict):
    """Part of the items of a job, in their order. next: cursor of the next part."""

    next: str | None
    items: list[JobItem]


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


class BulkInstances(FilterInstances):
    """Bulk action. rate, ramp, stop_after_failures: see `JobRequest`. job: id of the job; random when None."""

    rate: float | None = Field(None, gt=0)
    ramp: tuple[Annotated[int, Field(ge=1)], ...] = Field((), max_length=20)
    stop_after_failures: int | None = Field(None, ge=0)
    job: str | None = Field(None, pattern=_JOB)

    @property
    def failures(self) -> int | None:
        """Failed items at which the job stops: 1 with a ramp, unless stated otherwise; 0 is never."""
        if self.stop_after_failures is None:
            return 1 if self.ramp else None
        return self.stop_after_failures or None


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


class JobInfo(TypedDict):
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


class JobsPart(TypedDict):
    """Part of the jobs, newest first. next: cursor of the next part."""

    next: str | None
    jobs: list[JobInfo]


_JOBS: Order[JobRecord] = Order("jobs", lambda one: (float(one.created), one.id), (float, str), newest_first=True)
_ITEMS: Order[tuple[ItemNumber, JobItem]] = Order("job items", lambda each: each[0], (int, int))


async def _list(scene: Scene, given: InParts) -> Any:
    found = await JobStore(await scene.engine()).records()
    if given.cursor is None:
        return [await _document(scene, record) for record in found[: given.limit]]
    part, more = _JOBS.part(found, given.cursor, given.limit)
    return {"next": more, "jobs": [await _document(scene, record) for record in part]}


async def _show(scene: Scene, given: OneJob) -> Any:
    return await _document(scene, await JobStore(await scene.engine()).record(given.job))


async def _document(scene: Scene, record: JobRecord) -> dict[str, Any]:
    """Job as JSON types; `why` also names what its items in progress wait for."""
    return document(record) | {"why": record.why or await why_waiting(await scene.engine(), record)}


async def _items(scene: Scene, given: JobItems) -> Any:
    if unknown := sorted(set(given.statuses) - set(COUNTS)):
        raise InvalidCommand(f"`statuses`: {unknown[0][:100]!r} is not one of {', '.join(COUNTS)}")
    store = JobStore(await scene.engine())
    if given.cursor is not None:
        if given.offset:
            raise InvalidCommand("use either `cursor` or `offset`")
        after = _ITEMS.after(given.cursor)
        number = None if after is None else (int(after[0]), int(after[1]))
        part, more = await _ITEMS.first(store.numbered_items(given.job, given.statuses, number), given.limit)
        return {"next": more, "items": [asdict(item) for _, item in part]}
    found: list[Any] = []
    skipped = 0
    async for item in store.items(given.job, given.statuses):
        if skipped < given.offset:
            skipped += 1
            continue
        if len(found) == given.limit:
            break
        found.append(asdict(item))
    return found


async def _control(action: Action, scene: Scene, given: OneJob) -> Any:
    record = await JobStore(await scene.engine()).control(given.job, action, scene.actor.name, given.reason)
    return document(record)


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


def _controls(action: Action) -> Operation[Any]:
    async def run(scene: Scene, given: OneJob) -> Any:
        return await _control(action, scene, given)

    return Operation(
        f"jobs.{action}", "operator", f"jobs/{{job}}:{action}", OneJob, run, JobInfo, lambda given: given.job
    )


JOB_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("jobs.list", "reader", "jobs", InParts, _list, list[JobInfo] | JobsPart),
    Operation("jobs.show", "reader", "jobs/{job}", OneJob, _show, JobInfo),
    Operation("jobs.items", "reader", "jobs/{job}/items", JobItems, _items, list[JobItem] | JobItemsPart),
    *(_controls(action) for action in ("pause", "resume", "abort")),
    Operation(
        "instances.match",
        "reader",
        "instances:match",
        MatchInstances,
        _match,
        Matched,
        reads_payloads=_reads_payloads,
    ),
    _of_instances("terminate", TerminateInstances, _terminate),
    _of_instances("raise", RaiseToInstances, _raise),
    *(_simple(action) for action in ("suspend", "resume", "rewind", "restart")),
)
