"""Rewriting of a file's payloads under the current key, or in plain where none encrypts."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from bridge.core.errors import EngineUnavailable
from bridge.encryption import HEAD, Keyring
from bridge.sqlite_engine.maintenance.process_files import DatabaseLock
from bridge.sqlite_engine.maintenance.upkeep import ReportProgress, opened, vacuum
from bridge.sqlite_engine.storage.payloads import COLUMNS, Column, Payloads, row_of
from bridge.sqlite_engine.storage.schema import ENCRYPTED, check_keys, record_key, set_flag

PLAIN = ""
"""Key id of values that are not encrypted."""

BATCH_ROWS = 500
BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of values at which a transaction ends."""


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """Result of a re-encryption.

    values: number of values by id of their key, PLAIN for unencrypted ones.
    unreadable: values that cannot be decrypted and stay unchanged, by owner and column.
    """

    rewritten: int
    values: Mapping[str, int]
    unreadable: Sequence[str]


def count_values(path: Path, keyring: Keyring | None = None) -> Mapping[str, int]:
    """Count the payloads by id of their key, PLAIN for unencrypted ones. The engine may run.

    Raises: EngineUnavailable, EngineMisconfigured.
    """
    with closing(opened(path)) as connection:
        return _count(connection, path, keyring)


def reencrypt(path: Path, keyring: Keyring, progress: ReportProgress | None = None) -> Reencrypted:
    """Rewrite the values that are not under the current key; in plain where the keyring is not active.

    The engine must not run. After a crash, another call continues where the first stopped. At the end the whole file is
    written again, which leaves nothing of the former values.

    progress: called with the number of rewritten values, and the number of those to rewrite.
    Raises: EngineUnavailable (missing, in use, no room for the copy), EngineMisconfigured (a key is missing).
    """
    if not path.exists():
        raise EngineUnavailable(f"{path}: there is no such file")
    try:
        with (
            DatabaseLock(path).locked(),
            closing(opened(path, lambda found: check_keys(found, path, keyring))) as connection,
        ):
            record_key(connection, path, keyring)
            return _rewrite(connection, path, keyring, progress)
    except sqlite3.Error as error:
        raise EngineUnavailable(f"{path}: cannot be rewritten: {error}") from error


def _rewrite(
    connection: sqlite3.Connection, path: Path, keyring: Keyring, progress: ReportProgress | None
) -> Reencrypted:
    connection.execute("PRAGMA secure_delete=ON")
    payloads = Payloads(keyring)
    wanted = keyring.current.id if keyring.active else PLAIN
    total = sum(number for id_, number in _count(connection, path, keyring).items() if id_ != wanted)
    rewritten, unreadable = 0, []
    for column in COLUMNS:
        at: Sequence[Any] | None = None
        while True:
            rows = _batch(connection, column, keyring, at)
            if not rows:
                break
            at = rows[-1][0]
            connection.execute("BEGIN IMMEDIATE")
            for key, stored in rows:
                try:
                    value = _opened(payloads, column, key, stored)
                except DecodeError as error:
                    unreadable.append(str(error))
                    continue
                marks = " AND ".join(f"{name}=?" for name in column.key)
                connection.execute(
                    f"UPDATE {column.table} SET {column.name}=? WHERE {marks}",  # noqa: S608 -- names are ours
                    (payloads.seal(value, column, row_of(key)), *key),
                )
                rewritten += 1
            connection.execute("COMMIT")
            if progress is not None:
                progress(rewritten, total)
    _forget_keys(connection, keyring)
    vacuum(connection)
    return Reencrypted(rewritten, _count(connection, path, keyring), unreadable)


def _batch(
    connection: sqlite3.Connection, column: Column, keyring: Keyring, at: Sequence[Any] | None
) -> list[tuple[tuple[Any, ...], Any]]:
    """Next rows after `at` to rewrite: (primary key, value)."""
    keys = ", ".join(column.key)
    # Text compares unequal to every blob
    condition = f"substr({column.name}, 1, 10) <> ?" if keyring.active else f"substr({column.name}, 1, 2) = ?"
    values: list[Any] = [HEAD + keyring.fingerprint if keyring.active else HEAD]
    if at is not None:
        condition += f" AND ({keys}) > ({', '.join('?' * len(at))})"
        values += at
    query = f"SELECT {keys}, {column.name} FROM {column.table} WHERE {condition} ORDER BY {keys}"  # noqa: S608 -- ours
    found: list[tuple[tuple[Any, ...], Any]] = []
    size = 0
    with closing(connection.execute(query, values)) as rows:
        for *key, stored in rows:
            found.append((tuple(key), stored))
            size += len(stored)
            if len(found) >= BATCH_ROWS or size >= BATCH_BYTES:
                break
    return found


def _opened(payloads: Payloads, column: Column, key: Sequence[Any], stored: Any) -> bytes | str | None:
    if column.is_text:
        return payloads.text(stored, column, row_of(key))
    return payloads.blob(stored, column, row_of(key))


def _forget_keys(connection: sqlite3.Connection, keyring: Keyring) -> None:
    """Delete the records of keys that no value needs."""
    needed = set(_fingerprints(connection))
    if keyring.active:
        needed.add(keyring.fingerprint)
    if not _has_keys(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    for (fingerprint,) in connection.execute("SELECT fingerprint FROM cipher_keys").fetchall():
        if fingerprint not in needed:
            connection.execute("DELETE FROM cipher_keys WHERE fingerprint=?", (fingerprint,))
    if not needed:
        connection.execute("DROP TABLE cipher_keys")
    set_flag(connection, ENCRYPTED, is_set=bool(needed))
    connection.execute("COMMIT")


def _count(connection: sqlite3.Connection, path: Path, keyring: Keyring | None) -> dict[str, int]:
    try:
        names = {} if keyring is None else dict(keyring.ids)
        if _has_keys(connection):
            names |= dict(connection.execute("SELECT fingerprint, id FROM cipher_keys"))
        found: Counter[str] = Counter()
        for column in COLUMNS:
            found[PLAIN] += connection.execute(
                f"SELECT count(*) FROM {column.table}"  # noqa: S608 -- names are ours
                f" WHERE {column.name} IS NOT NULL AND substr({column.name}, 1, 2) <> ?",
                (HEAD,),
            ).fetchone()[0]
        for fingerprint, number in _fingerprints(connection).items():
            found[names.get(fingerprint, fingerprint.hex())] += number
    except sqlite3.Error as error:
        raise EngineUnavailable(f"{path}: cannot be read: {error}") from error
    return {id_: number for id_, number in sorted(found.items()) if number}


def _fingerprints(connection: sqlite3.Connection) -> Counter[bytes]:
    """Number of encrypted values by fingerprint of their key."""
    found: Counter[bytes] = Counter()
    for column in COLUMNS:
        query = (
            f"SELECT substr({column.name}, 3, 8), count(*) FROM {column.table}"  # noqa: S608 -- names are ours
            f" WHERE substr({column.name}, 1, 2) = ? GROUP BY 1"
        )
        found.update(dict(connection.execute(query, (HEAD,)).fetchall()))
    return found


def _has_keys(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name='cipher_keys'").fetchone() is not None
