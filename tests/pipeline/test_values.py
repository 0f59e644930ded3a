"""Counts per value as pure decisions: slots in a bounded table, shares of messages in flight, waiting starts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.commands import RaiseEvent, ScheduleOrchestration
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, Lanes, OrderingDomain
from bridge.pipeline.limits.per_value import KEEP, ValueAccounts, ValueShare
from bridge.pipeline.limits.route_limits import RouteLimit, TokenBucket
from bridge.pipeline.limits.running_instances import RunningInstances, RunningValue
from bridge.routing.per import SHARED, digest
from tests.kit.waiting import TIMEOUT
from tests.pipeline.deliveries import shares_of


class Account:
    """Account that reports whether it is in use."""

    def __init__(self) -> None:
        self.used = False

    def idle(self, now: float) -> bool:
        return not self.used


@dataclass
class Body:
    size: int


@dataclass
class Delivery:
    message: Body


def item(size: int = 1) -> InFlightDelivery:
    return InFlightDelivery(Delivery(Body(size)), None, None, 0.0)  # type: ignore[arg-type]  # as much of a delivery as is read


# -- table


def test_values_have_accounts_of_their_own_up_to_the_bound() -> None:
    table = ValueAccounts(2, Account)
    first, second = table.of("a", 0.0), table.of("b", 0.0)
    assert first is not second
    assert table.of("a", 1.0) is first
    assert table.of("c", 1.0) is table.shared is table.of(SHARED, 1.0)
    assert (len(table), table.overflows) == (2, 1)


def test_a_place_is_free_when_its_account_was_idle_for_a_while() -> None:
    table = ValueAccounts(2, Account)
    kept, gone = table.of("kept", 0.0), table.of("gone", 0.0)
    table.of("kept", KEEP / 2)
    assert table.of("new", KEEP - 1) is table.shared
    assert table.of("new", KEEP) is not table.shared
    assert table.of("kept", KEEP) is kept
    assert table.of("gone", KEEP) is table.shared, "its place is taken"
    assert not gone.used


def test_an_account_in_use_keeps_its_place_however_old() -> None:
    table = ValueAccounts(40, Account)
    accounts = [table.of(str(number), 0.0) for number in range(40)]
    for account in accounts[:39]:
        account.used = True
    looks = 0
    while table.of("new", 10 * KEEP) is table.shared:
        looks += 1
    assert looks <= 3, "each newcomer looks at some, until the idle one is found"
    assert all(table.of(str(number), 10 * KEEP) is accounts[number] for number in range(39))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.floats(0, KEEP)), max_size=60))
def test_no_flood_takes_an_account_in_use(uses: Sequence[tuple[str, bool, float]]) -> None:
    table = ValueAccounts(3, Account)
    in_use: dict[str, Account] = {}
    now = 0.0
    for value, used, pause in uses:
        now += pause
        account = table.of(value, now)
        assert len(table) <= 3
        if value in in_use:
            assert account is in_use.pop(value)
        if account is table.shared:
            continue
        account.used = used
        if used:
            in_use[value] = account


def test_values_of_any_length_are_kept_as_digests() -> None:
    assert len(digest("x" * 1_000_000)) == len(digest("x")) == 24
    assert digest("x") != digest("y")
    assert digest("") == SHARED


def test_a_rate_is_idle_when_its_bucket_is_full() -> None:
    rate = TokenBucket(10.0, burst=2)
    assert rate.idle(0.0)
    rate.take(0.0)
    assert not rate.idle(0.05)
    assert rate.idle(0.11)


def test_what_is_let_go_before_its_time_gives_its_token_back() -> None:
    """Repeated revocation and reassignment of a partition must not use up the rate of its senders."""
    for each in (None, ValueAccounts(10, lambda: TokenBucket(1 / 3600))):
        limit = RouteLimit("tell", rate=None if each else TokenBucket(1 / 3600), each_rate=each)
        command = RaiseEvent("order-1", "noted")
        assert limit.check(item(), command, "a") is None
        for _ in range(3):
            waiting = [item() for _ in range(50)]
            delays = [not_yet.delay for one in waiting if (not_yet := limit.check(one, command, "a")) is not None]
            assert [round((delay or 0) / 3600) for delay in delays] == list(range(1, 51))
            assert limit.reason == "50 commands wait for the rate"
            for one in waiting:
                limit.forget(one)
            assert limit.reason is None


# -- shares


@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from(["a", "b", "c", SHARED]), st.integers(1, 6)), st.integers(0, 30)),
        max_size=80,
    )
)
def test_shares_hold_their_bounds_and_stop_nobody_without_cause(steps: Sequence[tuple[str, int] | int]) -> None:
    """A step is an arrival (value, size), or the end of one of the items, in flight or waiting."""
    shares = shares_of(3, 8, 10, 10, 2)
    there: list[InFlightDelivery] = []
    woken: Counter[InFlightDelivery] = Counter()
    waited: set[InFlightDelivery] = set()
    of: dict[InFlightDelivery, ValueShare] = {}

    def wake(one: InFlightDelivery) -> None:
        woken[one] += 1

    for step in steps:
        if isinstance(step, tuple):
            one = item(step[1])
            shares.join(step[0], one)
            of[one] = shares.values.of(step[0], time.monotonic())
            there.append(one)
            if not shares.may_go(one):
                waited.add(one)
                shares.wait(one, lambda one=one: wake(one))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
        elif there:
            one = there.pop(step % len(there))
            shares.leave(one)
            waited.discard(one)
        waiting = [one for one in there if not shares.may_go(one)]
        assert shares.records == len(waiting)
        assert shares.size == sum(one.size for one in waiting)
        for share in {of[one] for one in there}:
            mine = [one for one in there if of[one] is share]
            at_work = [one for one in mine if shares.may_go(one)]
            assert share.records == len(at_work)
            assert share.size == sum(one.size for one in at_work)
            assert len(at_work) <= 3
            assert share.size <= 8 or len(at_work) == 1
            assert mine[: len(at_work)] == at_work, "first come, first served"
            behind = mine[len(at_work) :]
            assert not behind or len(at_work) == 3 or share.size + behind[0].size > 8
        for one in list(waited):
            if shares.may_go(one):
                assert woken[one] == 1, "woken once"
                waited.discard(one)
            else:
                assert not woken[one]


class Reader:
    """Source as lanes, shares and ordering domain see it: its workers, and their completed work."""

    def __init__(self, domain: OrderingDomain, done: list[tuple[int, InFlightDelivery]], number: int) -> None:
        self.lanes = Lanes(self._waits)
        self.shares = shares_of(2, 1000, 1000, 1000, 2)
        self.domain = domain
        self.done = done
        self.number = number
        self.share_of: dict[InFlightDelivery, ValueShare] = {}
        self.at_work: Counter[ValueShare] = Counter()
        self.left = 0
        self.finished = asyncio.Event()

    def receive(self, key: str, value: str, one: InFlightDelivery) -> None:
        self.left += 1
        self.domain.join(key, one)
        self.shares.join(value, one)
        self.share_of[one] = self.shares.values.of(value, time.monotonic())
        self.lanes.push(key, one)

    def drop(self, gone: Sequence[InFlightDelivery]) -> None:
        removed, _ = self.lanes.drop(lambda one: one in gone)
        for one in removed:
            self._leave(one)

    def _leave(self, one: InFlightDelivery) -> None:
        self.domain.leave(one)
        self.shares.leave(one)
        self.left -= 1
        if not self.left:
            self.finished.set()

    async def work(self, turns: Sequence[int]) -> None:
        position = 0
        while True:
            lane: Lane = await self.lanes.take()
            one = lane.items[0]
            if not self.domain.may_go(one):
                self.lanes.hold(lane)
                self.domain.wait(one, lambda lane=lane: self.lanes.free(lane))  # type: ignore[misc]  # as above
                continue
            share = self.share_of[one]
            self.at_work[share] += 1
            assert self.at_work[share] <= 2
            position += 1
            for _ in range(turns[position % len(turns)]):
                await asyncio.sleep(0)
            self.at_work[share] -= 1
            self.done.append((self.number, one))
            self.lanes.settled(lane)
            self._leave(one)

    def _waits(self, lane: Lane) -> bool:
        one = lane.items[0]
        if self.shares.may_go(one):
            return False
        self.shares.wait(one, lambda: self.lanes.free(lane))
        return True


@settings(deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from("jkl"), st.sampled_from(["a", "b", "c", SHARED])),
        min_size=1,
        max_size=40,
    ),
    turns=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    gone=st.sets(st.integers(0, 39)),
)
def test_lanes_shares_and_domains_never_wait_in_a_circle(
    arrivals: Sequence[tuple[int, str, str]], turns: Sequence[int], gone: set[int]
) -> None:
    """Two sources of one ordering domain: every message that is not abandoned is executed, in order per key over
    both."""

    async def run() -> None:
        domain, done = OrderingDomain("d"), list[tuple[int, InFlightDelivery]]()
        readers = [Reader(domain, done, number) for number in range(2)]
        key_of: dict[InFlightDelivery, str] = {}
        items = []
        for source, key, value in arrivals:
            one = item()
            items.append((source, one))
            key_of[one] = key
            readers[source].receive(key, value, one)
        workers = [asyncio.create_task(reader.work(turns)) for reader in readers for _ in range(4)]
        await asyncio.sleep(0)
        for number, reader in enumerate(readers):
            reader.drop([one for at, (source, one) in enumerate(items) if source == number and at in gone])
        waits = [asyncio.create_task(reader.finished.wait()) for reader in readers if reader.left]
        if waits:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.gather(*waits)
        broken = [task for task in workers if task.done()]
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert not broken
        by_key: dict[str, list[InFlightDelivery]] = defaultdict(list)
        for _, one in done:
            by_key[key_of[one]].append(one)
        place = {one: at for at, (_, one) in enumerate(items)}
        for ended in by_key.values():
            assert ended == sorted(ended, key=place.__getitem__)
        for reader in readers:
            assert (reader.shares.records, reader.shares.size, [*reader.lanes]) == (0, 0, [])
            assert reader.shares.values.shared.idle(0.0)

    asyncio.run(run())


# -- waiting starts


async def nothing() -> list[str]:
    return []


def running_instances(most: int | None = 2) -> RunningInstances:
    counted = RunningInstances("default", "order-", nothing, most)
    counted.known = True
    return counted


@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from(["a", "b", "c", SHARED]), st.integers(0, 9)), st.integers(0, 20)),
        max_size=60,
    ),
    st.integers(0, 20),
)
def test_starts_hold_both_caps_and_wait_for_nothing_else(
    steps: Sequence[tuple[str, int] | int], forgotten: int
) -> None:
    """A step is a start (value, id), or the end of one of the running instances."""
    runs = running_instances()
    assert runs.values is not None
    limit = RouteLimit("start", 4, runs, each_running=2)
    waiting: dict[InFlightDelivery, tuple[str, str]] = {}
    account: dict[InFlightDelivery, RunningValue] = {}
    running: dict[str, RunningValue] = {}

    def go(one: InFlightDelivery) -> None:
        value, instance_id = waiting.pop(one)
        assert limit.check(one, ScheduleOrchestration("o", instance_id), value) is None
        running.setdefault(instance_id, account[one])

    for step in steps:
        if isinstance(step, tuple):
            value, one = step[0], item()
            instance_id = f"order-{step[1]}"
            command = ScheduleOrchestration("o", instance_id)
            account[one] = runs.values.of(value, time.monotonic())
            if limit.check(one, command, value) is None:
                running.setdefault(instance_id, account[one])
            else:
                waiting[one] = (value, instance_id)
                limit.queue(one, command, value, lambda one=one: go(one))  # type: ignore[misc]  # as above
        elif running:
            instance_id = sorted(running)[step % len(running)]
            del running[instance_id]
            runs.leave([instance_id])
        elif waiting:
            raise AssertionError("nothing runs, and something waits")
        if len(waiting) > forgotten:
            one = next(iter(waiting))
            limit.forget(one)
            del waiting[one]
        assert limit.waiting == len(waiting)
        assert len(runs) == len(running) <= 4
        by_account = Counter(running.values())
        assert max(by_account.values(), default=0) <= 2
        for counted in {*account.values()}:
            assert counted.running == by_account[counted]
            assert counted.waiting == sum(account[one] is counted for one in waiting)
        if len(running) < 4:
            assert all(by_account[account[one]] == 2 for one in waiting), "only those wait whose value is at its cap"
    assert len(runs.values) <= 2


async def test_a_count_brings_values_along_and_takes_them_away() -> None:
    """After a restart, instances that the engine reports count, and instances that it no longer reports do not."""
    answer = {"order-1": digest("a"), "order-1:0001": digest("a"), "order-2": digest("a"), "order-3": SHARED}
    received = asyncio.Event()

    async def count() -> dict[str, str]:
        return dict(answer)

    counted = RunningInstances("default", "order-", count, 10)
    assert counted.values is not None
    counted.subscribe(received.set)
    counted.start()
    try:
        async with asyncio.timeout(TIMEOUT):
            await received.wait()
            a, b = counted.values.of(digest("a"), 0.0), counted.values.of(digest("b"), 0.0)
            assert (len(counted), a.running, b.running) == (3, 2, 0)
            counted.reserve("order-4", b)
            answer.clear()
            answer["order-2"] = digest("a")
            assert b.running == 1
            while len(counted) > 1:
                received.clear()
                counted.request_recount()
                await received.wait()
            assert (a.running, b.running) == (1, 0)
            counted.leave(["order-2", "order-4"])
            assert (a.running, b.running, len(counted)) == (0, 0, 0)
    finally:
        await counted.stop()
