"""Replay queue: what is added is executed once, in order, and each result is reported once."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.core.stored_message import OperationResult, ReplayOf
from bridge.jobs.kind import ItemOutcome
from bridge.replay.state_machine import FORGET, JOBS, LEASE, ReplayQueue
from bridge.waiting.claim import Claim
from bridge.waiting.replays import ReplayEnd, ends, signals
from tests.waiting.sample import stored

PAGE = 4


def item(job: str, page: int, number: int) -> dict[str, Any]:
    mark = f"{job}/{page}/{number}"
    replay = ReplayOf("default", job, page, mark, "local", ("orders.dlq", 0, page * PAGE + number))
    dead_letter = stored(number).to_json() | {"replay": replay.to_json()}
    return {"mark": mark, "letter": dead_letter, "size": 10}


class QueueFixture:
    """Queue whose state goes through JSON after each operation, as on an engine."""

    def __init__(self) -> None:
        self.state: Any = None
        self.now = 1000.0

    @property
    def queue(self) -> ReplayQueue:
        return ReplayQueue(self.state)

    @property
    def marks(self) -> list[str]:
        return [each["mark"] for each in self.queue.items]

    def do(self, operation: str, *arguments: Any) -> OperationResult:
        queue = self.queue
        result: OperationResult = getattr(queue, operation)(*arguments)
        self.state = json.loads(json.dumps(queue.to_json()))
        return result

    def add(self, job: str, page: int, numbers: range | list[int]) -> OperationResult:
        items = [item(job, page, number) for number in numbers]
        value = {"source": "orders", "topic": "orders", "partition": 0, "job": job, "page": page, "items": items}
        return self.do("add", value, self.now)

    def settle(self, *results: dict[str, Any]) -> OperationResult:
        return self.do("settle", results, self.now)


def succeeded(mark: str) -> dict[str, Any]:
    return {"mark": mark, "result": "succeeded", "detail": ""}


def failed(mark: str) -> dict[str, Any]:
    return {"mark": mark, "result": "failed", "reason": "no_route", "detail": "no rule", "route": "paid", "attempts": 2}


def test_messages_wait_in_their_order_until_they_are_settled() -> None:
    it = QueueFixture()
    assert it.add("a", 0, range(3)).events == ["stored"] * 3
    it.add("a", 1, range(1))
    it.add("b", 0, range(1))
    assert it.marks == ["a/0/0", "a/0/1", "a/0/2", "a/1/0", "b/0/0"]
    result = it.settle(succeeded("a/0/1"), succeeded("b/0/0"))
    assert it.marks == ["a/0/0", "a/0/2", "a/1/0"]
    assert [(end.replay.item, end.result.result) for end in ends(result)] == [
        ("a/0/1", ItemOutcome.SUCCEEDED), ("b/0/0", ItemOutcome.SUCCEEDED),
    ]  # fmt: skip
    assert it.queue.size == 30


def test_a_repeated_addition_adds_nothing_even_when_its_messages_have_left() -> None:
    it = QueueFixture()
    it.add("a", 0, range(3))
    it.settle(*(succeeded(mark) for mark in it.marks))
    assert it.add("a", 0, range(3)).events == ["repeated"] * 3
    assert it.add("a", 0, range(4)).events == ["repeated"] * 3 + ["stored"]
    it.add("a", 1, range(2))
    assert it.add("a", 0, range(4)).events == ["repeated"] * 4, "of a worker that was frozen for long"
    assert it.marks == ["a/0/3", "a/1/0", "a/1/1"]


def test_the_first_result_counts() -> None:
    it = QueueFixture()
    it.add("a", 0, range(1))
    assert it.settle(succeeded("a/0/0"), failed("a/0/0")).undelivered == []
    assert list(ends(it.settle(failed("a/0/0")))) == []


def test_a_failed_message_becomes_another_dead_letter_with_the_facts_of_its_failure() -> None:
    it = QueueFixture()
    it.add("a", 0, range(1))
    result = it.settle(failed("a/0/0") | {"executed": ["first", "second"], "expression": "route paid, when"})
    [dead] = result.undelivered
    assert (dead.reason, dead.detail, dead.attempts, dead.item["route"]) == ("no_route", "no rule", 2, "paid")
    assert (dead.item["letter"]["executed"], dead.item["expression"]) == (["first", "second"], "route paid, when")
    [end] = ends(result)
    assert (end.result.result, end.result.detail, end.change) == (
        ItemOutcome.FAILED,
        "new cause: no_route: no rule",
        "returned",
    )


def test_a_failed_message_whose_dead_letter_stays_in_its_queue_is_open_again() -> None:
    it = QueueFixture()
    only = item("a", 0, 0)
    only["letter"]["topic"] = ""
    it.do("add", {"source": "orders", "job": "a", "page": 0, "items": [only]}, it.now)
    [end] = ends(it.settle(failed("a/0/0")))
    assert (end.result.result, end.change) == (ItemOutcome.FAILED, "open")


def test_results_go_to_the_pages_of_jobs_and_to_the_states_of_dead_letters() -> None:
    it = QueueFixture()
    it.add("a", 0, range(2))
    it.add("a", 1, range(1))
    early = {"mark": "a/1/0", "result": "early", "detail": ""}
    found = [
        (str(entity), operation) for entity, operation, _ in signals(
            list[ReplayEnd](ends(it.settle(succeeded("a/0/0"), failed("a/0/1"), early)))
        )
    ]  # fmt: skip
    assert sorted(found) == [
        ("@bridge.dead_letters@local~orders.dlq~0~0000000000000000", "replayed"),
        ("@bridge.dead_letters@local~orders.dlq~0~0000000000000000", "returned"),
        ("@bridge.job_page@a~000000", "results"),
        ("@bridge.job_page@a~000001", "results"),
    ]


def test_one_process_at_a_time_has_the_queue() -> None:
    it = QueueFixture()
    it.do("claim", "me", it.now)
    assert not Claim.of(it.state or {}).is_held(it.now), "an empty queue"
    it.add("a", 0, range(1))
    it.do("claim", "me", it.now)
    it.do("claim", "other", it.now + LEASE - 1)
    assert it.state["owner"] == "me"
    it.do("unclaim", "other")
    assert it.state["owner"] == "me"
    it.do("claim", "other", it.now + LEASE)
    assert it.state["owner"] == "other"


def test_a_queue_forgets_its_jobs_some_time_after_their_last_message() -> None:
    it = QueueFixture()
    wake = it.add("a", 0, range(2)).wake
    assert wake == it.now + FORGET
    it.settle(succeeded("a/0/0"))
    it.now = wake
    wake = it.do("tick", wake, it.now).wake
    assert (it.marks, wake) == (["a/0/1"], it.now + FORGET)
    it.settle(succeeded("a/0/1"))
    assert it.state is not None
    assert it.do("tick", it.now, it.now).wake is None, "another time than the planned one"
    assert it.state is not None
    it.do("tick", wake, wake)
    assert it.state is None


def test_a_queue_remembers_a_limited_number_of_jobs() -> None:
    it = QueueFixture()
    for number in range(JOBS + 10):
        it.now += 1
        it.add(f"job-{number}", 0, range(1))
        if number:
            it.settle(succeeded(f"job-{number}/0/0"))
    assert len(it.state["jobs"]) == JOBS + 1
    assert it.marks == ["job-0/0/0"]


class QueueMachine(RuleBasedStateMachine):
    """Jobs that add pages in order, with repetitions; a daemon that settles; crashes of both."""

    @initialize()
    def begin(self) -> None:
        self.it = QueueFixture()
        self.pages: dict[str, int] = {}
        self.wanted: list[str] = []
        self.results: Counter[str] = Counter()

    def take(self, result: OperationResult) -> None:
        for end in ends(result):
            self.results[end.replay.item] += 1

    @rule(job=st.sampled_from("abc"), numbers=st.integers(1, PAGE))
    def add_page(self, job: str, numbers: int) -> None:
        page = self.pages[job] = self.pages.get(job, -1) + 1
        self.it.add(job, page, range(numbers))
        self.wanted += [f"{job}/{page}/{number}" for number in range(numbers)]

    @precondition(lambda self: self.pages)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A worker was killed after an addition, or frozen before it."""
        job = data.draw(st.sampled_from(sorted(self.pages)))
        page = data.draw(st.integers(0, self.pages[job]))
        known = [mark for mark in self.wanted if mark.startswith(f"{job}/{page}/")]
        result = self.it.add(job, page, list(range(len(known))))
        assert result.events == ["repeated"] * len(known)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """A daemon settles messages, also those that another one has settled before."""
        if not self.wanted:
            return
        marks = data.draw(st.lists(st.sampled_from(self.wanted), max_size=5))
        word = data.draw(st.sampled_from([succeeded, failed]))
        self.take(self.it.settle(*map(word, marks)))

    @rule(owner=st.sampled_from("xy"), passed=st.floats(0, 2 * LEASE))
    def claim(self, owner: str, passed: float) -> None:
        self.it.now += passed
        before = self.it.state
        self.it.do("claim", owner, self.it.now)
        if before is not None and before["owner"] not in (None, owner) and before["lease"] > self.it.now:
            assert self.it.state["owner"] == before["owner"]

    @rule(owner=st.sampled_from("xy"))
    def unclaim(self, owner: str) -> None:
        self.it.do("unclaim", owner)

    @precondition(lambda self: self.it.state is not None)
    @rule()
    def tick_too_early(self) -> None:
        self.it.do("tick", self.it.state["tick"], self.it.now)

    @invariant()
    def each_waits_in_order_or_has_one_result(self) -> None:
        waiting = self.it.marks
        assert waiting == [mark for mark in self.wanted if mark not in self.results]
        assert all(count == 1 for count in self.results.values())
        assert self.it.queue.size == 10 * len(waiting)


TestQueue = QueueMachine.TestCase
