"""Engine file with encrypted payloads: no payload on disk in plain text, all payloads through the engine."""

from __future__ import annotations

import io
import shutil
import signal as signals
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.encryption import HEAD, Key, Keyring
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.backups import backup, restore
from bridge.sqlite_engine.maintenance.reencryption import PLAIN, count_values, reencrypt
from bridge.sqlite_engine.maintenance.upkeep import check, compact, export
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.model.values import timestamp
from bridge.sqlite_engine.options import DatabaseOptions, HostRules, Record
from bridge.sqlite_engine.storage.payloads import COLUMNS
from bridge.sqlite_engine.storage.schema import VERSION
from bridge.system.clock import SYSTEM
from tests.kit.processes import ModuleProcess
from tests.kit.protocol_client import (
    ProtocolClient,
    activity,
    again,
    begin,
    call,
    child,
    complete,
    fail,
    raise_event,
    signal,
    start,
    state,
    text,
    timer,
)
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable
from tests.sqlite_engine.test_entity import calling, entities

pytestmark = pytest.mark.long

OLD, NEW, OTHER = (Key(name, bytes([number]) * 32) for number, name in enumerate(("old", "new", "other"), 1))
MARKER = "PLAINTEXT-OF-A-PAYLOAD"
HOUR = 3_600_000_000
FAILED = pb.ORCHESTRATION_STATUS_FAILED


class Rules(HostRules):
    """Rules with an index that takes every record."""

    index = "index"

    def record_of(self, given: str) -> Record:
        return Record(1, frozenset(["id"]), given)


def options(*keys: Key, active: bool = True) -> DatabaseOptions:
    return DatabaseOptions(keyring=Keyring(keys, active=active) if keys else None, rules=Rules(), index=True)


def marked(what: str) -> str:
    return f"{MARKER}-{what}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "hub.db"


class Opened:
    """Engine on a file; a context manager."""

    def __init__(self, path: Path, options: DatabaseOptions) -> None:
        self._database = Database(path, options)

    def __enter__(self) -> Database:
        self._database.start()
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.stop()


def fill(database: Database, prefix: str = "") -> None:
    """Put a marked payload in every place that holds payloads."""
    remote = ProtocolClient(database)

    def take() -> pb.WorkItem:
        """Take the next work item that does not belong to an earlier filling."""
        while True:
            item = remote.take()
            request = item.activityRequest.orchestrationInstance.instanceId or item.entityRequestV2.instanceId
            owner = item.orchestratorRequest.instanceId or request
            if owner.removeprefix("@c@").startswith(prefix):
                return item

    def turned(instance_id: str, *actions: pb.OrchestratorAction, **fields: Any) -> None:
        start(database, "work", prefix + instance_id, marked("input"), tags={"tag": "clear"})
        remote.turn(take(), *actions, **fields)

    turned("done", complete(1, marked("output")), customStatus=text(marked("custom status")))
    turned("failed", fail(1, marked("failure")))
    turned("activity", activity(1, "x", marked("request")))
    remote.result(take(), marked("result"))
    remote.turn(take())
    turned("bad", activity(1, "x", marked("request")))
    remote.result(take(), failure=pb.TaskFailureDetails(errorType="E", errorMessage=marked("activity's failure")))
    remote.turn(take(), timer(1, SYSTEM.wall() + HOUR))
    turned("parent", child(1, "work", prefix + "child", marked("child's input")))
    remote.turn(take(), complete(1, marked("child's output")))
    remote.turn(take())
    turned("anew", again(1, marked("next input")))
    remote.turn(take())
    turned("ended")
    ended = pb.TerminateRequest(instanceId=prefix + "ended", output=text(marked("output")))
    call(database, "TerminateInstance", ended)
    turned("suspended")
    suspend = pb.SuspendRequest(instanceId=prefix + "suspended", reason=text(marked("reason")))
    call(database, "SuspendInstance", suspend)
    raise_event(database, prefix + "suspended", "later", marked("unread event"))
    signal(database, f"@c@{prefix}x", "go", marked("operation"))
    remote.batch(take(), marked("operation's result"), new_state=marked("state"))
    turned("caller", calling(1, f"@c@{prefix}x", "call", "r-1"))
    remote.batch(take(), marked("operation's result"), new_state=marked("state"))
    remote.turn(take())
    signal(database, f"@c@{prefix}x", "go", marked("late operation"), scheduledTime=timestamp(SYSTEM.wall() + HOUR))
    start(
        database, "work", prefix + "delayed", marked("input"), scheduledStartTimestamp=timestamp(SYSTEM.wall() + HOUR)
    )
    signal(database, "@index@records", "record", marked("record"))
    # Work without a worker stays in the tables of waiting items.
    turned("open", activity(1, "y", marked("request")))
    remote.leave()
    signal(database, f"@c@{prefix}x", "go", marked("waiting operation"))
    raise_event(database, prefix + "open", "e", marked("unread event"))


def on_disk(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted(path.parent.iterdir()) if each.is_file())


def received(database: Database) -> dict[str, Any]:
    """Return all answers of the engine about its instances and entities."""
    query = pb.InstanceQuery(fetchInputsAndOutputs=True)
    found = call(database, "QueryInstances", pb.QueryInstancesRequest(query=query)).orchestrationState
    result: dict[str, Any] = {}
    for each in found:
        each.ClearField("lastUpdatedTimestamp")
        request = pb.StreamInstanceHistoryRequest(instanceId=each.instanceId)
        result[each.instanceId] = (each, state(database, each.instanceId).input.value, call_history(database, request))
    for entity in entities(database, includeState=True, includeTransient=True):
        result[entity.instanceId] = (entity.serializedState.value, entity.backlogQueueSize)
    return result


def call_history(database: Database, request: Any) -> list[Any]:
    return list(begin(database, "StreamInstanceHistory", request).future.result(20))


def counts(path: Path, *keys: Key) -> dict[str, int]:
    return dict(count_values(path, Keyring(keys) if keys else None))


def test_every_place_of_a_payload_is_filled_and_plain_without_keys(path: Path) -> None:
    with Opened(path, options()) as database:
        fill(database)
        assert MARKER.encode() in on_disk(path)
    with closing(sqlite3.connect(path)) as connection:
        for column in COLUMNS:
            found = connection.execute(f"SELECT {column.name} FROM {column.table}").fetchall()
            values = b" ".join(each[0].encode() if isinstance(each[0], str) else each[0] for each in found if each[0])
            assert MARKER.encode() in values, column


def test_nothing_of_a_payload_is_on_disk(path: Path, tmp_path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
        assert (path.parent / "hub.db-wal").stat().st_size > 0
        assert MARKER.encode() not in on_disk(path)
        backup(path, tmp_path / "copies")
        assert MARKER.encode() not in (tmp_path / "copies").read_bytes()
        before = received(database)
    assert MARKER.encode() not in on_disk(path)
    assert set(counts(path, OLD)) == {"old"}
    with Opened(path, options(OLD)) as database:
        assert received(database) == before
    assert b"work" in on_disk(path)
    assert b"done" in on_disk(path)


def test_the_engine_says_the_same_with_and_without_encryption(tmp_path: Path) -> None:
    said = []
    for name, chosen in (("plain", options()), ("sealed", options(OLD))):
        path = tmp_path / name / "hub.db"
        with Opened(path, chosen) as database:
            fill(database)
            said.append({id_: shape(each) for id_, each in received(database).items()})
        with Opened(path, chosen) as database:
            assert {id_: shape(each) for id_, each in received(database).items()} == said[-1]
    assert said[0] == said[1]


def shape(found: Any) -> Any:
    """Return the parts of a response that do not depend on time."""
    if not isinstance(found[0], pb.OrchestrationState):
        return found
    status = found[0]
    events = [event.WhichOneof("eventType") for chunk in found[2] for event in chunk.events]
    parts = (status.orchestrationStatus, status.output.value, status.customStatus.value, dict(status.tags))
    return (*parts, status.failureDetails.errorMessage, found[1], events)


def test_work_goes_on_from_an_encrypted_file(path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    with Opened(path, options(OLD)) as database:
        remote = ProtocolClient(database)
        seen: dict[str, pb.WorkItem] = {}
        while len(seen) < 3:
            item = remote.take()
            seen[item.WhichOneof("request") or ""] = item
        assert seen["activityRequest"].activityRequest.input.value == f'"{marked("request")}"'
        assert marked("waiting operation") in str(seen["entityRequestV2"])
        assert marked("state") in str(seen["entityRequestV2"])
        assert marked("unread event") in str(seen["orchestratorRequest"].orchestratorRequest.newEvents)
        assert marked("input") in str(seen["orchestratorRequest"].orchestratorRequest.pastEvents)


def test_old_values_stay_readable_beside_new_ones(path: Path) -> None:
    with Opened(path, options()) as database:
        fill(database, "a-")
        before = received(database)
    with Opened(path, options(OLD)) as database:
        assert received(database) == before
        fill(database, "b-")
        before = received(database)
    with Opened(path, options(NEW, OLD)) as database:
        assert received(database) == before
        fill(database, "c-")
        before = received(database)
    found = counts(path)
    assert set(found) == {PLAIN, "old", "new"}
    assert min(found.values()) > 20
    with Opened(path, options(NEW, OLD, active=False)) as database:
        assert received(database) == before
    assert check(path, Keyring([NEW, OLD])) == []


@pytest.mark.parametrize("after", [[NEW, OLD], [OLD]], ids=["to another key", "to the one key"])
def test_rewriting_leaves_nothing_of_the_former_values(path: Path, after: list[Key]) -> None:
    with Opened(path, options()) as database:
        fill(database, "a-")
        call(database, "PurgeInstances", pb.PurgeInstancesRequest(instanceId="a-done"))
    with Opened(path, options(OLD)) as database:
        fill(database, "b-")
        before = received(database)
    waiting = sum(number for id_, number in counts(path).items() if id_ != after[0].id)
    result = reencrypt(path, Keyring(after))
    assert result.rewritten == waiting
    assert result.unreadable == []
    assert set(result.values) == {after[0].id}
    assert MARKER.encode() not in on_disk(path)
    with Opened(path, options(after[0])) as database:
        assert received(database) == before
    assert reencrypt(path, Keyring(after)).rewritten == 0
    assert check(path, Keyring([after[0]])) == []


def test_encryption_is_turned_off_by_rewriting_without(path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
        before = received(database)
    with pytest.raises(EngineMisconfigured, match="encrypted with key 'old'"):
        Database(path, options()).start()
    result = reencrypt(path, Keyring([OLD], active=False))
    assert set(result.values) == {PLAIN}
    with Opened(path, options()) as database:
        assert received(database) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
        assert connection.execute("SELECT 1 FROM sqlite_master WHERE name='cipher_keys'").fetchone() is None


def test_a_version_without_encryption_refuses_the_file_as_a_newer_one(path: Path) -> None:
    with Opened(path, options(OLD)):
        pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] > 200


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([], "encrypted with key 'old', which is not there; add it"),
        ([NEW], "encrypted with key 'old', which is not there; add it"),
        ([replace(OLD, material=bytes(32))], "encrypted with key 'old', and the key of this id is another one"),
    ],
    ids=["none", "lost", "another"],
)
def test_a_lost_key_is_named_and_the_file_stays_as_it_is(path: Path, given: list[Key], what: str) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    content = path.read_bytes()
    ring = Keyring(given) if given else None
    actions = [
        lambda: Database(path, DatabaseOptions(keyring=ring)).start(),
        lambda: check(path, ring),
        lambda: export(path, io.StringIO(), ring),
        lambda: restore(path, path.with_name("other.db"), keyring=ring),
        *([lambda: reencrypt(path, ring)] if ring else []),
    ]
    for action in actions:
        with pytest.raises(EngineMisconfigured, match=what):
            action()  # type: ignore[no-untyped-call]  # it comes without types
    assert path.read_bytes() == content
    assert not path.with_name("other.db").exists()
    with Opened(path, options(OLD)) as database:
        assert state(database, "done").output.value == f'"{marked("output")}"'


def test_structure_is_looked_after_without_keys(path: Path, tmp_path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
        before = received(database)
    assert check(path, decrypts=False) == []
    compact(path)
    backup(path, tmp_path / "copy")
    path.unlink()
    assert restore(tmp_path / "copy", path, decrypts=False).problems == []
    with Opened(path, options(OLD)) as database:
        assert received(database) == before


def test_backups_and_exports_with_keys(path: Path, tmp_path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    backup(path, tmp_path / "copy")
    assert restore(tmp_path / "copy", path, keyring=Keyring([NEW, OLD])).problems == []
    out = io.StringIO()
    assert export(path, out, Keyring([OLD])) > 5
    for what in ("input", "output", "failure", "result", "child's output", "custom status"):
        assert marked(what) in out.getvalue()


def altered(path: Path, table: str, column: str, where: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
        assert value.startswith(HEAD)
        changed = value[:-1] + bytes([value[-1] ^ 1])
        assert connection.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (changed,)).rowcount == 1


REASON = r"\w+\.\w+ of row .* cannot be decrypted with key 'old': it was altered, or belongs elsewhere"
KEY = "key=(SELECT key FROM instances WHERE id='open')"


@pytest.mark.parametrize(
    ("table", "column", "where", "problem"),
    [
        ("instances", "start", KEY, "open: a stored HistoryEvent cannot be decrypted"),
        ("history", "events", KEY, "open: a stored HistoryChunk cannot be decrypted"),
        ("inbox", "event", KEY, "open: a stored HistoryEvent cannot be decrypted"),
        ("tasks", "request", KEY, "open: a stored ActivityRequest cannot be decrypted"),
        ("instances", "output", "id='done'", "done: a stored output cannot be decrypted"),
        ("instances", "custom_status", "id='done'", "done: a stored custom_status cannot be decrypted"),
        ("instances", "failure", "id='failed'", "failed: a stored TaskFailureDetails cannot be decrypted"),
        ("entities", "state", "id='@c@x'", "@c@x: a stored state cannot be decrypted"),
        ("operations", "event", "entity='@c@x'", "@c@x: a stored HistoryEvent cannot be decrypted"),
    ],
)
def test_a_value_that_was_altered_hurts_its_owner_only(
    path: Path, caplog: pytest.LogCaptureFixture, table: str, column: str, where: str, problem: str
) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    altered(path, table, column, where)
    assert check(path, Keyring([OLD])) == [problem]
    with Opened(path, options(OLD)) as database:
        remote = ProtocolClient(database)
        start(database, "work", "new", marked("input"))
        # The work of the earlier instances is sent before it, or behind it in one commit
        while (item := remote.take()).orchestratorRequest.instanceId != "new":
            pass
        remote.turn(item, complete(1, "fine"))
        assert state(database, "new").output.value == '"fine"'
        assert state(database, "failed" if "failed" not in where else "done").name == "work"
        listed = call(database, "QueryInstances", pb.QueryInstancesRequest(query=pb.InstanceQuery()))
        unread = {
            each.instanceId
            for each in listed.orchestrationState
            if each.failureDetails.errorMessage.startswith("Stored payloads cannot be read")
        }
        assert unread == ({problem.partition(":")[0]} if table == "instances" else set())
        if column == "state":
            with pytest.raises(Rejection, match=f"The state of entity @c@x cannot be read: {REASON}"):
                entities(database, includeState=True)
            assert [each.instanceId for each in entities(database)] == ["@c@x"]
        if table == "history":
            with pytest.raises(Rejection, match=f"The history of open cannot be read: {REASON}"):
                call(database, "StreamInstanceHistory", pb.StreamInstanceHistoryRequest(instanceId="open"))
        if table in ("history", "inbox"):
            request = pb.GetInstanceRequest(instanceId="open", getInputsAndOutputs=True)
            ended = call(database, "WaitForInstanceCompletion", request).orchestrationState
            assert ended.orchestrationStatus == FAILED
            assert ended.failureDetails.errorType == "EngineError"
    if table in ("history", "inbox", "tasks", "operations", "entities"):
        assert "cannot be decrypted with key 'old': it was altered, or belongs elsewhere" in caplog.text
    assert MARKER not in caplog.text


def test_a_value_in_another_place_is_refused(path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
        start(database, "work", "victim", "own input")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE instances SET start=(SELECT start FROM instances WHERE id='done') WHERE id='victim'")
    assert check(path, Keyring([OLD])) == ["victim: a stored HistoryEvent cannot be decrypted"]


@pytest.mark.parametrize(
    ("table", "column", "value", "where", "problem"),
    [
        ("instances", "output", '"forged"', "id='done'", "done: a stored output cannot be decrypted"),
        ("entities", "state", '"forged"', "id='@c@x'", "@c@x: a stored state cannot be decrypted"),
        ("inbox", "event", b"\x0a\x00", KEY, "open: a stored HistoryEvent cannot be decrypted"),
    ],
)
def test_a_plain_value_in_an_encrypted_file_is_refused_where_none_may_be_left(
    path: Path, table: str, column: str, value: str | bytes, where: str, problem: str
) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    strict = Keyring([OLD], accepts_plain=False)
    with Opened(path, DatabaseOptions(keyring=strict)) as database:
        assert state(database, "done").output.value == f'"{marked("output")}"'
    assert check(path, strict) == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column}=? WHERE {where}", (value,))
    assert check(path, Keyring([OLD])) == []
    assert check(path, strict) == [problem]
    assert len(reencrypt(path, strict).unreadable) == 1


def test_values_that_cannot_be_decrypted_keep_their_key_needed(path: Path) -> None:
    with Opened(path, options(OLD)) as database:
        fill(database)
    altered(path, "instances", "output", "id='done'")
    result = reencrypt(path, Keyring([NEW, OLD]))
    assert dict(result.values).pop("old") == 1
    assert [each.split(" of ")[0] for each in result.unreadable] == ["instances.output"]
    with pytest.raises(EngineMisconfigured, match="encrypted with key 'old'"):
        Database(path, options(NEW)).start()


def test_rewriting_needs_the_file_to_itself(path: Path) -> None:
    with Opened(path, options(OLD)), pytest.raises(EngineUnavailable, match="has this engine file open"):
        reencrypt(path, Keyring([NEW, OLD]))
    with pytest.raises(EngineUnavailable, match="no such file"):
        reencrypt(path.with_name("none.db"), Keyring([NEW, OLD]))


def test_rewriting_goes_on_after_it_was_killed(path: Path, tmp_path: Path) -> None:
    with Opened(path, options()) as database:
        fill(database, "a-")
    with Opened(path, options(OLD)) as database:
        fill(database, "b-")
        before = received(database)
    died = 0
    for number in range(1, 200):
        work = tmp_path / f"work-{number}"
        shutil.copytree(path.parent, work)
        with ModuleProcess("tests.sqlite_engine.reencrypt_child", number, work / "hub.db") as child:
            code = child.process.wait(TIMEOUT)
        died += code == -signals.SIGKILL
        assert code in (0, -signals.SIGKILL)
        # Unchanged, with both keys; and after more work, with the new key
        with Opened(work / "hub.db", options(NEW, OLD)) as database:
            assert received(database) == before
        assert set(reencrypt(work / "hub.db", Keyring([NEW, OLD])).values) == {"new"}
        assert MARKER.encode() not in on_disk(work / "hub.db")
        with Opened(work / "hub.db", options(NEW)) as database:
            assert received(database) == before
        shutil.rmtree(work)
        if code == 0:
            break
    assert died > 5


def test_a_restarted_engine_may_change_its_key(restartable: Restartable) -> None:
    for keys in ((OLD,), (NEW, OLD), (OTHER, NEW, OLD)):
        restartable.options = options(*keys)
        start(restartable.again(), "work", keys[0].id, marked("input"))
    assert {state(restartable.now, each).input.value for each in ("old", "new", "other")} == {f'"{marked("input")}"'}


@pytest.fixture(autouse=True)
def _no_marker_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert MARKER not in caplog.text
