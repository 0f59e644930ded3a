"""Shards of the lineage index on a remote engine: rows by the hash of an id, bounded by number, size and age. Pure.

The state of a shard is JSON: `rows` of [hash, time, kind, value] in order of their time, `from`, the time since which
no row was removed because of a bound, and `tick`, the time of the next removal by age. Times are seconds since the Unix
epoch. An operation that is repeated changes nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

INSTANCE_ROW = 0
"""Kind of a row whose value is the id of an instance that has received, or published, the message."""

ENTITY_ROW = 4
"""Kind of a row whose value is the id of an entity in which the message waits. Kinds between are those of records."""

MAX_SHARD_BYTES = 512 * 1024
"""Most bytes of the rows of a shard, as JSON: the scheduler refuses payloads of 1 MiB."""

MAX_ROW_BYTES = 8192
"""Most bytes of a row, as JSON."""

_TICKS = 10
"""Removals by age within one age."""

ShardRow = Sequence[Any]


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """Bounds of one shard. ids: rows. age: seconds."""

    ids: int
    age: float


@dataclass(frozen=True, slots=True)
class ShardChange:
    """Result of an operation.

    state: new state; None when no row is left.
    wake: time of a further `expire` operation; None when none is needed, or one is due already.
    removed: rows removed because of a bound.
    expired: rows removed because of their age.
    """

    state: dict[str, Any] | None
    wake: float | None
    removed: int
    expired: int


@dataclass(frozen=True, slots=True)
class ShardRows:
    """Rows of one or more ids. since: time since which no row of these ids is missing; None without any state."""

    rows: tuple[ShardRow, ...]
    since: float | None


def hash_of(id_: str) -> str:
    """Hash of an id, the same in every process: 9 bytes as 12 characters."""
    return base64.urlsafe_b64encode(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=9).digest()).decode()


def shard_of(hash_: str, shards: int) -> str:
    """Key of the entity with the rows of a hash. Another number of shards uses other entities."""
    return f"{shards}.{int.from_bytes(base64.urlsafe_b64decode(hash_)[:6], 'big') % shards}"


def apply(state: Any, operation: str, value: Any, now: float) -> ShardChange:
    """Apply an operation of the entity: `add` or `expire`. Others, of later versions, change nothing.

    value: `ids` and `age`, the bounds, because the worker may have another configuration than the sender; and the
    `rows` of `add`.
    """
    rows: list[ShardRow] = list((state or {}).get("rows", ()))
    since: float | None = (state or {}).get("from")
    tick: float | None = (state or {}).get("tick")
    if operation not in ("add", "expire") or not isinstance(value, dict):
        return ShardChange(state, None, 0, 0)
    limits = ShardLimits(value["ids"], value["age"])
    if operation == "add":
        rows = _merged(rows, value["rows"])
        since = min((row[1] for row in rows), default=now) if since is None else since
    kept = [row for row in rows if row[1] > now - limits.age]
    expired = len(rows) - len(kept)
    fit = _fitting(kept, limits.ids)
    removed = len(kept) - len(fit)
    if removed:
        since = max(since or 0.0, kept[removed - 1][1])
    wake = None
    if fit and (tick is None or tick <= now):
        tick = wake = max(fit[0][1] + limits.age, now + limits.age / _TICKS)
    if not fit:
        return ShardChange(None, None, removed, expired)
    return ShardChange({"rows": fit, "from": since, "tick": tick}, wake, removed, expired)


def find(states: Iterable[Any], hashes: Collection[str], limits: ShardLimits, now: float) -> ShardRows:
    """Rows of these hashes in the states of their shards."""
    found: list[ShardRow] = []
    since: float | None = now - limits.age
    for state in states:
        begin = None if state is None else state.get("from")
        since = None if since is None or begin is None else max(since, begin)
        if state is not None:
            found += [row for row in state["rows"] if row[0] in hashes and row[1] > now - limits.age]
    return ShardRows(tuple(found), since)


def is_small(row: ShardRow) -> bool:
    """True when a row may be stored."""
    return len(json.dumps(row)) <= MAX_ROW_BYTES


def _merged(rows: Sequence[ShardRow], new: Sequence[ShardRow]) -> list[ShardRow]:
    """Rows with new ones, in order of their time. A repeated row takes its newest time."""
    merged: dict[tuple[str, int, str], ShardRow] = {}
    for row in (*rows, *new):
        key = (row[0], row[2], row[3] if isinstance(row[3], str) else json.dumps(row[3], sort_keys=True))
        former = merged.pop(key, None)
        merged[key] = row if former is None or row[1] > former[1] else former
    return sorted(merged.values(), key=lambda row: float(row[1]))


def _fitting(rows: list[ShardRow], most: int) -> list[ShardRow]:
    """Newest rows within the bounds."""
    rows = rows[-most:]
    while len(json.dumps(rows)) > MAX_SHARD_BYTES:
        rows = rows[len(rows) // 4 + 1 :]
    return rows
