"""Files of large payloads across crashes, backups and keys of encryption."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import LargePayloadLost, PayloadStoreUnavailable
from bridge.encryption import Key, Keyring
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.backups import backup, restore
from bridge.sqlite_engine.maintenance.reencryption import reencrypt
from bridge.sqlite_engine.maintenance.upkeep import check, export
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage import schema
from tests.kit.waiting import eventually
from tests.large_payloads.test_embedded import (
    CONFIG,
    SIZE,
    completed,
    files_of,
    finished_flow,
    hosted,
    number_of,
    text_of,
    working,
)


async def test_files_without_a_reference_are_removed_when_they_are_old(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
    files = files_of(tmp_path)
    kept = set(files.names())
    lost, young = files.write(b'"lost"').name, files.write(b'"young"').name
    partial = files.path_of(lost).with_name(".left.partial")
    partial.touch()
    old = time.time() - 3600
    for path in (files.path_of(lost), partial, *map(files.path_of, kept)):
        os.utime(path, (old, old))
    database = Database(tmp_path / "engine.db", DatabaseOptions(payload_age=60.0))
    database.start()
    try:
        await eventually(lambda: not files.has(lost), "the file is removed")
        assert set(files.names()) == {*kept, young}
        assert not partial.exists()
    finally:
        database.stop()


async def test_no_file_is_removed_while_a_copy_is_made(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
        before = number_of(tmp_path)
        with files_of(tmp_path).locked():
            await engine.client.purge_orchestration("a", recursive=True)
            assert number_of(tmp_path) == before
    for path in map(files_of(tmp_path).path_of, list(files_of(tmp_path).names())):
        os.utime(path, (0, 0))
    async with hosted(tmp_path):
        await eventually(lambda: number_of(tmp_path) == 0, lambda: f"{number_of(tmp_path)} files")


async def test_a_backup_has_its_payloads_and_is_restored_with_them(tmp_path: Path) -> None:
    directory, target = tmp_path / "engine", tmp_path / "backups" / "engine.db"
    target.parent.mkdir()
    async with working(directory) as engine:
        await finished_flow(engine)
        backup(directory / "engine.db", target)
        await engine.client.purge_orchestration("a", recursive=True)
        await finished_flow(engine, "later")
    assert check(target) == []
    out = StringIO()
    export(target, out)
    assert text_of("e") in out.getvalue()
    assert "bridge-payload:" not in out.getvalue()
    restored = restore(target, directory / "engine.db")
    assert restored.kept is not None
    assert check(restored.kept) == []
    shutil.rmtree(directory_of(target))
    async with hosted(directory) as engine:
        output = await completed(engine, "a")
        assert output[0] == text_of("i") + "."
        assert await engine.client.get_orchestration_state("later") is None
    assert len(check(target)) > 3
    assert "the file of a large payload is missing" in check(target)[0]
    refused = restore(target, directory / "engine.db")
    assert refused.problems == check(target)


async def test_encryption_of_the_engine_covers_the_files(tmp_path: Path) -> None:
    old, new = Keyring([Key("old", bytes(range(32)))]), Keyring([Key("new", bytes(32)), Key("old", bytes(range(32)))])
    file = tmp_path / "engine.db"
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True, keys=lambda: old)
    await engine.start()
    await engine.client.schedule_new_orchestration("flow", input=text_of("s"), instance_id="a")
    await engine.stop()
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"ssssssss" not in everything
    # Without the key of the engine nobody learns the key of a file
    assert b"bridge-payload:v1:" not in everything
    reencrypt(file, new)
    engine = EmbeddedEngine("default", CONFIG, tmp_path, host=True, keys=lambda: Keyring([Key("new", bytes(32))]))
    await engine.start()
    state = await engine.client.get_orchestration_state("a")
    assert state is not None
    assert state.get_input() == text_of("s")
    await engine.stop()


async def test_programs_that_cannot_read_references_see_a_newer_file(tmp_path: Path) -> None:
    def version() -> int:
        with closing(sqlite3.connect(tmp_path / "engine.db")) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])

    async with hosted(tmp_path, EmbeddedEngineConfig(type="embedded")) as engine:
        await engine.client.schedule_new_orchestration("flow", input=text_of("s"), instance_id="a")
    assert version() == schema.VERSION
    async with hosted(tmp_path) as engine:
        await engine.client.schedule_new_orchestration("flow", input=text_of("s"), instance_id="b")
    # Earlier versions know one flag, ENCRYPTED, and refuse every larger number
    assert version() & ~schema.ENCRYPTED > schema.VERSION
    async with hosted(tmp_path, EmbeddedEngineConfig(type="embedded")) as engine:
        assert await engine.client.get_orchestration_state("b") is not None


async def test_a_kept_generation_and_a_restart_share_files(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
        new = await engine.client.restart_orchestration("a", restart_with_new_instance_id=True)
        await engine.client.purge_orchestration("a", recursive=True)
        await engine.client.raise_orchestration_event(new, "more", data=text_of("e"))
        output = await completed(engine, new)
        assert len(output[0]) == SIZE + 1
        await engine.client.purge_orchestration(new, recursive=True)
        await eventually(lambda: number_of(tmp_path) == 0, lambda: f"{number_of(tmp_path)} files")


def test_a_directory_that_cannot_be_used_is_an_outage(tmp_path: Path) -> None:
    directory = tmp_path / "engine.db.payloads"
    directory.touch()
    with pytest.raises(PayloadStoreUnavailable, match="a payload of 3 bytes cannot be written"):
        PayloadFiles(directory).write(b'"x"')
    directory.unlink()
    reference = PayloadFiles(directory).write(b'"x"')
    assert PayloadFiles(directory).restore(str(reference)) == '"x"'
    assert "key" not in repr(reference)
    with pytest.raises(LargePayloadLost, match="not a reference that this version"):
        PayloadFiles(directory).restore("bridge-payload:v2:x")
