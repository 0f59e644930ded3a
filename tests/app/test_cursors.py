"""Long lists in parts: each entry that stays is in one part, also while others come and go."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.operations.cursors import MOST_OF_PART, PART, START, EntryPlace, Order, cursor_at, place_of
from bridge.app.serve.control import operate
from bridge.app.state import trail
from bridge.core.errors import InvalidCommand
from tests.kafka.server import ThreadedServer
from tests.kit.daemon import DaemonFixture, running
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.long

Entry = tuple[int, str]

FLOWS = """
from durabletask import entities, task


def order(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("paid"))


class Counter(entities.DurableEntity):
    def add(self, number):
        self.set_state(self.get_state(int, 0) + number)
"""
CONFIG = """
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['kind']"}}
  bills: {broker: local, topics: [bills], codec: json, no_match: dead_letter}
  held:
    broker: local
    topics: [held]
    codec: json
    no_match: dead_letter
    quarantine: {poll: 50ms}
routes:
  - name: early
    from: orders
    match: {type: early}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: poison
    from: held
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: dead_letter}
"""
LISTS: Mapping[str, tuple[Mapping[str, Any], str, Sequence[str]]] = {
    "dlq.list": ({}, "dead_letters", ("id",)),
    "jobs.list": ({}, "jobs", ("job",)),
    "jobs.items": ({"job": "job0"}, "items", ("id",)),
    "audit.list": ({}, "lines", ("time", "action", "target", "id")),
    "entities.list": ({"entity": "counter"}, "entities", ("key",)),
    "early.list": ({}, "messages", ("instance_id", "id")),
    "quarantine.list": ({}, "messages", ("key", "id")),
    "instances.list": ({}, "instances", ("instance_id",)),
}
"""Parameters of each list, the member of its parts with the entries, and the members that identify an entry."""


class Lists:
    """Lists of a daemon, over its control socket."""

    def __init__(self, daemon: DaemonFixture) -> None:
        self.it = daemon
        self._id = 0

    async def ask(self, name: str, **parameters: Any) -> Any:
        [found] = await operate(self.it.daemon.loaded, None, [(name, parameters)])
        return found

    async def whole(self, name: str) -> list[str]:
        found = await self.ask(name, **LISTS[name][0], limit=1_000)
        return _ids(name, found["instances"] if name == "instances.list" else found)

    async def part(self, name: str, cursor: str, limit: int) -> tuple[list[str], str | None]:
        parameters, member, _ = LISTS[name]
        found = await self.ask(name, **parameters, cursor=cursor, limit=limit)
        assert len(found[member]) <= limit
        return _ids(name, found[member]), found["next"]

    async def rest(self, name: str, limit: int, cursor: str | None = START) -> list[str]:
        found: list[str] = []
        while cursor is not None:
            part, cursor = await self.part(name, cursor, limit)
            found += part
        return found

    async def add(self) -> None:
        """Add an entry to each list, but for the items of a job, which are frozen; and wait for them."""
        self._id += 1
        ledgers = [source.ledger for source in self.it.daemon.sources]
        before = sum(sum(each.outcomes.values()) for each in ledgers)
        await self.it.publish("orders", {"id": self._id}, f"key-{self._id % 3}", kind="early")
        await self.it.publish("orders", {"id": self._id}, f"key-{self._id % 3}", kind="none")
        await self.it.publish("bills", {"id": self._id}, f"key-{self._id % 3}")
        await self.it.publish("held", {"id": self._id}, f"key-{self._id % 3}")
        for name in ("a", "z"):
            await self.ask("entities.signal", entity="counter", key=f"{name}{self._id}", operation="add", input=1)
        await self.it.client.schedule_new_orchestration("order", instance_id=f"waits-{self._id}")
        await self.it.settled(before + 4)
        await self.it.until(self._has_entities, "both signals are processed")

    async def _has_entities(self) -> bool:
        found = await self.ask("entities.list", entity="counter")
        return len(found) == 2 * self._id

    async def submit(self, number: int) -> None:
        """Submit a job on the instances, and wait for its end."""
        job = f"job{number}"
        action = "resume" if number % 2 else "suspend"
        await self.ask(f"instances.{action}_by", prefix="waits-", job=job)
        await self.over(job)

    async def over(self, job: str) -> None:
        """Wait for the end of a job."""

        async def has_ended() -> bool:
            return (await self.ask("jobs.show", job=job))["ended"] is not None

        await self.it.until(has_ended, f"{job} is over")


def _ids(name: str, entries: list[Any]) -> list[str]:
    return [" ".join(str(each.get(member)) for member in LISTS[name][2]) for each in entries]


async def test_each_list_has_every_entry_in_one_part(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as daemon:
        lists = Lists(daemon)
        for _ in range(5):
            await lists.add()
        for number in range(3):
            await lists.submit(number)
        begun: dict[str, tuple[list[str], str | None, list[str]]] = {}
        for name in LISTS:
            whole = await lists.whole(name)
            assert len(whole) >= 3
            for limit in (1, 2, 100):
                assert sorted(await lists.rest(name, limit)) == sorted(whole), (name, limit)
            begun[name] = (*await lists.part(name, START, 2), whole)
        # Entries come and go, before and after the place of each cursor
        await lists.add()
        await lists.submit(3)
        early, held = await lists.ask("early.list"), await lists.ask("quarantine.list")
        for one in (early[0], early[-2]):
            await lists.ask("early.drop", instance_id=one["instance_id"])
        await lists.ask("quarantine.drop", source="held", key=held[0]["key"], ids=[held[0]["id"]])
        dead_letters = begun["dlq.list"][2]
        dropped = await lists.ask("dlq.drop", ids=[dead_letters[0], dead_letters[-1]], reason="test")
        for each in dropped:
            await lists.over(each["job"])
        for name, (first, cursor, whole) in begun.items():
            now = await lists.whole(name)
            found = first + await lists.rest(name, 2, cursor)
            assert len(found) == len(set(found)), name
            assert {*found} >= {*whole} & {*now}, name
            assert {*found} <= {*whole} | {*now}, name
        assert len(await lists.whole("dlq.list")) < len(dead_letters) + 4


async def test_equal_audit_lines_are_each_in_one_part(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as daemon:
        lists, copy = Lists(daemon), trail(daemon.daemon.loaded, "")
        for second in range(2):
            line = {"time": f"2026-01-01T00:00:0{second}.000Z", "actor": "ann", "action": "reload", "target": "*"}
            for _ in range(5):
                copy.append(line)
        whole = await lists.whole("audit.list")
        assert len(whole) == 10
        for limit in (1, 2, 3, 10):
            assert await lists.rest("audit.list", limit) == [*reversed(whole)]


@asynccontextmanager
async def _service_bus() -> AsyncIterator[tuple[str, str]]:
    async with ServiceBusServer(ServerConfig((QueueConfig("orders"),))) as server:
        yield f"{{type: servicebus, connection_string: '{server.connection_string}'}}", "queue: orders"


@asynccontextmanager
async def _kafka() -> AsyncIterator[tuple[str, str]]:
    server = ThreadedServer()
    try:
        broker = f"{{type: kafka, bootstrap_servers: '{server.bootstrap}', create_topics: true, partitions: 3}}"
        yield broker, "topics: [orders]"
    finally:
        server.stop()


@pytest.mark.parametrize("serving", [_service_bus, _kafka])
async def test_dead_letters_in_parts(
    tmp_path: Path, serving: Callable[[], AbstractAsyncContextManager[tuple[str, str]]]
) -> None:
    async with serving() as (broker, origin):
        config = f"sources: {{orders: {{broker: local, {origin}, codec: json, no_match: dead_letter}}}}\nroutes: []\n"
        async with running(tmp_path, config, FLOWS, broker=broker) as daemon:
            lists = Lists(daemon)

            async def publish(count: int, before: int) -> None:
                for number in range(count):
                    await daemon.publish("orders", {}, f"key-{number}")
                await daemon.settled(before + count)

            await publish(8, 0)
            whole = await lists.whole("dlq.list")
            assert len(whole) == 8
            for limit in (1, 3, 8):
                assert sorted(await lists.rest("dlq.list", limit)) == sorted(whole)
            first, cursor = await lists.part("dlq.list", START, 3)
            await publish(4, 8)
            found = first + await lists.rest("dlq.list", 3, cursor)
            assert len(found) == len(set(found))
            assert {*whole} <= {*found} <= {*await lists.whole("dlq.list")}


async def test_cursors_of_other_lists_and_large_parts_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as daemon:
        lists = Lists(daemon)
        for _ in range(2):
            await lists.add()
        for number in range(2):
            await lists.submit(number)
        cursors = {name: (await lists.part(name, START, 1))[1] for name in LISTS}
        assert None not in cursors.values()
        for name, (parameters, _, _) in LISTS.items():
            for other, cursor in cursors.items():
                if other != name:
                    with pytest.raises(InvalidCommand, match="`cursor` is not one that this list gave"):
                        await lists.ask(name, **parameters, cursor=cursor)
            for cursor in ("", "x", "ü", str(cursors[name])[:-1], f"{cursors[name]}A"):
                with pytest.raises(InvalidCommand, match="`cursor` is not one that this list gave"):
                    await lists.ask(name, **parameters, cursor=cursor)
            with pytest.raises(InvalidCommand, match="limit"):
                await lists.ask(name, **parameters, cursor=START, limit=MOST_OF_PART + 1)
        with pytest.raises(InvalidCommand, match="either `cursor` or `offset`"):
            await lists.ask("jobs.items", job="job0", cursor=START, offset=1)
        for name in ("jobs.list", "entities.list", "early.list", "quarantine.list"):
            assert len(await lists.ask(name, **LISTS[name][0], limit=1)) == 1


ORDER: Order[Entry] = Order("numbers", lambda entry: entry, (int, str))
NEWEST: Order[Entry] = Order("numbers", lambda entry: entry, (int, str), newest_first=True)
ENTRIES = st.sets(st.tuples(st.integers(0, 20), st.text("ab|\udc80", max_size=2)), max_size=30)


@given(
    st.sampled_from((ORDER, NEWEST)),
    ENTRIES,
    st.lists(st.tuples(ENTRIES, ENTRIES), max_size=6),
    st.integers(1, 5),
)
def test_an_entry_that_stays_is_in_one_part(
    order: Order[Entry], entries: set[Entry], changes: list[tuple[set[Entry], set[Entry]]], limit: int
) -> None:
    stay, ever, left = set(entries), set(entries), list(changes)
    found: list[Entry] = []
    cursor: str | None = START
    while cursor is not None:
        part, cursor = order.part(entries, cursor, limit)
        found += part
        if left:
            added, removed = left.pop()
            entries = (entries | added) - removed
            stay, ever = stay - removed, ever | added
    assert found == sorted(set(found), reverse=order.newest_first)
    assert stay <= {*found} <= ever


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda each: urlsafe_b64encode(each).decode()))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    try:
        place = place_of("numbers", text, (int, str))
    except InvalidCommand:
        return
    assert text == START or (place is not None and cursor_at("numbers", place) == text)


@pytest.mark.parametrize("place", [(), (1,), ("a", 1), (True, "a"), (2**62, "a"), (1, "a", 1), (1, "a" * 8_192)])
def test_places_of_another_form_are_refused(place: EntryPlace) -> None:
    with pytest.raises(InvalidCommand):
        place_of("numbers", cursor_at("numbers", place), (int, str))


def test_a_part_has_a_bounded_size() -> None:
    entries = [(number, "") for number in range(2 * MOST_OF_PART)]
    part, cursor = ORDER.part(entries, START, None)
    assert len(part) == PART
    assert cursor is not None
    assert len(ORDER.part(entries, cursor, MOST_OF_PART)[0]) == MOST_OF_PART
    for limit in (0, -1, MOST_OF_PART + 1):
        with pytest.raises(InvalidCommand, match="limit"):
            ORDER.part(entries, START, limit)
