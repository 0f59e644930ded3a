"""Operations on jobs: list, show, pause, resume and abort them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import Field
from typing_extensions import TypedDict

from bridge.app.operations.cursors import Cursor, InParts, Order
from bridge.app.operations.dead_letters.replays import why_waiting
from bridge.app.operations.operation import JOB_ID, Operation, Parameters, Scene, Words
from bridge.core.errors import InvalidCommand
from bridge.jobs.state_machine import COUNTS, JobRecord
from bridge.jobs.store import Action, ItemNumber, JobItem, JobStore
from bridge.jobs.view import document


class OneJob(Parameters):
    job: str = Field(pattern=JOB_ID)


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
)
