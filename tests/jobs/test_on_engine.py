"""Jobs on a running engine: embedded, and behind a port as the scheduler is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from durabletask.entities import EntityInstanceId
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.app.operations.instances.instances import InstanceFilter, InstanceOperations, StartRequest
from bridge.app.operations.instances.selection import BulkFilter, InstanceSelection
from bridge.core.errors import EngineRejected, EngineUnavailable, InstanceNotFound, InvalidCommand
from bridge.core.states import JobState
from bridge.core.system_names import JOB_PAGE, JOB_RESULTS, job_instance_id, job_page_key
from bridge.engines.base import Engine
from bridge.jobs import orchestrator, steps, store
from bridge.jobs.kind import ItemOutcome, ItemResult, Job, JobRequest, TryLater
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobStore
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

FLOWS = """
from durabletask import task


def waits(ctx: task.OrchestrationContext, _):
    data = yield ctx.wait_for_external_event("go")
    return data


def other(ctx: task.OrchestrationContext, _):
    data = yield ctx.wait_for_external_event("go")
    return data


def fails(ctx: task.OrchestrationContext, _):
    raise ValueError("no")
    yield
"""
CONFIG = "sources: {}\nroutes: []\n"

Results = Mapping[str, ItemResult]
Work = Callable[[Job, Sequence[str], Collection[str]], Results]
DONE, FAILED = ItemResult(ItemOutcome.SUCCEEDED), ItemResult(ItemOutcome.FAILED, "no such thing")


class ScriptedKind:
    """Kind that does what the test says, and remembers its calls."""

    name = "test"
    item_space: str | None = "things"

    def __init__(self) -> None:
        self.keeps_order = False
        self.do: Work = lambda job, items, repeated: dict.fromkeys(items, DONE)
        self.calls: list[tuple[int, tuple[str, ...], frozenset[str]]] = []

    async def work(self, job: Job, page: int, items: Sequence[str], repeated: Collection[str]) -> Results:
        self.calls.append((page, tuple(items), frozenset(repeated)))
        return self.do(job, items, repeated)

    @property
    def worked(self) -> list[str]:
        return [item for _, items, _ in self.calls for item in items]


@dataclass
class JobsFixture:
    """Running daemon with one scripted kind."""

    daemon: DaemonFixture
    kind: ScriptedKind

    @property
    def engine(self) -> Engine:
        return self.daemon.daemon.engines["default"]

    @property
    def store(self) -> JobStore:
        return JobStore(self.engine)

    @property
    def instances(self) -> InstanceOperations:
        return InstanceOperations(self.engine)

    async def submit(self, items: Iterable[str], **request: object) -> str:
        given = JobRequest(**{"kind": "test", "cut_off": time.time(), "by": "ada"} | request)  # type: ignore[arg-type]  # by name
        submitted = await self.store.submit(given, each(items), self.kind.item_space)
        assert submitted is not None
        return submitted[0]

    async def until(self, job: str, condition: Callable[[JobRecord], object]) -> JobRecord:
        """Wait for a condition of the record; the sums hold at every look."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                record = await self.store.record(job)
                assert sum(record.counts.values()) == record.selected
                assert min(record.counts.values()) >= 0
                if condition(record):
                    return record
                await asyncio.sleep(0.02)

    async def state(self, job: str, *states: JobState) -> JobRecord:
        return await self.until(job, lambda record: record.state in states)

    async def done(self, job: str) -> JobRecord:
        return await self.state(job, JobState.DONE)

    async def report(self, job: str, page: int, results: Mapping[str, ItemResult]) -> None:
        """Report results as the one who finishes an item later."""
        value = {item: result.to_json() for item, result in results.items()}
        await self.engine.client.signal_entity(EntityInstanceId(JOB_PAGE, job_page_key(job, page)), JOB_RESULTS, value)

    async def statuses(self, job: str) -> dict[str, str]:
        return {item.id: item.status async for item in self.store.items(job)}


async def each(items: Iterable[str]) -> AsyncIterator[str]:
    for item in items:
        yield item


def named(count: int, prefix: str = "item-") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.fixture
def kind() -> ScriptedKind:
    return ScriptedKind()


@pytest.fixture(params=ENGINES)
async def jobs(request: pytest.FixtureRequest, tmp_path: Path, kind: ScriptedKind) -> AsyncIterator[JobsFixture]:
    async with running(tmp_path, CONFIG, FLOWS, request.param, kinds=[kind]) as daemon:
        yield JobsFixture(daemon, kind)


async def test_every_item_has_a_result_and_the_history_stays_short(jobs: JobsFixture) -> None:
    job = await jobs.submit(named(1234), reason="because", selection="all things")
    record = await jobs.done(job)
    assert record.counts["succeeded"] == 1234
    assert (record.request.reason, record.request.selection, record.request.by) == ("because", "all things", "ada")
    assert sorted(jobs.kind.worked) == sorted(named(1234))
    assert set((await jobs.statuses(job)).values()) == {"succeeded"}
    state = await jobs.daemon.client.wait_for_orchestration_completion(job_instance_id(job), timeout=TIMEOUT)
    assert state.serialized_output == '"done"'
    history = await jobs.daemon.client.get_protocol_history(job_instance_id(job))
    assert sum(event.ByteSize() for event in history) < 50_000
    assert job not in (await jobs.store.registry()).jobs


async def test_no_item_makes_no_job(jobs: JobsFixture) -> None:
    assert await jobs.store.submit(JobRequest("test"), each([]), None) is None
    assert await jobs.store.records() == []
    with pytest.raises(InstanceNotFound, match="there is no job nothing"):
        await jobs.store.record("nothing")


async def test_a_long_job_continues_as_new(jobs: JobsFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history has at most ROUNDS rounds, here of one call and one wait each, however many items the job has."""
    monkeypatch.setattr(steps, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(steps, "_SHORT_WAIT", 0.0)
    monkeypatch.setattr(orchestrator, "ROUNDS", 10)
    jobs.kind.keeps_order = True
    job = await jobs.submit(named(2000), rate=5000.0)
    sizes = []
    while (await jobs.store.record(job)).is_open:
        history = await jobs.daemon.client.get_protocol_history(job_instance_id(job))
        sizes.append((sum(event.HasField("taskScheduled") for event in history), sum(map(_size, history))))
        await asyncio.sleep(0.01)
    assert jobs.kind.worked == named(2000)
    assert len(jobs.kind.calls) == 20
    assert max(rounds for rounds, _ in sizes) <= orchestrator.ROUNDS
    assert max(size for _, size in sizes) < 20_000
    assert any(later < earlier for (earlier, _), (later, _) in pairwise(sizes)), "never began anew"


def _size(event: pb.HistoryEvent) -> int:
    return event.ByteSize()


async def test_items_of_an_ordered_kind_come_in_the_order_of_their_selection(jobs: JobsFixture) -> None:
    jobs.kind.keeps_order = True
    await jobs.done(await jobs.submit(named(450)))
    assert jobs.kind.worked == named(450)
    assert [page for page, _, _ in jobs.kind.calls] == [0, 1, 2, 3, 4]


async def test_results_may_follow_later(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: {}
    job = await jobs.submit(named(150))
    record = await jobs.until(job, lambda record: record.counts["in_progress"] == 150)
    assert record.state is JobState.RUNNING
    await jobs.report(job, 0, dict.fromkeys(named(100), DONE))
    await jobs.report(job, 0, dict.fromkeys(named(100), FAILED))  # the first result stays
    await jobs.report(job, 1, dict.fromkeys(named(150)[100:], ItemResult(ItemOutcome.DUPLICATE)))
    await jobs.report(job, 1, {"unknown": DONE})
    record = await jobs.done(job)
    assert (record.counts["succeeded"], record.counts["duplicate"], record.counts["failed"]) == (100, 50, 0)
    assert len(jobs.kind.worked) == 150


async def test_waiting_items_are_followed(jobs: JobsFixture) -> None:
    waiting = ItemResult(ItemOutcome.EARLY)
    jobs.kind.do = lambda job, items, repeated: dict.fromkeys(items, DONE) | {"item-1": waiting, "item-2": waiting}
    job = await jobs.submit(named(3), follow=3600.0)
    record = await jobs.until(job, lambda record: record.followed is not None)
    assert (record.state, record.waiting) == (JobState.RUNNING, 2)
    await jobs.report(job, 0, {"item-1": ItemResult(ItemOutcome.QUARANTINED)})
    await jobs.until(job, lambda record: record.counts["quarantined"] == 1)
    await jobs.report(job, 0, {"item-1": DONE, "item-2": FAILED})
    record = await jobs.done(job)
    assert (record.counts["succeeded"], record.counts["failed"]) == (2, 1)


async def test_waiting_items_are_followed_no_longer_than_asked_and_counted_afterwards(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: dict.fromkeys(items, ItemResult(ItemOutcome.EARLY))
    job = await jobs.submit(named(3), follow=0.0)
    record = await jobs.done(job)
    assert record.counts["early"] == 3
    await jobs.report(job, 0, dict.fromkeys(named(3), DONE))
    await jobs.until(job, lambda record: record.counts["succeeded"] == 3)


async def test_a_ramp_waits_for_the_end_of_each_step(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: {}
    job = await jobs.submit(named(130), ramp=(1, 10, 100), stop_after_failures=1)
    for begin, end in ((0, 1), (1, 11), (11, 111), (111, 130)):
        await jobs.until(job, partial(_is_handed, end))
        # The record has items as handed before the page of each has worked on them
        await eventually(partial(_has_worked, jobs.kind, end))
        assert sorted(jobs.kind.worked) == sorted(named(end))
        for page in (0, 1):
            items = [item for item in named(end)[begin:] if (int(item[5:]) >= 100) == bool(page)]
            await jobs.report(job, page, dict.fromkeys(items, DONE))
    assert (await jobs.done(job)).counts["succeeded"] == 130
    assert len(jobs.kind.worked) == 130


def _has_worked(kind: ScriptedKind, count: int) -> bool:
    return len(kind.worked) >= count


def _is_handed(count: int, record: JobRecord) -> bool:
    return record.handed == count


async def test_a_job_stops_after_failures_and_a_person_resumes_it(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: dict.fromkeys(items, FAILED)
    job = await jobs.submit(named(111), ramp=(1, 10, 100), stop_after_failures=1)
    record = await jobs.state(job, JobState.STOPPED)
    assert (record.counts["failed"], record.counts["left"], record.why) == (1, 110, "1 failed (limit 1)")
    assert jobs.kind.worked == named(1)
    assert [item.detail async for item in jobs.store.items(job, {"failed"})] == ["no such thing"]
    with pytest.raises(EngineRejected, match="it is stopped; only a job that is running can be paused"):
        await jobs.store.control(job, "pause", "ada", None)
    jobs.kind.do = lambda job, items, repeated: dict.fromkeys(items, DONE)
    record = await jobs.store.control(job, "resume", "grace", "fixed")
    assert (record.control["by"], record.control["reason"]) == ("grace", "fixed")
    record = await jobs.done(job)
    assert (record.counts["failed"], record.counts["succeeded"]) == (1, 110)


async def test_a_rate_limits_the_items_per_second(jobs: JobsFixture) -> None:
    began = time.monotonic()
    job = await jobs.submit(named(60), rate=40.0)
    await jobs.done(job)
    assert time.monotonic() - began > 0.9
    assert max(len(items) for _, items, _ in jobs.kind.calls) == 20


async def test_a_full_queue_is_tried_again_and_counts_as_left(jobs: JobsFixture) -> None:
    jobs.kind.keeps_order = True
    full = True

    def do(job: Job, items: Sequence[str], repeated: Collection[str]) -> Results:
        if full:
            raise TryLater("full", 0.05)
        return dict.fromkeys(items, DONE)

    jobs.kind.do = do
    job = await jobs.submit(named(5))
    await jobs.until(job, lambda record: len(jobs.kind.calls) >= 3)
    await jobs.store.control(job, "pause", "ada", None)
    await jobs.until(job, lambda record: record.counts["left"] == 5)
    full = False
    await jobs.store.control(job, "resume", "ada", None)
    await jobs.done(job)
    assert all(not repeated for _, _, repeated in jobs.kind.calls)


async def test_pause_and_abort(jobs: JobsFixture) -> None:
    job = await jobs.submit(named(1000), rate=20.0)
    await jobs.until(job, lambda record: record.counts["succeeded"] >= 10)
    record = await jobs.store.control(job, "pause", "ada", "lunch")
    assert record.state is JobState.PAUSED
    assert job in (await jobs.store.registry()).jobs
    await jobs.store.control(job, "resume", "ada", None)
    before = (await jobs.store.record(job)).finished
    await jobs.until(job, lambda record: record.finished > before)
    record = await jobs.store.control(job, "abort", "ada", "wrong filter")
    assert (record.state, record.counts["left"] > 900) == (JobState.ABORTED, True)
    state = await jobs.daemon.client.wait_for_orchestration_completion(job_instance_id(job), timeout=TIMEOUT)
    assert state.serialized_output == '"aborted"'
    with pytest.raises(EngineRejected, match="only a job that is unfinished can be aborted"):
        await jobs.store.control(job, "abort", "ada", None)
    record = await jobs.store.record(job)
    assert (record.counts["in_progress"], job in (await jobs.store.registry()).jobs) == (0, False)


async def test_an_outage_is_waited_for_and_a_refusal_stops_the_job(jobs: JobsFixture) -> None:
    errors: list[Exception] = [EngineUnavailable("away"), EngineRejected("the thing is locked"), ZeroDivisionError()]

    def do(job: Job, items: Sequence[str], repeated: Collection[str]) -> Results:
        if errors:
            raise errors.pop(0)
        return dict.fromkeys(items, DONE)

    jobs.kind.do = do
    job = await jobs.submit(named(5))
    record = await jobs.state(job, JobState.STOPPED)
    assert record.why == "the thing is locked"
    await jobs.store.control(job, "resume", "ada", None)
    await jobs.until(job, lambda record: "unexpected ZeroDivisionError" in record.why)
    await jobs.store.control(job, "resume", "ada", None)
    assert (await jobs.done(job)).counts["succeeded"] == 5
    assert [len(repeated) for _, _, repeated in jobs.kind.calls] == [0, 5, 5, 5]


async def test_items_that_another_job_holds_are_skipped(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: {}
    first = await jobs.submit(named(120))
    await jobs.until(first, lambda record: record.counts["in_progress"] == 120)
    await jobs.report(first, 0, {"item-0": DONE})
    await jobs.until(first, lambda record: record.counts["succeeded"] == 1)
    second = await jobs.submit([*named(150), *named(20, "other-")])
    record = await jobs.until(second, lambda record: record.counts["in_progress"] == 170 - 119)
    assert record.counts["skipped"] == 119
    details = {item.detail async for item in jobs.store.items(second, {"skipped"})}
    assert details == {f"job {first} holds it"}
    statuses = await jobs.statuses(second)
    assert (statuses["item-0"], statuses["item-1"], statuses["item-120"]) == ("in_progress", "skipped", "in_progress")


async def test_a_selection_that_stops_is_aborted_and_removed(
    jobs: JobsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SELECTION_SECONDS", 0.3)
    monkeypatch.setattr("bridge.jobs.state_machine.SELECTION_SECONDS", 0.3)
    blocked = asyncio.Event()

    async def endless() -> AsyncIterator[str]:
        for item in named(350):
            yield item
        await blocked.wait()

    submission = asyncio.create_task(
        jobs.store.submit(JobRequest("test", cut_off=time.time()), endless(), "things", "dead")
    )

    await eventually(jobs.store.records)
    record = await jobs.state("dead", JobState.ABORTED)
    assert record.why == "the selection did not finish"

    async def reached() -> object:
        return not await jobs.store.page_numbers("dead")

    await eventually(reached)
    blocked.set()
    await submission  # too late: nothing begins
    assert (await jobs.store.record("dead")).state is JobState.ABORTED
    assert jobs.kind.calls == []


async def test_a_selection_that_fails_aborts_its_job(jobs: JobsFixture) -> None:
    async def broken() -> AsyncIterator[str]:
        for item in named(250):
            yield item
        raise EngineUnavailable("away")

    with pytest.raises(EngineUnavailable):
        await jobs.store.submit(JobRequest("test"), broken(), "things", "broken")
    await jobs.state("broken", JobState.ABORTED)


async def test_a_job_has_at_most_so_many_items(jobs: JobsFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ITEMS", 100)
    with pytest.raises(InvalidCommand, match="more than 100 items"):
        await jobs.submit(named(101))


@pytest.mark.parametrize("engine", ENGINES)
async def test_old_jobs_are_removed_when_another_one_starts(tmp_path: Path, kind: ScriptedKind, engine: str) -> None:
    async with running(tmp_path, CONFIG, FLOWS, engine, kinds=[kind], ops=", jobs: {most: 1}") as daemon:
        jobs = JobsFixture(daemon, kind)
        old = await jobs.submit(named(150))
        await jobs.done(old)
        latest = await jobs.submit(named(1))
        await jobs.done(latest)
        await jobs.done(await jobs.submit(named(1)))

        async def reached() -> object:
            jobs_left = {record.id for record in await jobs.store.records()}
            return old not in jobs_left and not await jobs.store.page_numbers(old)

        await eventually(reached)
        assert latest in {record.id for record in await jobs.store.records()}


async def test_a_kind_that_no_process_has_stops_the_job(jobs: JobsFixture) -> None:
    record = await jobs.state(await jobs.submit(named(1), kind="later"), JobState.STOPPED)
    assert record.why == "this version has no jobs of the kind later"


# Instances


async def start(jobs: JobsFixture, orchestration: str, ids: Iterable[str], **tags: str) -> None:
    for instance_id in ids:
        await jobs.instances.start(StartRequest(orchestration, None, instance_id, tags=tags))


async def act(jobs: JobsFixture, action: str, given: BulkFilter, **request: object) -> JobRecord:
    """Submit a job on instances and wait for its end."""
    cut_off = time.time()
    selection = InstanceSelection(jobs.engine, action, given, cut_off, None)
    fields = {"kind": f"instances.{action}", "cut_off": cut_off, "by": "ada"} | request
    submitted = await jobs.store.submit(JobRequest(**fields), selection.ids(), "instances")  # type: ignore[arg-type]  # by name
    assert submitted is not None
    return await jobs.done(submitted[0])


async def ids(jobs: JobsFixture, *statuses: str) -> list[str]:
    """Ids of the test's instances with these statuses; jobs are not among them."""
    found = await jobs.instances.list(InstanceFilter(statuses=statuses, prefix="i-"), payloads=False)
    return sorted(one.instance_id for one in found)


async def test_instances_are_terminated_by_a_condition(jobs: JobsFixture) -> None:
    await start(jobs, "waits", named(120, "i-a-"), tenant="a")
    await start(jobs, "waits", named(5, "i-b-"), tenant="b")
    await start(jobs, "other", named(5, "i-c-"), tenant="a")
    record = await act(jobs, "terminate", BulkFilter("waits", where="tags.tenant == 'a'"), arguments={"output": 1})
    assert record.counts["succeeded"] == 120
    assert await ids(jobs, "TERMINATED") == sorted(named(120, "i-a-"))
    assert (await jobs.instances.show("i-a-0")).output == 1


async def test_instances_are_suspended_resumed_and_get_an_event(jobs: JobsFixture) -> None:
    await start(jobs, "waits", named(5, "i-"))
    assert (await act(jobs, "suspend", BulkFilter("waits"), reason="lunch")).counts["succeeded"] == 5

    async def reached() -> object:
        return await ids(jobs, "SUSPENDED") == named(5, "i-")

    await eventually(reached)
    assert (await act(jobs, "resume", BulkFilter("waits"))).counts["succeeded"] == 5
    record = await act(jobs, "raise", BulkFilter("waits"), arguments={"event": "go", "data": {"paid": True}})
    assert record.counts["succeeded"] == 5
    for instance_id in named(5, "i-"):
        one = await jobs.instances.wait(instance_id, "completion", TIMEOUT)
        assert one is not None
        assert one.output == {"paid": True}


async def test_failed_instances_are_rewound_or_restarted(jobs: JobsFixture) -> None:
    await start(jobs, "fails", named(3, "i-"))
    for instance_id in named(3, "i-"):
        await jobs.instances.wait(instance_id, "completion", TIMEOUT)
    assert (await act(jobs, "restart", BulkFilter(statuses=("FAILED",)))).counts["succeeded"] == 3
    for instance_id in named(3, "i-"):
        await jobs.instances.wait(instance_id, "completion", TIMEOUT)
    record = await act(jobs, "rewind", BulkFilter("fails"))
    assert record.counts["succeeded"] + record.counts["failed"] == 3


async def test_instances_that_have_changed_since_their_selection_are_skipped(jobs: JobsFixture) -> None:
    await start(jobs, "waits", named(3, "i-"))
    await jobs.instances.terminate("i-1", None, recursive=True)

    async def reached() -> object:
        return await ids(jobs, "TERMINATED") == ["i-1"]

    await eventually(reached)
    request = JobRequest("instances.terminate", cut_off=time.time())
    submitted = await jobs.store.submit(request, each([*named(3, "i-"), "i-gone"]), "instances")
    assert submitted is not None
    record = await jobs.done(submitted[0])
    assert (record.counts["succeeded"], record.counts["skipped"]) == (2, 2)
    details = [item.detail async for item in jobs.store.items(submitted[0], {"skipped"})]
    assert details == ["the instance is TERMINATED", "the instance does not exist any more"]


async def test_jobs_select_no_instance_of_the_bridge(jobs: JobsFixture) -> None:
    jobs.kind.do = lambda job, items, repeated: {}
    await jobs.submit(named(1))
    selection = InstanceSelection(jobs.engine, "terminate", BulkFilter(), time.time(), None)
    assert [one async for one in selection.ids()] == []


async def test_many_reads_need_a_confirmation(jobs: JobsFixture) -> None:
    await start(jobs, "waits", named(5, "i-"))
    selection = InstanceSelection(jobs.engine, "terminate", BulkFilter("other"), time.time(), 4)
    with pytest.raises(InvalidCommand, match="more than 4 instances"):
        _ = [one async for one in selection.ids()]
    selection = InstanceSelection(jobs.engine, "terminate", BulkFilter(prefix="i-"), time.time(), 4)
    assert len([one async for one in selection.ids()]) == 5
    assert selection.reads == 0


@pytest.mark.parametrize(
    ("action", "given", "problem"),
    [
        ("rewind", BulkFilter(statuses=("RUNNING",)), "rewind works on instances that are failed, not running"),
        ("terminate", BulkFilter(where="tags."), "`where`: "),
        ("terminate", BulkFilter(where="payload.a == 1"), "`where`: "),
    ],
)
async def test_a_filter_that_selects_nothing_is_refused(
    jobs: JobsFixture, action: str, given: BulkFilter, problem: str
) -> None:
    with pytest.raises(InvalidCommand, match=problem):
        InstanceSelection(jobs.engine, action, given, time.time(), None)
