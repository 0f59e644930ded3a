from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local import database
from bridge.brokers.local.database import translate
from bridge.brokers.local.lock import HeldFileLock
from bridge.brokers.local.waker import Wake
from bridge.core.errors import BrokerError, BrokerUnavailable, PublishFailed
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbered, numbers, take
from tests.brokers.local.harness import LocalHarness

PATH = Path("/var/lib/log")
CODES = {
    name: getattr(sqlite3, name)
    for name in dir(sqlite3)
    if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)
}
PRIMARY = [
    "SQLITE_ERROR", "SQLITE_INTERNAL", "SQLITE_PERM", "SQLITE_ABORT", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM",
    "SQLITE_READONLY", "SQLITE_INTERRUPT", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTFOUND", "SQLITE_FULL",
    "SQLITE_CANTOPEN", "SQLITE_PROTOCOL", "SQLITE_EMPTY", "SQLITE_SCHEMA", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH",
    "SQLITE_NOLFS", "SQLITE_AUTH", "SQLITE_FORMAT", "SQLITE_NOTADB",
]  # fmt: skip
EXTENDED = [name for name in CODES if any(name.startswith(f"{primary}_") for primary in PRIMARY)]


def failure(kind: type[sqlite3.Error], code: int) -> sqlite3.Error:
    error = kind("as SQLite says")
    error.sqlite_errorcode = code
    return error


def test_every_code_is_an_outage_that_names_the_place() -> None:
    for name in (*PRIMARY, *EXTENDED):
        known = translate(failure(sqlite3.OperationalError, CODES[name]), PATH)
        assert isinstance(known, BrokerUnavailable), name
        assert str(PATH) in str(known), name


@pytest.mark.parametrize(
    "kind",
    [sqlite3.Error, sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.InternalError],
)
def test_every_class_of_outage_is_mapped(kind: type[sqlite3.Error]) -> None:
    assert isinstance(translate(kind("x"), PATH), BrokerUnavailable)


@pytest.mark.parametrize("kind", [sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError])
def test_bugs_stay_visible_as_themselves(kind: type[sqlite3.Error]) -> None:
    assert translate(kind("x"), PATH) is None


def test_no_class_is_forgotten() -> None:
    def below(kind: type[sqlite3.Error]) -> set[type[sqlite3.Error]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    assert below(sqlite3.Error) == {
        sqlite3.Error, sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.IntegrityError, sqlite3.InternalError,
        sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.NotSupportedError, sqlite3.DataError,
    }  # fmt: skip


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENOLCK, errno.EIO])
def test_operating_system_errors_are_outages(number: int) -> None:
    known = translate(OSError(number, os.strerror(number), "file"), PATH)
    assert isinstance(known, BrokerUnavailable)
    assert str(PATH) in str(known)


def test_real_errors_of_sqlite_have_their_remedy(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 4")
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    other = sqlite3.connect(path, timeout=0.0)
    for action, remedy in (
        (lambda: connection.execute("INSERT INTO t VALUES (zeroblob(100000))"), "disk or quota is full"),
        (lambda: reader.execute("INSERT INTO t VALUES (1)"), "read-only"),
        (lambda: sqlite3.connect(tmp_path / "no" / "x.db"), "cannot be opened"),
    ):
        with pytest.raises(sqlite3.Error) as caught:
            action()
        assert remedy in str(translate(caught.value, path))
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.Error) as caught:
        other.execute("INSERT INTO t VALUES (1)")
    assert "write lock" in str(translate(caught.value, path))
    for each in (connection, reader, other):
        each.close()


def test_a_message_beyond_sqlites_limit_fails_alone() -> None:
    connection = sqlite3.connect(":memory:")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
    with pytest.raises((sqlite3.Error, OverflowError)) as caught:
        connection.execute("SELECT ?", (b"x" * 2000,))
    connection.close()
    assert isinstance(caught.value, sqlite3.DataError)
    assert isinstance(translate(caught.value, PATH), PublishFailed)


async def test_a_file_that_is_no_database(harness: LocalHarness) -> None:
    harness.directory.mkdir()
    (harness.directory / "log.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(BrokerUnavailable, match="not a SQLite database"):
        await harness.broker()


async def test_a_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerUnavailable, match="a file, not a directory"):
        await LocalHarness(tmp_path / "file").broker()


async def test_a_lock_held_too_long_fails_and_then_recovers(
    harness: LocalHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    broker = await harness.broker()
    await broker.publish("orders", numbered(1, key=b"k"))
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    [delivery] = await take(subscription, 1)
    await delivery.complete()
    holder = sqlite3.connect(harness.directory / "log.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(BrokerUnavailable, match="write lock"):
        await broker.publish("orders", numbered(1, 1, b"k"))
    with pytest.raises(BrokerUnavailable, match="write lock"):
        await subscription.flush()
    holder.execute("ROLLBACK")
    holder.close()
    await broker.publish("orders", numbered(1, 2, b"k"))
    await subscription.flush()
    assert numbers(await take(subscription, 1)) == [2]
    await harness.crash()
    again = await (await harness.broker()).subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    assert numbers(await take(again, 1)) == [2]


async def test_a_damaged_file_is_told_to_publisher_and_consumer(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", [Message(b"x" * 500_000, b"k")])
    await broker.stop()
    path = harness.directory / "log.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    with pytest.raises(BrokerUnavailable, match="damaged"):
        await (await harness.broker()).publish("orders", numbered(1))


async def test_a_stopped_broker_says_so(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.stop()
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await broker.publish("orders", numbered(1))
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await broker.topics()


async def test_a_consumer_is_told_of_an_outage_and_goes_on_after_it(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(3, key=b"k"))
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    await take(subscription, 3)
    connection = sqlite3.connect(harness.directory / "log.db")
    connection.execute("ALTER TABLE records RENAME TO gone")
    connection.execute("UPDATE partitions SET next = next + 1 WHERE next = 3")
    connection.commit()
    subscription.changed()
    with pytest.raises(BrokerUnavailable, match="records"):
        await subscription.receive(1)
    connection.execute("ALTER TABLE gone RENAME TO records")
    connection.execute("UPDATE partitions SET next = 3 WHERE next = 4")
    connection.commit()
    connection.close()
    await broker.publish("orders", numbered(1, 3, b"k"))
    while True:
        try:
            assert numbers(await take(subscription, 1)) == [3]
            break
        except BrokerUnavailable:
            continue


async def test_one_request_that_fails_does_not_harm_those_beside_it(harness: LocalHarness) -> None:
    broker = await harness.broker()
    # Not encodable, so that it fails inside the transaction it shares.
    broken = Message(b"x", b"k", timestamp=float("nan"))
    results = await asyncio.gather(
        broker.publish("orders", numbered(1, 1, b"k")),
        broker.publish("orders", [broken]),
        broker.publish("orders", numbered(1, 2, b"k")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [list, ValueError, list]
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    assert numbers(await take(subscription, 2)) == [1, 2]


async def test_a_directory_that_vanishes_is_an_outage(harness: LocalHarness) -> None:
    broker = await harness.broker()
    await broker.publish("orders", numbered(1))
    await broker.stop()
    shutil.rmtree(harness.directory)
    harness.directory.touch()
    with pytest.raises(BrokerError, match="not a directory"):
        await harness.broker()


async def test_a_consumer_that_is_broken_does_not_look_idle(
    harness: LocalHarness, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await harness.broker()
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    [group] = (harness.directory / "groups").iterdir()
    with HeldFileLock.acquire(group / "members" / "0-garbled"):
        (group / "members" / "0-garbled").write_text("no JSON")
        subscription.wake(Wake.MEMBERS)
        with pytest.raises(BrokerUnavailable, match="unexpected JSONDecodeError, see the log"):
            await subscription.receive(1)
    assert "JSONDecodeError" in caplog.text
    await broker.publish("orders", numbered(1))
    while True:
        try:
            await take(subscription, 1)
            break
        except BrokerUnavailable:
            continue
