"""Engine file: versions, locks, damage, a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.instance import StoredInstance
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply
from bridge.sqlite_engine.storage.schema import APPLICATION_ID, VERSION
from tests.kit.protocol_client import ProtocolClient, activity, begin, call, complete, start, state
from tests.kit.waiting import TIMEOUT
from tests.sqlite_engine.conftest import Restartable


def test_the_file_is_marked_and_durable(restartable: Restartable) -> None:
    connection = restartable.now.hub.store.connection
    values = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    assert values == [APPLICATION_ID, VERSION]
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    first = Database(path)
    first.start()
    first.stop()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(EngineMisconfigured, match="newer version"):
        Database(path).start()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION + 1


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(EngineMisconfigured, match="not one of this engine"):
        Database(path).start()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_bytes(b"no database at all, but long enough to be read as a header" * 20)
    with pytest.raises(EngineMisconfigured, match="not a database"):
        Database(path).start()
    assert path.read_bytes().startswith(b"no database")


def test_one_process_at_a_time(restartable: Restartable) -> None:
    code = (
        "import sys; from pathlib import Path; from bridge.sqlite_engine.database import Database\n"
        "try: Database(Path(sys.argv[1])).start()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(restartable.path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout
    assert found.startswith("EngineUnavailable")
    assert "has this engine file open" in found
    with pytest.raises(EngineUnavailable, match="process"):
        Database(restartable.path).start()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EngineUnavailable):
        Database(tmp_path / "file" / "hub.db").start()


def test_a_full_disk_refuses_and_loses_nothing_and_the_engine_goes_on_by_itself(restartable: Restartable) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    start(database, "work", "before")
    remote.turn(remote.take(), activity(1, "x"))
    task = remote.take()
    connection = database.hub.store.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")
    accepted: list[str] = []

    def fill() -> None:
        for number in range(1000):
            start(database, "work", f"filler-{number}", "x" * 2000)
            accepted.append(f"filler-{number}")

    with pytest.raises(Rejection, match="full") as refused:
        fill()
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    connection.execute("PRAGMA max_page_count=1073741823")
    # The engine retries by itself and dispatches the work in progress again.
    again = remote.take()
    while not again.HasField("activityRequest"):
        again = remote.take()
    with pytest.raises(Rejection):
        remote.result(task, "late")
    remote.result(again, "once")
    item = remote.take()
    while item.orchestratorRequest.instanceId != "before":
        item = remote.take()
    remote.turn(item, complete(2, "ok"))
    assert state(database, "before").output.value == '"ok"'
    for instance_id in accepted:
        assert state(database, instance_id).name == "work"
    start(database, "work", "after")


def test_an_operation_that_fails_unexpectedly_undoes_its_group_only(restartable: Restartable) -> None:
    database = restartable.now
    start(database, "work", "kept")

    def broken() -> None:
        database.hub.create("half", pb.CreateInstanceRequest(name="work"))
        raise RuntimeError("a bug")

    reply = ThreadReply()
    database.writer.submit(broken, reply=reply)
    with pytest.raises(Rejection, match="see its log"):
        reply.future.result(20)
    assert state(database, "kept").name == "work"
    start(database, "work", "half")
    assert ProtocolClient(database).take().orchestratorRequest.instanceId == "kept"


def test_an_answer_that_the_engine_cannot_process_fails_its_instance_instead_of_coming_again(
    restartable: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    start(database, "work", "poison")
    start(database, "work", "fine")
    items = {item.orchestratorRequest.instanceId: item for item in (remote.take(), remote.take())}
    real = database.hub.add_task

    def broken(instance: StoredInstance, request: pb.ActivityRequest) -> None:
        real(instance, request)
        if instance.id == "poison":
            raise RuntimeError("a bug")

    monkeypatch.setattr(database.hub, "add_task", broken)
    remote.turn(items["poison"], activity(1, "x"))
    received = call(
        database, "WaitForInstanceCompletion", pb.GetInstanceRequest(instanceId="poison")
    ).orchestrationState
    assert received.failureDetails.errorType == "EngineError"
    remote.turn(items["fine"], complete(1, "ok"))
    assert state(database, "fine").output.value == '"ok"'


def test_nothing_is_answered_or_handed_out_before_its_commit(
    restartable: Restartable, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = restartable.now
    remote = ProtocolClient(database)
    start(database, "work", "a")
    item = remote.take()
    transaction = database.hub.tx
    held, reached, real = threading.Event(), threading.Event(), transaction.commit

    def slow() -> bool:
        reached.set()
        held.wait(20)
        return real()

    monkeypatch.setattr(transaction, "commit", slow)
    # A worker's report is answered at once; its consequences wait.
    remote.turn(item, activity(1, "x"))
    reply = begin(database, "StartInstance", pb.CreateInstanceRequest(instanceId="b", name="work"))
    assert reached.wait(20)
    assert remote.idle()
    assert not reply.future.done()
    held.set()
    reply.future.result(20)
    assert {remote.take().WhichOneof("request") for _ in range(2)} == {"activityRequest", "orchestratorRequest"}
