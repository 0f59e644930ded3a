"""Activity of jobs: works on one job for some seconds, and returns the cursor where the next step continues."""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

import structlog
from durabletask import task

from bridge.config.model.bridge import JobsConfig
from bridge.core.errors import BridgeError, BrokerUnavailable, EngineOutage
from bridge.core.states import JobState
from bridge.core.system_names import JOB_STEP
from bridge.engines.base import Engine
from bridge.jobs.kind import ITEMS_PER_PAGE, ItemOutcome, ItemResult, Job, JobKind, TryLater
from bridge.jobs.state_machine import IN_PROGRESS, LEFT, SELECTION_SECONDS, JobPage, JobRecord
from bridge.jobs.store import JobStore

log = structlog.get_logger("bridge.jobs")

STEP_SECONDS = 10.0
"""Seconds of one step. A crash repeats at most the calls of one step."""

PAGES_AT_ONCE = 8
"""Pages that are worked at once, where the job has neither order, rate, ramp nor limit of failures."""

_CONTROL_SECONDS = 300.0
"""Longest wait for a person. The event of an operation usually ends it at once."""
_FOLLOW_SECONDS = 30.0
_PROGRESS_SECONDS = 30.0
_FIRST_WAIT = 0.1
_PASSING = EngineOutage | BrokerUnavailable | TryLater
"""Errors that end by themselves."""
_SHORT_WAIT = 1.0
"""Longest wait inside of a step."""
_OUTSTANDING = 2 * ITEMS_PER_PAGE
"""Most items without a result while a job has a limit of failures."""
_TRIAL = 10
"""Items of a call after the first failure of such a job."""


@dataclass(frozen=True, slots=True)
class JobCursor:
    """Position of a job's work: the input of a step.

    phase: `select` (until the selection is complete), `compare` (with the items of other jobs), `work`, `end`.
    page, index: first item that was not handed to the kind.
    due: time before which the next item must not begin, because of the rate.
    wait: seconds of the last wait without progress; the next one is longer.
    """

    job: str
    phase: str = "select"
    page: int = 0
    index: int = 0
    due: float = 0.0
    wait: float = 0.0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> JobCursor:
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__ if name in stored})

    @property
    def handed(self) -> int:
        """Number of items before the cursor."""
        return self.page * ITEMS_PER_PAGE + self.index


class _Pause(Exception):
    """Raised to end the work for some seconds. seconds: None for a longer wait each time, up to `longest`."""

    def __init__(self, seconds: float | None = None, longest: float = _PROGRESS_SECONDS) -> None:
        super().__init__()
        self.seconds = seconds
        self.longest = longest


class _Moved(Exception):
    """Raised to continue at another phase."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase)
        self.phase = phase


class _Superseded(Exception):
    """Raised when another process has gone on with the job meanwhile: this one was frozen."""


class _Ended(Exception):
    """Raised when the job needs no further step. result: output of the orchestration."""

    def __init__(self, result: str) -> None:
        super().__init__(result)
        self.result = result


class JobSteps:
    """Steps of the jobs of one engine. Call the activity from any thread except the event loop's.

    kinds: kinds of jobs that this process can work on, by name.
    """

    def __init__(
        self,
        engine: Engine,
        kinds: Iterable[JobKind],
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float] = time.time,
        retention: JobsConfig | None = None,
    ) -> None:
        self._engine = engine
        self._retention = retention or JobsConfig()
        self._kinds = {kind.name: kind for kind in kinds}
        self._loop = loop
        self._now = now
        self._is_stopping = False

    def stop(self) -> None:
        """End the running steps soon: a worker waits for them. Another process, or the next start, continues."""
        self._is_stopping = True

    def activity(self) -> Callable[..., Any]:
        """Activity to register under the name JOB_STEP."""

        def step(_: task.ActivityContext, cursor: dict[str, Any]) -> dict[str, Any]:
            return asyncio.run_coroutine_threadsafe(self.step(cursor), self._loop).result()

        step.__name__ = JOB_STEP
        return step

    async def step(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Work for some seconds.

        Returns `place` (the cursor of the next step), `seconds` until then, and `end`, the state of an ended job.
        """
        run = _Run(JobStore(self._engine), self._kinds, JobCursor.of(stored), self._now, self._retention)
        return await run.step(lambda: self._is_stopping)


class _Run:
    """Work of one step on one job."""

    def __init__(
        self,
        store: JobStore,
        kinds: Mapping[str, JobKind],
        cursor: JobCursor,
        now: Callable[[], float],
        retention: JobsConfig,
    ) -> None:
        self._store = store
        self._retention = retention
        self._kinds = kinds
        self.cursor = cursor
        self._now = now
        self._token = secrets.token_hex(8)
        self._number: int | None = None
        """Number of this step; None before its claim."""
        self._offered: set[str] = set()
        """Items that this step has given to the kind."""
        self._page: JobPage | None = None
        """Page of the cursor, as this step knows it."""
        self._ended_step: int | None = None
        """End of the last step of the ramp of which all items are known to have ended."""

    async def step(self, is_stopping: Callable[[], bool]) -> dict[str, Any]:
        """See `JobSteps.step`. is_stopping: True when the step is to end soon."""
        end = time.monotonic() + STEP_SECONDS
        while True:
            try:
                await self._go_on()
                self._wait(0.0)
            except _Moved as moved:
                self.cursor = replace(self.cursor, phase=moved.phase, wait=0.0)
            except _Superseded:
                job = self.cursor.job
                log.warning(f"job {job}: another process went on", action="job", job=job)
                return self._continued(_SHORT_WAIT)
            except _Ended as ended:
                return {"place": None, "seconds": 0, "end": ended.result}
            except _Pause as pause:
                seconds = pause.seconds
                if seconds is None:
                    seconds = self._wait(min(pause.longest, max(_FIRST_WAIT, self.cursor.wait * 1.5)))
                if seconds > _SHORT_WAIT or time.monotonic() + seconds > end:
                    return self._continued(round(seconds, 3))
                await asyncio.sleep(seconds)
            except (EngineOutage, BrokerUnavailable) as error:
                job = self.cursor.job
                log.warning(f"job {job} waits for the end of an outage", action="job", job=job, detail=str(error))
                return self._continued(self._wait(min(_PROGRESS_SECONDS, max(1.0, self.cursor.wait * 2))))
            if is_stopping() or time.monotonic() >= end:
                return self._continued(1 if is_stopping() else 0)

    def _wait(self, seconds: float) -> float:
        """Keep the length of a wait without progress, and return it."""
        self.cursor = replace(self.cursor, wait=seconds)
        return seconds

    def _continued(self, seconds: float) -> dict[str, Any]:
        """Result of a step that another one continues after some seconds."""
        return {"place": asdict(self.cursor), "seconds": seconds, "end": None}

    async def _go_on(self) -> None:
        """Do the next part of the work.

        Raises: _Pause, _Moved, _Ended; EngineOutage, BrokerUnavailable.
        """
        record, pending = await self._store.find(self.cursor.job)
        if record is None:
            # An engine may not count the creation while a worker processes it: look again for more than a minute
            if pending or (self.cursor.phase == "select" and self.cursor.wait < _PROGRESS_SECONDS):
                raise _Pause
            raise _Ended("removed")
        if self._number is not None and record.claim["recent"][-1] != self._token:
            raise _Superseded
        phase = {"select": self._select, "compare": self._compare, "work": self._work, "end": self._end}
        await phase[self.cursor.phase](record)

    # Selection and comparison

    async def _select(self, record: JobRecord) -> None:
        if record.state is not JobState.SELECTING:
            raise _Moved("compare")
        if self._now() - record.touched >= SELECTION_SECONDS:
            await self._store.signal(record.id, "expire", {})
        raise _Pause

    async def _compare(self, record: JobRecord) -> None:
        """Skip the items that earlier jobs hold."""
        if not record.is_open:
            raise _Moved("work")  # a step that was interrupted may have begun items
        if record.number is None:
            raise _Pause
        await self._sweep()
        await self._claim(record.id)
        registry = await self._store.registry()
        if record.id not in registry.jobs:
            raise _Pause  # the job is ending, or the engine shows an earlier state
        for other in registry.holders(record.id):
            held = await self._held_by(other)
            if len(held):
                await self._skip(record, other, held)
        raise _Moved("work")

    async def _held_by(self, job: str) -> array[int]:
        """Digests of the items that a job holds, sorted."""
        holder = await self._store.record(job)
        held: array[int] = array("Q")
        async for _, page in self._store.pages(holder):
            ids = page.unfinished if holder.is_open else page.with_status(IN_PROGRESS)
            held.extend(map(_digest, ids))
        return array("Q", sorted(held))

    async def _skip(self, record: JobRecord, other: str, held: array[int]) -> None:
        result = ItemResult(ItemOutcome.SKIPPED, f"job {other} holds it").to_json()
        async for number, page in self._store.pages(record):
            found = {id_: result for id_ in page.with_status(LEFT) if _contains(held, _digest(id_))}
            if found:
                value = {"step": self._number, "results": found}
                await self._store.signal_page(record.id, number, "settle", value)

    async def _sweep(self) -> None:
        """Remove the records of jobs that ended long ago."""
        ended = [each for each in await self._store.records() if not each.is_open]
        for position, each in enumerate(ended):
            if position >= self._retention.most or self._now() - (each.ended or 0.0) > self._retention.keep:
                await self._remove_pages(each.id)
                await self._store.signal(each.id, "remove", {})

    async def _remove_pages(self, job: str) -> None:
        for number in await self._store.page_numbers(job):
            await self._store.signal_page(job, number, "remove", {})

    # Work

    async def _work(self, record: JobRecord) -> None:
        if not record.is_open:
            if record.state is JobState.ABORTED:
                await self._finish_begun(record)
            raise _Moved("end")
        if record.state is not JobState.RUNNING:
            raise _Pause(_CONTROL_SECONDS)
        if self.cursor.page >= record.pages:
            raise _Moved("end")
        kind = self._kinds.get(record.request.kind)
        if kind is None:
            await self._stop(record, f"this version has no jobs of the kind {record.request.kind}")
            raise _Pause
        await self._claim(record.id)
        job = Job(record.id, record.request)
        request = record.request
        plain = request.rate is None and not request.ramp and request.stop_after_failures is None
        try:
            if plain and not kind.keeps_order and not self.cursor.index:
                await self._work_pages(record, kind, job)
            else:
                await self._work_items(record, kind, job)
        except (_Pause, _Superseded):
            raise
        except TryLater as later:
            self._page = None
            raise _Pause(later.seconds) from later
        except (EngineOutage, BrokerUnavailable):
            self._page = None
            raise
        except Exception as error:
            self._page = None
            await self._stop(record, _cause(error, record))
            raise _Pause from error

    async def _stop(self, record: JobRecord, why: str) -> None:
        log.warning(f"job {record.id} is stopped: {why}", action="job", job=record.id, kind=record.request.kind)
        await self._store.signal(record.id, "stop", {"why": why, "step": await self._claim(record.id)})

    async def _work_pages(self, record: JobRecord, kind: JobKind, job: Job) -> None:
        """Work on several whole pages at once."""
        first = self.cursor.page
        numbers = range(first, min(first + PAGES_AT_ONCE, record.pages))
        results = await asyncio.gather(*(self._whole_page(n, kind, job) for n in numbers), return_exceptions=True)
        done = next((at for at, result in enumerate(results) if result is not None), len(results))
        self.cursor = replace(self.cursor, page=first + done)
        errors = [result for result in results if result is not None]
        # A cause that needs a person comes before one that passes
        errors.sort(key=lambda error: (not isinstance(error, _Superseded), isinstance(error, _PASSING)))
        if errors:
            raise errors[0]

    async def _whole_page(self, number: int, kind: JobKind, job: Job) -> None:
        page = await self._store.page(job.id, number)
        ids = page.unfinished
        if ids:
            await self._call(number, kind, job, ids)

    async def _work_items(self, record: JobRecord, kind: JobKind, job: Job) -> None:
        """Work on the next items of the page of the cursor."""
        count = await self._allowed(record)
        page = self._page or await self._store.page(job.id, self.cursor.page)
        self._page = page
        ids = [id_ for id_, *_ in page.items[self.cursor.index : self.cursor.index + count]]
        held = set(page.unfinished)
        if wanted := [id_ for id_ in ids if id_ in held]:
            page = self._page = await self._call(self.cursor.page, kind, job, wanted)
        rate, due = record.request.rate, self.cursor.due
        if rate is not None:
            due = max(self._now(), due) + len(wanted) / rate
        self.cursor = replace(self.cursor, index=self.cursor.index + len(ids), due=due)
        if self.cursor.index >= len(page.items):
            self._page = None
            self.cursor = replace(self.cursor, page=self.cursor.page + 1, index=0)

    async def _allowed(self, record: JobRecord) -> int:
        """Number of items that may begin now. Raises: _Pause when it is none."""
        request, handed = record.request, self.cursor.handed
        count = ITEMS_PER_PAGE
        if request.rate is not None:
            if (early := self.cursor.due - self._now()) > 0:
                raise _Pause(early)
            count = max(1, min(count, int(request.rate / 2)))
        if handed and handed in _ends(request.ramp) and self._ended_step != handed:
            await self._wait_for_step(record, handed)
        step = next((end for end in _ends(request.ramp) if end > handed), None)
        if step is not None:
            return min(count, step - handed)
        if request.stop_after_failures is not None:
            # The record lags behind the pages, and results may follow later
            if handed - record.finished >= _OUTSTANDING:
                raise _Pause(_FIRST_WAIT / 2)
            if record.counts[ItemOutcome.FAILED] > record.failed_before:
                count = min(count, _TRIAL)
        return count

    async def _wait_for_step(self, record: JobRecord, end: int) -> None:
        """Raises: _Pause until the items before `end` have ended, and once more to read the record after that."""
        failed = 0
        for number in range((end - 1) // ITEMS_PER_PAGE, -1, -1):  # the last items end last
            page = await self._store.page(record.id, number)
            # Items behind the step may be in progress too, where a call for them has failed
            items = page.items[: end - number * ITEMS_PER_PAGE]
            if any(status in (LEFT, IN_PROGRESS) for _, status, _ in items):
                raise _Pause
            failed += sum(status == ItemOutcome.FAILED for _, status, _ in items)
        if record.finished < end or record.counts[ItemOutcome.FAILED] < failed:
            raise _Pause  # moves of pages are on their way
        self._ended_step = end
        raise _Pause(0.0)

    async def _claim(self, job: str) -> int:
        """Number of this step. Raises: _Superseded."""
        if self._number is None:
            claim = await self._store.claim(job, self._token)
            if claim["recent"][-1] != self._token:
                raise _Superseded
            self._number = claim["number"]
        return self._number

    async def _call(self, number: int, kind: JobKind, job: Job, ids: Sequence[str]) -> JobPage:
        """Let the kind work on items, and store its results. Returns the page after that. Raises: _Superseded."""
        step = await self._claim(job.id)
        # Operations of an earlier step may be on their way: the page decides on each item
        wanted = set(ids)

        def has_begun(page: JobPage) -> bool:
            return page.step > step or (page.step == step and wanted.isdisjoint(page.with_status(LEFT)))

        await self._store.signal_page(job.id, number, "begin", {"step": step, "ids": ids})
        page = await self._store.page(job.id, number, has_begun)
        if page.step != step:
            raise _Superseded
        held = set(page.unfinished)
        ids = [id_ for id_ in ids if id_ in held]
        # Items that were in progress when this step began them belong to an earlier one, which may have worked on them
        fresh = [id_ for id_ in ids if page.begun.get(id_) == step and id_ not in self._offered]
        if not ids:
            return page
        self._offered.update(fresh)
        try:
            results = await kind.work(job, number, ids, frozenset(ids).difference(fresh))
        except TryLater:
            self._offered.difference_update(fresh)
            await self._store.signal_page(job.id, number, "undo", {"step": step, "ids": fresh})
            raise
        found = {id_: result.to_json() for id_, result in results.items()}
        if found:
            await self._settle(page, number, job, found)
        return page

    async def _settle(self, page: JobPage, number: int, job: Job, results: Mapping[str, Sequence[str]]) -> None:
        value = {"step": self._number, "results": results}
        await self._store.signal_page(job.id, number, "settle", value)
        page.apply("settle", value, self._now())

    async def _finish_begun(self, record: JobRecord) -> None:
        """Work once more on items that an aborted job has begun, where the outcome of the call is unknown."""
        kind = self._kinds.get(record.request.kind)
        if kind is None:
            return
        job, number, untouched = Job(record.id, record.request), self.cursor.page, 0
        step = await self._claim(job.id)
        while number < record.pages and untouched < PAGES_AT_ONCE:
            # The begin of an interrupted step may be on its way: the page shows it when it has processed this one
            await self._store.signal_page(job.id, number, "begin", {"step": step, "ids": []})
            page = await self._store.page(job.id, number, lambda page: page.step >= step)
            first = self.cursor.index if number == self.cursor.page else 0
            begun = [id_ for id_, status, _ in page.items[first:] if status == IN_PROGRESS]
            if begun:
                await self._last_call(page, number, kind, job, begun)
            untouched = 0 if begun else untouched + 1
            number += 1

    async def _last_call(self, page: JobPage, number: int, kind: JobKind, job: Job, begun: Sequence[str]) -> None:
        try:
            await self._call(number, kind, job, begun)
        except TryLater as later:
            raise _Pause(later.seconds) from later
        except (EngineOutage, BrokerUnavailable, _Superseded):
            raise
        except Exception as error:
            failed = ItemResult(ItemOutcome.FAILED, f"aborted; the outcome is unknown: {_cause(error, None)}").to_json()
            await self._settle(page, number, job, dict.fromkeys(begun, failed))

    # End

    async def _end(self, record: JobRecord) -> None:
        if record.counts[IN_PROGRESS]:
            raise _Pause
        if not record.is_open:
            if record.state is JobState.ABORTED and not record.selected:
                await self._remove_pages(record.id)
            raise _Ended(record.state)
        if record.state is not JobState.RUNNING:
            raise _Pause(_CONTROL_SECONDS)
        if record.counts[LEFT]:
            raise _Pause  # moves of pages are on their way
        if record.waiting:
            if record.followed is None:
                await self._store.signal(record.id, "follow", {})
            elif self._now() - record.followed < record.request.follow:
                raise _Pause(longest=_FOLLOW_SECONDS)
            if record.request.follow > 0 and record.followed is None:
                raise _Pause
        await self._store.signal(record.id, "finish", {})
        raise _Pause


def _cause(error: Exception, record: JobRecord | None) -> str:
    """Cause of an error for a person. A bug is logged with its traceback."""
    if isinstance(error, BridgeError):
        return str(error)
    job = None if record is None else record.id
    log.error("a job met a bug", action="job", job=job, exc_info=error)
    return f"unexpected {type(error).__name__}; the log of the daemon has its traceback"


def _ends(ramp: Sequence[int]) -> Iterator[int]:
    """Numbers of items at the ends of the steps of a ramp."""
    total = 0
    for size in ramp:
        total += size
        yield total


def _digest(id_: str) -> int:
    return int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _contains(ordered: array[int], value: int) -> bool:
    at = bisect_left(ordered, value)
    return at < len(ordered) and ordered[at] == value
