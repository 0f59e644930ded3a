"""Jobs against an engine in memory: crashes at any call, controls at any time, two jobs that select the same items."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.core.errors import EngineError, EngineUnavailable
from bridge.core.states import JobState
from bridge.core.system_names import JOB, JOB_PAGE, JOB_RESULTS, JOBS, JOBS_KEY, job_page_key
from bridge.jobs import steps, store
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobRequest, TryLater
from bridge.jobs.state_machine import IN_PROGRESS, LEFT, JobPage, JobRecord
from bridge.jobs.steps import JobCursor, JobSteps
from bridge.jobs.store import JobStore
from tests.jobs.memory_engine import PROCESS, FrozenProcess, MemoryEngine
from tests.kit.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.long

PAGE = 4
ITEMS = [f"item-{number}" for number in range(14)]
JOBS_OF_TEST = ("a", "b")
OPEN = (JobState.SELECTING, JobState.RUNNING, JobState.PAUSED, JobState.STOPPED)
crashes = st.none() | st.integers(0, 40)
final = st.sampled_from(
    [ItemResult(ItemOutcome.SUCCEEDED), ItemResult(ItemOutcome.FAILED, "why"), ItemResult(ItemOutcome.DUPLICATE)]
)
requests = st.builds(
    JobRequest,
    kind=st.just("test"),
    rate=st.none() | st.sampled_from([0.5, 4.0, 100.0]),
    ramp=st.sampled_from([(), (1,), (1, 2, 5), (4, 4)]),
    stop_after_failures=st.none() | st.integers(1, 3),
    follow=st.sampled_from([0.0, 30.0]),
)


STALE = ItemResult(ItemOutcome.SKIPPED, "it was done before")
"""Result of a call that does not know that another one did the work. It must not count."""


class World:
    """Kind of the jobs: the outcome of each item is fixed for one job. effects: items that were done, by job."""

    name = "test"
    item_space = "things"

    def __init__(self, machine: JobMachine) -> None:
        self._machine = machine
        self.keeps_order = False
        self.outcomes: dict[str, str] = {}
        self.effects: set[tuple[str, str]] = set()
        self.order: list[tuple[str, str]] = []
        self.obstacles: list[Exception] = []

    async def work(
        self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]
    ) -> Mapping[str, ItemResult]:
        machine = self._machine
        try:
            if PROCESS.get() is None:  # a process that was frozen may be late
                self._check(job, page, items, repeated)
        except AssertionError as error:
            machine.failures.append(error)  # the job takes it for a bug of the kind
        new = [(job.id, item) for item in items if (job.id, item) not in self.order]
        self.order += new
        machine.begun_at[job.id] += [machine.now()] * len(new)
        machine.offered |= {(job.id, item) for item in items}
        await machine.engine.interruption()
        if self.obstacles:
            obstacle = self.obstacles.pop()
            if isinstance(obstacle, TryLater):
                machine.offered -= {(job.id, item) for item in items if item not in repeated}
            raise obstacle
        results = {}
        for item in items:
            if (job.id, item) in self.effects and item not in repeated:
                results[item] = STALE
                continue
            self.effects.add((job.id, item))
            await machine.engine.interruption()
            outcome = self.outcomes.get(item, "succeeded")
            if outcome != "later":
                results[item] = ItemResult(ItemOutcome(outcome))
        return results

    def _check(self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]) -> None:
        machine = self._machine
        stored = JobPage(machine.engine.state(JOB_PAGE, job_page_key(job.id, page)))
        for item in items:
            assert item in stored.with_status(LEFT, IN_PROGRESS), (item, stored.items)
            assert not machine.is_held(item, job.id), item
            assert item in repeated or (job.id, item) not in machine.offered
            if (job.id, item) not in self.order:
                machine.check_start(job, item, items)
        new = [item for item in items if (job.id, item) not in self.order]
        if new and job.request.rate is not None:
            machine.check_rate(job, job.request.rate, len(new))


class JobMachine(RuleBasedStateMachine):
    """Two jobs, their orchestrations, and the people who control them."""

    counts = True
    """The engine counts the operations that wait, and has processed those sent before a step."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.loop = VirtualTimeLoop()
        self.engine = MemoryEngine(self.now, counts=self.counts)
        self.store = JobStore(self.engine)  # type: ignore[arg-type]  # as far as jobs use it
        self.world = World(self)
        self.steps = JobSteps(self.engine, [self.world], self.loop, self.now)  # type: ignore[arg-type]  # as above
        self.selected: dict[str, list[str]] = {}
        self.places: dict[str, Mapping[str, Any] | None] = {}
        self.offered: set[tuple[str, str]] = set()
        self.begun_at: dict[str, list[float]] = {job: [] for job in JOBS_OF_TEST}
        self.interruptions = Counter[str]()
        """Crashes and freezes of steps. A step that repeats an interrupted one does not know when that began items."""
        self.ended: dict[str, str] = {}
        self.done: set[str] = set()
        self.finals: dict[tuple[str, str], list[str]] = {}
        self.frozen: list[tuple[FrozenProcess, asyncio.Task[None]]] = []
        self.failures: list[AssertionError] = []
        self.patches = [mock.patch.object(module, "ITEMS_PER_PAGE", PAGE) for module in (steps, store)]
        for patch in self.patches:
            patch.start()

    def now(self) -> float:
        return self.time + self.loop.time()

    def run(self, work: Any, crash: int | None) -> Any:
        """Run a coroutine; None when it was interrupted."""
        self.engine.left = crash
        try:
            return self.loop.run_until_complete(work)
        except asyncio.CancelledError:
            return None
        finally:
            self.engine.left = None

    def record(self, job: str) -> JobRecord | None:
        state = self.engine.state(JOB, job)
        return None if state is None else JobRecord(job, state)

    def pages(self, job: str) -> list[JobPage]:
        numbers = range(len(ITEMS) // PAGE + 1)
        states = (self.engine.state(JOB_PAGE, job_page_key(job, number)) for number in numbers)
        return [JobPage(state) for state in states if state is not None]

    def is_held(self, item: str, job: str) -> bool:
        """Return whether another unfinished job has begun the item and has no result of it."""
        for other in JOBS_OF_TEST:
            record = self.record(other)
            if other != job and record is not None and (other, item) in self.offered:
                statuses = {id_: status for page in self.pages(other) for id_, status, _ in page.items}
                if statuses.get(item) == IN_PROGRESS:
                    return True
        return False

    def check_start(self, job: Job, item: str, together: Sequence[str]) -> None:
        """An item begins only after those before it, and after the end of the step of the ramp before it."""
        record = self.record(job.id)
        assert record is not None
        place = self.selected[job.id].index(item)
        begun = {other for id_, other in self.world.order if id_ == job.id}.union(together)
        page_items = [each for page in self.pages(job.id) for each in page.items]
        statuses = {id_: status for id_, status, _ in page_items}
        if self.world.keeps_order:
            before = self.selected[job.id][:place]
            assert all(other in begun or statuses[other] not in (LEFT, IN_PROGRESS) for other in before)
        total = 0
        for size in job.request.ramp:
            total += size
            if place >= total:
                assert all(statuses[other] not in (LEFT, IN_PROGRESS) for other in self.selected[job.id][:total])

    def check_rate(self, job: Job, rate: float, count: int) -> None:
        """In any period, at most so many items begin, and those of one call more after each interruption."""
        at_once = max(1, min(PAGE, int(rate / 2))) * (1 + self.interruptions[job.id])
        times = [*self.begun_at[job.id], *[self.now()] * count]
        for index, time in enumerate(times):
            assert len(times) - index <= rate * (times[-1] - time) + at_once + 1e-6, (rate, times)

    # Rules

    @initialize(
        keeps_order=st.booleans(),
        outcomes=st.lists(
            st.sampled_from(["succeeded", "failed", "later", "early", "skipped"]),
            min_size=len(ITEMS),
            max_size=len(ITEMS),
        ),
    )
    def begin(self, keeps_order: bool, outcomes: list[str]) -> None:
        self.world.keeps_order = keeps_order
        self.world.outcomes = dict(zip(ITEMS, outcomes, strict=True))

    @rule(
        job=st.sampled_from(JOBS_OF_TEST),
        request=requests,
        crash=crashes,
        items=st.lists(st.sampled_from(ITEMS), unique=True, min_size=1),
    )
    def submit(self, job: str, request: JobRequest, items: list[str], crash: int | None) -> None:
        if job in self.selected:
            return
        self.selected[job] = items

        async def selection() -> AsyncIterator[str]:
            for item in items:
                await self.engine.interruption()
                yield item

        self.run(self.store.submit(request, selection(), "things", job), crash)
        if f"bridge:job:{job}" in self.engine.started:
            self.places[job] = {"job": job}
        elif self.record(job) is None and not any(job in entity for entity, _, _ in self.engine.pending):
            del self.selected[job]

    @rule(job=st.sampled_from(JOBS_OF_TEST), crash=crashes)
    def step(self, job: str, crash: int | None) -> None:
        place = self.places.get(job)
        if place is None:
            return
        if self.counts:
            self.engine.process_all()
        record, before = self.record(job), len(self.world.order)
        begun = {id_ for page in self.pages(job) for id_ in page.with_status(IN_PROGRESS)}
        answer = self.run(self.steps.step(place), crash)
        stands = (JobState.PAUSED, JobState.STOPPED, *([JobState.ABORTED] if self.counts else []))
        if record is not None and record.state in stands:
            # A crash may lie between the mark of an item and its work
            new = {item for _, item in self.world.order[before:]}
            assert new <= (begun if record.state is JobState.ABORTED else set()), "work although the job does not run"
        if answer is None:
            self.interruptions[job] += 1
            return
        if answer["end"] is not None:
            self.ended[job], self.places[job] = answer["end"], None
        else:
            self.places[job] = answer["place"]
            self.time += answer["seconds"]
            assert JobCursor.of(answer["place"]).job == job

    @rule(job=st.sampled_from(JOBS_OF_TEST), calls=st.integers(1, 40))
    def freeze(self, job: str, calls: int) -> None:
        """Begin a step in a process that freezes in it. The engine gives the step to another process."""
        place = self.places.get(job)
        if place is not None and len(self.frozen) < 3:
            process = FrozenProcess(calls)
            self.frozen.append((process, self.loop.create_task(self._frozen_step(process, place))))
            self.interruptions[job] += 2  # it begins items now, and perhaps when it is thawed
            self.run(asyncio.sleep(5.0), None)

    async def _frozen_step(self, process: FrozenProcess, place: Mapping[str, Any]) -> None:
        PROCESS.set(process)
        await self.steps.step(place)

    @precondition(lambda self: self.frozen)
    @rule(place=st.integers(0, 2), calls=st.none() | st.integers(1, 20))
    def thaw(self, place: int, calls: int | None) -> None:
        """Let a frozen process go on. The engine ignores the result of its step. calls: until it freezes again."""
        process, step = self.frozen.pop(place % len(self.frozen))
        if calls is not None:
            again = FrozenProcess(calls)
            process.then = again
            self.frozen.append((again, step))
        process.thawed.set()
        if calls is None:
            self.loop.run_until_complete(step)
        else:
            self.run(asyncio.sleep(5.0), None)

    @rule(count=st.integers(1, 10))
    def process(self, count: int) -> None:
        self.engine.process(count)

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        self.time += seconds

    @rule(obstacle=st.sampled_from(["full", "outage", "refused", "bug"]))
    def put_obstacle(self, obstacle: str) -> None:
        errors = {
            "full": TryLater("full", 0.5), "outage": EngineUnavailable("away"),
            "refused": EngineError("locked"), "bug": ZeroDivisionError(),
        }  # fmt: skip
        self.world.obstacles.append(errors[obstacle])

    @rule(job=st.sampled_from(JOBS_OF_TEST), action=st.sampled_from(["pause", "resume", "abort"]), crash=crashes)
    def control(self, job: str, action: Any, crash: int | None) -> None:
        self.engine.process_all()
        if self.record(job) is None:
            return
        with suppress(EngineError):
            self.run(self.store.control(job, action, "ada", "why"), crash)

    @rule(data=st.data(), result=final)
    def report(self, data: st.DataObject, result: ItemResult) -> None:
        waiting = [
            (job, number, id_)
            for job in JOBS_OF_TEST
            for number, page in enumerate(self.pages(job))
            for id_ in page.with_status(IN_PROGRESS, ItemOutcome.EARLY)
            if (job, id_) in self.world.effects
        ]
        if waiting:
            job, number, item = data.draw(st.sampled_from(waiting))
            self.run(self.store.signal_page(job, number, JOB_RESULTS, {item: result.to_json()}), None)

    # Invariants

    @invariant()
    def no_call_was_wrong(self) -> None:
        if self.failures:
            raise self.failures[0]

    @invariant()
    def sums_hold(self) -> None:
        for job in JOBS_OF_TEST:
            record = self.record(job)
            if record is not None:
                assert sum(record.counts.values()) == record.selected, record.counts
                assert min(record.counts.values()) >= 0, record.counts

    @invariant()
    def a_job_with_too_many_failures_does_not_run(self) -> None:
        for job in JOBS_OF_TEST:
            record = self.record(job)
            if record is not None and record.state is JobState.RUNNING:
                limit = record.request.stop_after_failures
                assert limit is None or record.counts[ItemOutcome.FAILED] - record.failed_before < limit

    @invariant()
    def waiting_items_are_followed(self) -> None:
        for job in JOBS_OF_TEST:
            record = self.record(job)
            if record is not None and record.state is JobState.DONE and job not in self.done:
                self.done.add(job)
                assert not record.counts[LEFT] + record.counts[IN_PROGRESS]
                if record.waiting and record.request.follow:
                    assert record.followed is not None
                    assert record.ended is not None
                    assert record.ended - record.followed >= record.request.follow

    @invariant()
    def final_results_stay(self) -> None:
        for job in JOBS_OF_TEST:
            for page in self.pages(job):
                for id_, status, detail in page.items:
                    before = self.finals.get((job, id_))
                    assert before in (None, [status, detail])
                    if status not in (LEFT, IN_PROGRESS, ItemOutcome.EARLY):
                        self.finals[job, id_] = [status, detail]

    @invariant()
    def the_record_agrees_with_the_pages(self) -> None:
        if self.engine.pending:
            return
        for job in JOBS_OF_TEST:
            record = self.record(job)
            if record is None or not record.selected:
                continue
            found: dict[str, int] = {}
            for page in self.pages(job):
                for _, status, _ in page.items:
                    found[status] = found.get(status, 0) + 1
            assert found == {name: count for name, count in record.counts.items() if count}

    @precondition(lambda self: self.selected)
    @rule()
    def look(self) -> None:
        """Items and registry can be read at any time."""
        self.engine.process_all()
        for job in JOBS_OF_TEST:
            if self.record(job) is not None:
                found = self.run(_listed(self.store, job), None)
                assert {item.id for item in found} <= set(self.selected[job])

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            for patch in self.patches:
                patch.stop()
            self.loop.close()

    def _finish(self) -> None:
        """Without further crashes every job comes to its end, and every item to one result."""
        self.no_call_was_wrong()
        self.world.obstacles.clear()
        for process, _ in self.frozen:
            process.thawed.set()
        for _, step in self.frozen:
            self.loop.run_until_complete(step)
        self.engine.process_all()
        for _ in range(400):
            for job in JOBS_OF_TEST:
                record = self.record(job)
                if record is not None and record.state in (JobState.PAUSED, JobState.STOPPED):
                    with suppress(EngineError):
                        self.run(self.store.control(job, "resume", "ada", None), None)
                for number, page in enumerate(self.pages(job)):
                    for item in page.with_status(IN_PROGRESS):
                        if (job, item) in self.world.effects and self.world.outcomes[item] == "later":
                            done = {item: ItemResult(ItemOutcome.SUCCEEDED).to_json()}
                            self.run(self.store.signal_page(job, number, JOB_RESULTS, done), None)
                self.step(job, None)
                self.engine.process_all()
                self.time += 31.0
            if not any(self.places.values()):
                break
        self.no_call_was_wrong()
        assert not any(self.places.values()), [self.engine.state(JOB, job) for job in JOBS_OF_TEST]
        assert self.engine.state(JOBS, JOBS_KEY) is None or not self.engine.state(JOBS, JOBS_KEY)["jobs"]
        for job in self.ended:
            record = self.record(job)
            assert record is not None
            assert record.state not in OPEN
            assert record.counts[IN_PROGRESS] == 0
            if not record.selected:
                assert record.state is JobState.ABORTED
                assert not self.pages(job), "the selection was interrupted"
            if record.state is JobState.DONE:
                assert record.counts[LEFT] == 0
                for page in self.pages(job):
                    for id_, status, detail in page.items:
                        assert detail != STALE.detail
                        was_done = (job, id_) in self.world.effects
                        assert was_done or detail.endswith("holds it"), (id_, status, detail)


async def _listed(jobs: JobStore, job: str) -> list[store.JobItem]:
    return [item async for item in jobs.items(job)]


TestJobs = JobMachine.TestCase
TestJobs.settings = settings(stateful_step_count=40, deadline=None)


class DelayedJobMachine(JobMachine):
    """The same on an engine that processes operations late, and does not count them meanwhile."""

    counts = False


TestDelayedJobs = DelayedJobMachine.TestCase
TestDelayedJobs.settings = settings(stateful_step_count=40, deadline=None)
