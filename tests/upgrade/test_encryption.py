"""Unencrypted state of an older build, encrypted by today's build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bridge.encryption import Key, Keyring
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.maintenance.backups import restore
from bridge.sqlite_engine.maintenance.reencryption import PLAIN, count_values, reencrypt
from bridge.sqlite_engine.maintenance.upkeep import check, export
from bridge.sqlite_engine.options import DatabaseOptions
from tests.upgrade.opened import RECORDINGS, Opened

KEY = Key("first", bytes(range(32)))


def exported(path: Path, keyring: Keyring | None, directory: Path) -> list[object]:
    with (directory / "exported").open("w+") as out:
        export(path, out, keyring)
        out.seek(0)
        return [json.loads(line) for line in out]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_file_of_an_older_build_is_encrypted_whole(recording: Path, tmp_path: Path) -> None:
    it = Opened(recording, tmp_path / "state")
    engine = it.directory / "engine"
    path = engine / "engine.db"
    ring = Keyring([KEY])
    kept = tmp_path / "kept" / "engine.db"
    shutil.copytree(engine, kept.parent)
    before = exported(kept, None, tmp_path)
    payload = before[0]["state"]["input"].encode()[:40]  # type: ignore[index]
    assert payload in b"".join(each.read_bytes() for each in engine.iterdir())
    assert set(count_values(kept)) == {PLAIN}
    assert set(reencrypt(path, ring).values) == {"first"}
    assert exported(path, ring, tmp_path) == before
    assert check(path, ring) == []
    assert all(payload not in each.read_bytes() for each in engine.iterdir())
    # An engine continues with the file, and decryption remains possible.
    database = Database(path, DatabaseOptions(keyring=ring))
    database.start()
    database.stop()
    assert set(reencrypt(path, Keyring([KEY], active=False)).values) == {PLAIN}
    assert exported(path, None, tmp_path) == before
    # An unencrypted backup can still be restored where encryption is on.
    assert restore(kept, path, keyring=ring).problems == []
    assert exported(path, ring, tmp_path) == before
