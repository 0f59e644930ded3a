"""Lineage index of the engine: it names exactly what a scan of the file finds, after any calls and after a kill."""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.answers import PUBLISH_ACTIVITY
from bridge.core.lineage.records import RECORD_OPERATION
from bridge.core.origin import KEY, MessageOrigin, index_ids, search_ids, unwrap, wrap_payload
from bridge.core.system_names import EARLY_MESSAGES, LINEAGE, target_id
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.upkeep import check
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.options import RetentionPolicy
from bridge.sqlite_engine.storage.lineage import hash_of
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.store import Store
from tests.kit.examples import examples
from tests.kit.processes import ModuleProcess
from tests.kit.protocol_client import ProtocolClient, activity, again, call, complete, raise_event, signal, start
from tests.kit.waiting import eventually_blocking
from tests.sqlite_engine.lineage_child import message, opened, options


def indexed(path: Path) -> dict[str, set[int]]:
    """Hashes by instance, as the index has them."""
    found: dict[str, set[int]] = defaultdict(set)
    with closing(sqlite3.connect(path)) as connection:
        assert not connection.execute("SELECT 1 FROM lineage WHERE key NOT IN (SELECT key FROM instances)").fetchall()
        for id_, hash_ in connection.execute("SELECT id, hash FROM lineage JOIN instances USING (key)"):
            found[id_].add(hash_)
    return dict(found)


def scanned(path: Path) -> dict[str, set[int]]:
    """Hashes by instance, from all payloads in the file."""
    found: dict[str, set[int]] = defaultdict(set)
    with closing(sqlite3.connect(path)) as connection:
        store = Store(connection, Payloads())
        for key, id_ in connection.execute("SELECT key, id FROM instances").fetchall():
            instance = store.instance_by_key(key)
            assert instance is not None
            history, _ = store.history(key)
            for event in (instance.start, *history, *(event for _, event in store.inbox(key))):
                found[id_].update(hash_of(each) for each in _ids(event))
    return {id_: hashes for id_, hashes in found.items() if hashes}


def _ids(event: pb.HistoryEvent) -> Iterable[str]:
    if event.HasField("taskScheduled") and event.taskScheduled.name == PUBLISH_ACTIVITY:
        return [json.loads(event.taskScheduled.input.value)["id"]]
    given = event.executionStarted.input.value or event.eventRaised.input.value
    origin = unwrap(json.loads(given)).origin if given else None
    return () if origin is None else index_ids(origin.message_id, origin.position)


def hits(database: Database, *wanted: str) -> list[dict[str, Any]]:
    query = pb.EntityQuery(includeState=True)
    query.instanceIdStartsWith.value = f"@{LINEAGE}@{json.dumps([sorted(search_ids(each)) for each in wanted])}"
    [answer] = call(database, "QueryEntities", pb.QueryEntitiesRequest(query=query)).entities
    found: list[dict[str, Any]] = json.loads(answer.serializedState.value)["found"]
    return found


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("start", "raise", "publish", "again", "finish", "purge", "restart", "bare")),
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    max_size=25,
)


class Calls:
    """Calls on one engine, with a worker that does what each step says."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.remote = ProtocolClient(database)
        self.generations: set[str] = set()
        self._plans: dict[str, list[pb.OrchestratorAction]] = defaultdict(list)
        self._number = 0

    def step(self, what: str, instance: int, number: int) -> None:
        id_ = f"i-{instance}"
        request = pb.GetInstanceRequest(instanceId=id_)
        state = call(self.database, "GetInstance", request)
        is_open = state.exists and state.orchestrationState.orchestrationStatus in (
            pb.ORCHESTRATION_STATUS_RUNNING, pb.ORCHESTRATION_STATUS_PENDING,
        )  # fmt: skip
        if what == "start" and not is_open:
            with suppress(Rejection):  # a finished instance of the same message is not replaced
                start(self.database, "work", id_, message(number))
                self.generations.discard(id_)
        elif what == "bare" and not is_open:
            start(self.database, "work", id_, {KEY: number})
            self.generations.discard(id_)
        elif what == "restart" and state.exists and not is_open:
            call(self.database, "RestartInstance", pb.RestartInstanceRequest(instanceId=id_))
        elif what == "purge":
            call(self.database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId=id_))
        elif what == "raise" and is_open:
            raise_event(self.database, id_, "event", message(number))
        elif what in ("publish", "again", "finish") and is_open:
            self._number += 1
            given = {"target": "t", "id": f"p-{number}"} if number % 2 else {"id": f"p-{number}", "target": "t"}
            self._plans[id_] = {
                "publish": [activity(self._number, PUBLISH_ACTIVITY, given)],
                "again": [again(self._number, message(number))],
                "finish": [complete(self._number)],
            }[what]
            raise_event(self.database, id_, "go")
            if what == "again":
                self.generations.add(id_)
        self.work()

    def work(self) -> None:
        while not self.remote.nothing():
            item = self.remote.take()
            if item.HasField("orchestratorRequest"):
                self.remote.turn(item, *self._plans.pop(item.orchestratorRequest.instanceId, ()))


@settings(max_examples=examples(60), deadline=None)
@given(STEPS)
def test_the_index_names_what_a_scan_finds(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hub.db")
        with opened(path) as database:
            calls = Calls(database)
            for each in steps:
                calls.step(*each)
            calls.remote.leave()
        found, expected = indexed(path), scanned(path)
        for id_ in found.keys() | expected.keys():
            if id_ in calls.generations:
                # continue_as_new drops the history, and keeps the rows
                assert found.get(id_, set()) >= expected.get(id_, set())
            else:
                assert found.get(id_, set()) == expected.get(id_, set()), id_
        assert check(path) == []


def _lines(acknowledged: Path) -> list[str]:
    text = acknowledged.read_text() if acknowledged.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_an_acknowledged_command_is_in_the_index_after_a_kill(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "hub.db", tmp_path / "acknowledged"
    count = 0
    for attempt in range(4):
        with ModuleProcess("tests.sqlite_engine.lineage_child", path, acknowledged, attempt * 100_000):
            more = count + random.randrange(1, 200)
            eventually_blocking(lambda: len(_lines(acknowledged)) >= more)  # noqa: B023 -- called at once
        with opened(path):
            pass
        found = indexed(path)
        assert found == scanned(path), "the row is in the transaction of its cause"
        lines = _lines(acknowledged)
        for number, id_ in (line.split() for line in lines):
            assert hash_of(f"m-{number}") in found[id_]
            assert hash_of(f"orders/0@{number}") in found[id_]
        count = len(lines)


def test_rows_go_with_purge_and_retention(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with opened(path, options(retention=RetentionPolicy(count=1, period=0.01))) as database:
        remote = ProtocolClient(database)
        for number in range(3):
            start(database, "work", f"i-{number}", message(number))
            remote.turn(remote.take(), complete(1))
        eventually_blocking(
            lambda: [each["instances"] for each in hits(database, "m-0", "m-1", "m-2")] == [[], [], ["i-2"]]
        )
        call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="i-2"))
        assert hits(database, "m-2") == [{"instances": [], "entities": [], "records": [], "more": False}]
    assert indexed(path) == {}


def test_searches_by_each_form_of_an_id(tmp_path: Path) -> None:
    with opened(tmp_path / "hub.db") as database:
        for number in range(3):
            start(database, "work", f"i-{number}", message(number))
        queue = MessageOrigin("bus/queue/abc", "route", position="bus/queue/0@7")
        start(database, "work", "of-the-bus", wrap_payload(1, queue))
        plain = MessageOrigin("c/plain/2@5", "route", position="c/plain/2@5")
        start(database, "work", "by-position", wrap_payload(1, plain))
        forms = {
            "/shop m-1": "i-1", "m-1": "i-1", "orders/0@1": "i-1", "c/orders/0@1": "i-1", "abc": "of-the-bus",
            "bus/queue/abc": "of-the-bus", "queue/0@7": "of-the-bus", "plain/2@5": "by-position",
            "c/plain/2@5": "by-position",
        }  # fmt: skip
        assert [each["instances"] for each in hits(database, *forms)] == [[id_] for id_ in forms.values()]
        assert hits(database, "m-9")[0]["instances"] == []


def test_ranges_of_keys_without_rows_are_passed(tmp_path: Path) -> None:
    """A search visits each range of keys that has rows, however far apart these are."""
    path = tmp_path / "hub.db"
    with opened(path) as database:
        start(database, "work", "old", message(1))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE instances SET key = 1 << 40")
        connection.execute("UPDATE lineage SET key = 1 << 40")
        connection.commit()
    with opened(path) as database:
        start(database, "work", "new", message(1))
        assert hits(database, "m-1")[0]["instances"] == ["old", "new"]


def test_waiting_messages_are_found_by_their_entity(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    target = target_id("order-1")
    item = {"id": "/shop e-1", "route": "r", "part": 0, "letter": {"id": "/shop e-1", "at": ["c", "orders", 0, 4]}}
    with opened(path) as database:
        remote = ProtocolClient(database)
        signal(database, target, "park", item)
        for wanted in ("e-1", "/shop e-1", "orders/0@4"):
            assert hits(database, wanted)[0]["entities"] == [target]
        remote.batch(remote.take(), None, new_state=None)
        assert remote.nothing()
        assert hits(database, "e-1")[0]["entities"] == [], "its rows go with the entity"
        assert EARLY_MESSAGES in target


def test_a_busy_entity_has_rows_for_what_it_keeps_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.sqlite_engine.hub.index._STALE", 3)
    target = target_id("order-1")

    def item(number: int) -> dict[str, Any]:
        return {"id": f"/shop e-{number}", "letter": {"id": f"/shop e-{number}", "at": ["c", "orders", 0, number]}}

    with opened(tmp_path / "hub.db") as database:
        remote = ProtocolClient(database)
        for number in range(6):
            signal(database, target, "park", item(number))
            remote.batch(remote.take(), None, new_state={"items": [item(number)]})
        assert remote.nothing()
        assert [bool(each["entities"]) for each in hits(database, "e-0", "e-1", "e-5")] == [False, False, True]


def test_an_instance_that_continues_for_ever_keeps_a_bounded_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.sqlite_engine.hub.index.MAX_OLD_ROWS", 10)
    path = tmp_path / "hub.db"
    with opened(path) as database:
        calls = Calls(database)
        calls.step("start", 1, 0)
        for number in range(1, 40):
            calls.step("raise", 1, number)
            calls.step("again", 1, 0)
            assert len(hits(database, f"m-{number}")[0]["instances"]) == (number not in (5, 10, 15, 20, 25, 30, 35))
        calls.remote.leave()
    assert len(indexed(path)["i-1"]) <= 14
    assert scanned(path)["i-1"] <= indexed(path)["i-1"]


def test_records_are_bounded_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    with opened(path, options(index_records=3)) as database:
        for number in range(6):
            record = {"id": f"/shop d-{number}", "position": f"c/orders/0@{number}", "reason": "no_route"}
            signal(database, f"@{LINEAGE}@records", RECORD_OPERATION, record)
        signal(database, "@counter@k", "add", message(1))
        found = hits(database, "d-0", "d-2", "d-3", "orders/0@5", "m-1")
        assert [len(each["records"]) for each in found] == [0, 0, 1, 1, 1]
        assert database.hub.index.records == 4
    with opened(path, options(index_records=1)) as database:
        signal(database, f"@{LINEAGE}@records", RECORD_OPERATION, {"id": "/shop d-9"})
        assert database.hub.index.records == 2, "a lower limit takes effect"
        assert check(path) == []


def test_a_record_that_says_nothing_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path / "hub.db") as database:
        values: tuple[Any, ...] = (None, 7, [], {}, {"id": 7}, {"position": None})
        for value in values:
            signal(database, f"@{LINEAGE}@records", RECORD_OPERATION, value)
        assert database.hub.index.records == 0


@pytest.mark.parametrize("key", ["", "x", "7", "{}", "[7]", json.dumps([["x"]] * 1001)])
def test_a_search_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    with opened(tmp_path / "hub.db") as database:
        query = pb.EntityQuery(includeState=True)
        query.instanceIdStartsWith.value = f"@{LINEAGE}@{key}"
        with pytest.raises(Exception, match="not a JSON list"):
            call(database, "QueryEntities", pb.QueryEntitiesRequest(query=query))


def test_without_the_index_nothing_is_written_and_no_one_is_misled(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    query = pb.EntityQuery(includeState=True)
    query.instanceIdStartsWith.value = f'@{LINEAGE}@[["m-1"]]'
    request = pb.QueryEntitiesRequest(query=query)
    with opened(path, options(index=False)) as database:
        start(database, "work", "i-1", message(1))
        assert not call(database, "QueryEntities", request).entities
    assert indexed(path) == {}
    with opened(path) as database:
        start(database, "work", "i-2", message(1))
        [answer] = call(database, "QueryEntities", request).entities
        state = json.loads(answer.serializedState.value)
        assert state["begin"][0] > 0, "an older instance may lack rows"
        assert state["found"][0]["instances"] == ["i-2"]
    with opened(path, options(index=False)) as database:
        call(database, "TerminateInstance", pb.TerminateRequest(instanceId="i-2"))
        call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="i-2"))
        assert not call(database, "QueryEntities", request).entities
    assert indexed(path) == {}, "rows go with their instance although no others are written"
