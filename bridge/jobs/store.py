"""Client of the jobs of one engine: submit, read and control them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from durabletask.client import EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import (
    EngineError,
    EngineRejected,
    InstanceAlreadyExists,
    InstanceNotFound,
    InvalidCommand,
)
from bridge.core.instance_protocol import FINISHED
from bridge.core.states import JobState
from bridge.core.system_names import JOB, JOB_PAGE, JOBS, JOBS_KEY, job_instance_id, job_page_key
from bridge.engines.base import Engine
from bridge.engines.entity_reads import latest, read_effect
from bridge.jobs.kind import ITEMS_PER_PAGE, JobRequest
from bridge.jobs.orchestrator import CONTROL_EVENT
from bridge.jobs.state_machine import JobPage, JobRecord, JobRegistry
from bridge.system.tasks import cancelled

MAX_ITEMS = 1_000_000
"""Most items of a job."""

Action = Literal["pause", "resume", "abort"]

ItemNumber = tuple[int, int]
"""Number of an item of a job: number of its page, and number in the page. It never changes."""

_AT_ONCE = 16
_TOUCH_SECONDS = 30.0

_NEEDS: Mapping[Action, tuple[JobState, ...]] = {
    "pause": (JobState.RUNNING,),
    "resume": (JobState.PAUSED, JobState.STOPPED),
    "abort": (JobState.SELECTING, JobState.RUNNING, JobState.PAUSED, JobState.STOPPED),
}


@dataclass(frozen=True, slots=True)
class JobItem:
    """Item of a job. status: a result, `in_progress` or `left`."""

    id: str
    status: str
    detail: str


class JobStore:
    """Jobs of one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client

    # Submission

    async def submit(
        self, request: JobRequest, items: AsyncIterable[str], item_space: str | None, job: str | None = None
    ) -> tuple[str, int] | None:
        """Submit a job with these items; return its id and their number. None, and no job, without an item.

        items: distinct ids, in the order in which they are worked. A selection that fails aborts the job.
        item_space: of the kind. job: id for the job; None for a random one.
        Raises: InvalidCommand for more than MAX_ITEMS items.
        """
        id_ = job or secrets.token_hex(4)
        page: list[str] = []
        pages = count = 0
        filling: set[asyncio.Task[None]] = set()
        touched = time.monotonic()
        try:
            async for item in items:
                if not count:
                    await self._create(id_, request, item_space)
                if count >= MAX_ITEMS:
                    raise InvalidCommand(
                        f"the filter selects more than {MAX_ITEMS:,} items, the limit of a job; use a narrower one"
                    )
                count += 1
                page.append(item)
                if len(page) == ITEMS_PER_PAGE:
                    filling.add(asyncio.create_task(self._fill(id_, request.kind, pages, page)))
                    page, pages = [], pages + 1
                if len(filling) >= _AT_ONCE:
                    filling = await _some_done(filling)
                if time.monotonic() - touched > _TOUCH_SECONDS:
                    await self._touch(id_)
                    touched = time.monotonic()
            if page:
                filling.add(asyncio.create_task(self._fill(id_, request.kind, pages, page)))
                pages += 1
            while filling:
                filling = await _some_done(filling)
            if not count:
                return None
            await self.signal(id_, "selected", {"pages": pages, "items": count})
        except BaseException:
            await cancelled(*filling)
            if count:
                with suppress(EngineError):
                    value = {"by": request.by, "reason": "the selection failed"}
                    await self.signal(id_, "abort", value)
            raise
        return id_, count

    async def _create(self, job: str, request: JobRequest, item_space: str | None) -> None:
        await self.signal(job, "create", {"request": request.to_json(), "space": item_space})
        with suppress(InstanceAlreadyExists):
            await self._client.schedule_new_orchestration(
                JOB,
                input={"job": job},
                instance_id=job_instance_id(job),
                reuse_id_policy=pb.OrchestrationIdReusePolicy(),
                what=f"start job {job}",
            )

    async def _touch(self, job: str) -> None:
        """Report progress of a selection. Raises: EngineRejected when a person has aborted the job."""
        await self.signal(job, "touch", {})
        record, _ = await self.find(job)
        if record is not None and not record.is_open:
            raise EngineRejected(f"job {job} was aborted during its selection")

    async def _fill(self, job: str, kind: str, page: int, ids: list[str]) -> None:
        await self.signal_page(job, page, "fill", {"job": job, "kind": kind, "ids": ids})

    # Operations

    async def control(self, job: str, action: Action, by: str, reason: str | None) -> JobRecord:
        """Pause, resume or abort a job; return its record after that.

        Raises: InstanceNotFound; EngineRejected when its state does not allow the action; EngineUnavailable when no
        worker has processed it in time.
        """
        self._check(action, await self.record(job))
        token = secrets.token_hex(8)
        await self.signal(job, action, {"id": token, "by": by, "reason": reason})
        late = f"job {job}: the engine has the {action}, but no worker has processed it; is one running?"
        record = await self._record_with(job, late, lambda record: record.control.get("id") == token)
        before = JobState(record.control["before"])
        if before not in _NEEDS[action]:
            raise _refusal(action, job, before)
        with suppress(EngineError):  # without the event the job looks a few minutes later
            await self._client.raise_orchestration_event(job_instance_id(job), CONTROL_EVENT)
        return record

    def _check(self, action: Action, record: JobRecord) -> None:
        if record.state not in _NEEDS[action]:
            raise _refusal(action, record.id, record.state)

    async def signal(self, job: str, operation: str, value: Any) -> None:
        """Send an operation to the record of a job."""
        await self._client.signal_entity(EntityInstanceId(JOB, job), operation, value, what=f"{operation} job {job}")

    async def signal_page(self, job: str, page: int, operation: str, value: Any) -> None:
        """Send an operation to a page."""
        entity = EntityInstanceId(JOB_PAGE, job_page_key(job, page))
        await self._client.signal_entity(entity, operation, value, what=f"job {job}: {operation}")

    async def claim(self, job: str, token: str) -> Mapping[str, Any]:
        """Claim a job for one step; return the claims after that. Raises: EngineUnavailable."""
        await self.signal(job, "claim", {"token": token})
        late = f"job {job}: no worker has processed its claim; is one running?"
        return (await self._record_with(job, late, lambda record: token in record.claim["recent"])).claim

    # Reads

    async def find(self, job: str) -> tuple[JobRecord | None, bool]:
        """Record of a job, None without one, and True when operations wait to be processed."""
        state, pending = await latest(self._client, EntityInstanceId(JOB, job), f"read job {job}")
        return (None if state is None else JobRecord(job, state)), pending

    async def is_unfinished(self, job: str) -> bool:
        """True for a job that has not ended, also before a worker has processed its creation."""
        record, pending = await self.find(job)
        if record is not None:
            return record.is_open
        # Its orchestration is started after its creation was sent
        return pending or await self._has_orchestration(job)

    async def record(self, job: str) -> JobRecord:
        """Record of a job. Raises: InstanceNotFound; EngineUnavailable when no worker has processed its creation."""
        record, pending = await self.find(job)
        if record is not None:
            return record
        # Its orchestration is started after its creation was sent
        if not pending and not await self._has_orchestration(job):
            raise InstanceNotFound(f"there is no job {job}; `bridge jobs list` shows all")
        late = f"job {job}: no worker has processed its creation; is one running?"
        return await self._record_with(job, late, lambda record: True)

    async def _record_with(self, job: str, late: str, has_effect: Callable[[JobRecord], bool]) -> JobRecord:
        """Record of a job with the effect of an operation. Raises: EngineUnavailable with the text `late`."""

        def find(state: Any) -> JobRecord | None:
            record = None if state is None else JobRecord(job, state)
            return record if record is not None and has_effect(record) else None

        return await read_effect(self._client, EntityInstanceId(JOB, job), f"read job {job}", late, find)

    async def _has_orchestration(self, job: str) -> bool:
        found = await self._client.find_instance(job_instance_id(job), fetch_payloads=False, what=f"read job {job}")
        return found is not None and found.runtime_status.name not in FINISHED

    async def records(self, changed_since: datetime | None = None) -> list[JobRecord]:
        """Records of all jobs, newest first. changed_since: only those that have changed since then."""
        query = EntityQuery(f"@{JOB}@", last_modified_from=changed_since, include_state=True)
        found = await self._client.get_all_entities(query, what="list jobs")
        records = [
            JobRecord(each.id.key, json.loads(each.get_state() or "null"))
            for each in found
            if each.id.entity == JOB and each.get_state()
        ]
        return sorted(records, key=lambda one: one.created, reverse=True)

    async def page(self, job: str, page: int, has_effect: Callable[[JobPage], bool] = lambda page: True) -> JobPage:
        """One page of a complete selection, with its items.

        has_effect: True of a page with the effect of an operation.
        Raises: EngineUnavailable when no worker has processed the operation in time.
        """

        def find(state: Any) -> JobPage | None:
            found = JobPage(state)
            return found if found.exists and has_effect(found) else None

        entity = EntityInstanceId(JOB_PAGE, job_page_key(job, page))
        late = f"job {job}: no worker has processed its items; is one running?"
        return await read_effect(self._client, entity, f"read job {job}", late, find)

    async def page_numbers(self, job: str) -> list[int]:
        """Numbers of the existing pages of a job, those without processed operations included."""
        query = EntityQuery(_pages(job), include_state=False, include_transient=True)
        found = await self._client.get_all_entities(query, what=f"list the pages of job {job}")
        return sorted(int(each.id.key.rpartition("~")[2]) for each in found)

    async def items(self, job: str, statuses: Collection[str] = ()) -> AsyncIterator[JobItem]:
        """Items of a job in order. statuses: only items with one of these; empty for all."""
        async for _, item in self.numbered_items(job, statuses):
            yield item

    async def numbered_items(
        self, job: str, statuses: Collection[str] = (), after: ItemNumber | None = None
    ) -> AsyncIterator[tuple[ItemNumber, JobItem]]:
        """Items of a job with their numbers, in order. statuses: as for `items`. after: only items after this one."""
        await self.record(job)
        async for entities in self._client.entity_pages(_pages(job), what=f"read job {job}"):
            for entity in entities:
                page = int(entity.instanceId.rpartition("~")[2])
                if after is not None and page < after[0]:
                    continue
                items = JobPage(json.loads(entity.serializedState.value or "null")).items
                for index, (id_, status, detail) in enumerate(items):
                    if (after is None or (page, index) > after) and (not statuses or status in statuses):
                        yield (page, index), JobItem(id_, status, detail)

    async def pages(self, record: JobRecord) -> AsyncIterator[tuple[int, JobPage]]:
        """All pages of a complete selection with their numbers. Raises: as `page`."""
        missing = set(range(record.pages))
        async for entities in self._client.entity_pages(_pages(record.id), what=f"read job {record.id}"):
            for entity in entities:
                number = int(entity.instanceId.rpartition("~")[2])
                page = JobPage(json.loads(entity.serializedState.value or "null"))
                if page.exists and number in missing:
                    missing.remove(number)
                    yield number, page
        for number in sorted(missing):
            yield number, await self.page(record.id, number)

    async def registry(self) -> JobRegistry:
        """Unfinished jobs of the engine."""
        state, _ = await latest(self._client, EntityInstanceId(JOBS, JOBS_KEY), "read the registry of jobs")
        return JobRegistry(state)


def _pages(job: str) -> str:
    """Prefix of the ids of the pages of a job."""
    return f"@{JOB_PAGE}@{job}~"


def _refusal(action: Action, job: str, state: JobState) -> EngineRejected:
    allowed = " or ".join(_NEEDS[action]) if action != "abort" else "unfinished"
    return EngineRejected(f"{action} job {job}: it is {state}; only a job that is {allowed} can be {_PAST[action]}")


_PAST: Mapping[Action, str] = {"pause": "paused", "resume": "resumed", "abort": "aborted"}


async def _some_done(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until some tasks are done; return the others. Raises: the error of a task."""
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    try:
        for task in done:
            task.result()
    except BaseException:
        await cancelled(*left)
        raise
    return left
