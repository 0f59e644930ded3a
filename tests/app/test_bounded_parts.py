"""Parts of long lists read what they show, not the whole list: the work for a part is that of a short list."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.app.audit import AuditFilter, newest
from bridge.app.composition import build_engine, load_config
from bridge.app.operations.operation import Scene, perform
from bridge.app.operations.table import BY_NAME
from bridge.config.source import Loaded
from bridge.core.system_names import EARLY_MESSAGES, QUARANTINE
from bridge.engines.base import Engine
from bridge.ops import trail
from bridge.ops.access import Caller
from bridge.ops.audit import user
from bridge.ops.trail import FILE, AuditTrail
from tests.app.test_cursors import CONFIG, FLOWS, Lists
from tests.kit.daemon import running

pytestmark = pytest.mark.long

LIMIT = 50
FEW, MANY = 1_000, 100_000
LISTS = {"entities.list": {"entity": "counter"}, "early.list": {}, "quarantine.list": {}}
MEMBERS = {"entities.list": "entities", "early.list": "messages", "quarantine.list": "messages"}
COPIES = ("@counter@", f"@{EARLY_MESSAGES}@", f"@{QUARANTINE}@")


def line(number: int) -> dict[str, Any]:
    """Audit line; a later number is newer."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_800_000_000 + number))
    return {"time": f"{stamp}.000Z", "actor": "ada" if number % 2 else "bob", "action": "reload", "target": str(number)}


def whole(
    trails: list[AuditTrail],
    limit: int,
    wanted: AuditFilter = AuditFilter(),  # noqa: B008 -- frozen
    most: int | None = None,
) -> list[str]:
    """Targets of all lines, read in parts."""
    found: list[str] = []
    places = None
    while True:
        part = newest(trails, wanted, limit, places, most)
        assert len(part.lines) <= limit
        found += [each["target"] for each in part.lines]
        if (places := part.next) is None:
            return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 200)), max_size=40),
    st.integers(1, 7),
    st.integers(8, 64),
    st.integers(200, 2_000),
)
def test_parts_of_the_audit_have_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, int]], limit: int, block: int, size: int
) -> None:
    base = tmp_path_factory.mktemp("trails")
    trails = [AuditTrail(base / str(number), size, 50) for number in range(3)]
    for number, (at, length) in enumerate(entries):
        trails[at].append(line(number) | {"fill": "ü" * length})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trail, "_BLOCK", block)
        expected = [str(number) for number in reversed(range(len(entries)))]
        assert whole(trails, limit) == expected
        assert whole(trails, limit, AuditFilter(actor="bob"), most=3) == [
            each for each in expected if int(each) % 2 == 0
        ]
        assert newest(trails, AuditFilter(), 1_000).next is None


def test_audit_lines_that_come_meanwhile_move_no_others(tmp_path: Path) -> None:
    copies = [AuditTrail(tmp_path / "a", 400, 50), AuditTrail(tmp_path / "empty")]
    for number in range(20):
        copies[0].append(line(number))
    part = newest(copies, AuditFilter(), 7)
    for number in range(20, 40):  # new files, and those before have other names
        copies[number % 2].append(line(number))
    rest = newest(copies, AuditFilter(), 100, part.next)
    found = [int(each["target"]) for each in (*part.lines, *rest.lines)]
    assert found == [*reversed(range(20))]
    assert rest.next is None
    for file in copies[0].files()[:-1]:
        file.unlink()
    assert newest(copies, AuditFilter(), 100, part.next).lines == []


def _read_bytes() -> int:
    """Bytes that this process has read."""
    counts = dict(each.split(": ") for each in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


def test_a_part_of_the_audit_reads_its_lines_only(tmp_path: Path) -> None:
    copy = AuditTrail(tmp_path)
    copy.append(line(0))
    with (tmp_path / FILE).open("a") as file:
        file.writelines(json.dumps(line(number)) + "\n" for number in range(1, MANY))
    size = (tmp_path / FILE).stat().st_size
    second = newest([copy], AuditFilter(), 1).next
    assert second is not None
    for places in (None, [second[0]._replace(offset=size // 2)]):
        before = _read_bytes()
        assert len(newest([copy], AuditFilter(), LIMIT, places).lines) == LIMIT
        assert _read_bytes() - before < 200_000 < size / 20


def _copy(path: Path, counts: dict[str, int], more: int) -> None:
    """Copy the first entity of each name, until there are `more` of them."""
    with closing(sqlite3.connect(path)) as database, database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(entities)") if row[1] != "id"]
        names = ", ".join(columns)
        for name in COPIES:
            first = database.execute(
                "SELECT min(id) FROM entities WHERE id > ? AND id < ?", (name, f"{name}\U0010ffff")
            ).fetchone()
            assert first[0] is not None, name
            database.execute(
                "WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                f" INSERT INTO entities (id, {names})"
                f" SELECT ? || printf('~%06d', i), {names} FROM n, entities WHERE id = ?",
                (counts.get(name, 0), more - 1, first[0], first[0]),
            )
            counts[name] = more


async def _cost(run: Callable[[], Awaitable[Any]]) -> float:
    """Least processor time of some runs, in seconds."""
    found = []
    for _ in range(7):
        before = time.process_time()
        await run()
        found.append(time.process_time() - before)
    return min(found)


async def test_a_part_of_many_entities_costs_as_much_as_one_of_few(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as daemon:
        await Lists(daemon).add()
    loaded = load_config([tmp_path / "bridge.yaml"])
    path = tmp_path / ".bridge" / "engine" / "engine.db"
    counts: dict[str, int] = {}
    costs: dict[str, list[float]] = {name: [] for name in LISTS}
    for number in (FEW, MANY):
        _copy(path, counts, number)
        engine = build_engine(loaded, "default", host=True)
        await engine.start()
        try:
            for name in LISTS:
                first = await _part(loaded, engine, name, "start")
                assert len(first[MEMBERS[name]]) == LIMIT
                costs[name].append(await _cost(lambda: _part(loaded, engine, name, "start")))  # noqa: B023 -- at once
                costs[name].append(await _cost(lambda: _part(loaded, engine, name, first["next"])))  # noqa: B023 -- at once
        finally:
            await engine.stop()
    for name, (few, few_later, many, many_later) in costs.items():
        assert many < 5 * few + 0.01, (name, few, many)
        assert many_later < 5 * few_later + 0.01, (name, few_later, many_later)


async def _part(loaded: Loaded, engine: Engine, name: str, cursor: str) -> Any:
    async def opened() -> Engine:
        return engine

    scene = Scene(loaded, opened, Caller(user(), "admin", True))
    return await perform(BY_NAME[name], {**LISTS[name], "cursor": cursor, "limit": LIMIT}, scene)
