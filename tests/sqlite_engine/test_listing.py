"""List of instances from the engine's file: the same as a filter over all of them, and with bounded work."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.hub.hub import TaskHub
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, RUNNING
from bridge.sqlite_engine.options import DatabaseOptions
from bridge.sqlite_engine.storage import listing
from bridge.sqlite_engine.storage.listing import MOST_EXAMINED, ListFilter, newest
from bridge.sqlite_engine.storage.payloads import Payloads
from bridge.sqlite_engine.storage.schema import connect, prepare
from bridge.sqlite_engine.storage.store import Store

pytestmark = pytest.mark.long

COUNT = MOST_EXAMINED + 500
SECOND = 1_000_000


class Row(NamedTuple):
    number: int
    status: int
    outcome: str
    created_at: int


def _row(number: int) -> Row:
    if number % 4:
        return Row(number, RUNNING, "", (number + 1) * SECOND)
    outcome = "compensated" if number % 100 == 0 else "completed"
    return Row(number, FAILED if outcome == "compensated" else COMPLETED, outcome, (number + 1) * SECOND)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of an engine with a second between the instances. Of the unfinished ones, only the oldest compensates."""
    path = tmp_path_factory.mktemp("engine") / "engine.db"
    with closing(connect(path)) as connection:
        prepare(connection, path)
        connection.execute("PRAGMA synchronous=OFF")
        hub = TaskHub(Store(connection), DatabaseOptions(rules=BridgeRules()))
        hub.load()
        for first in range(0, COUNT, 500):
            hub.begin()
            for number in range(first, first + 500):
                row = _row(number)
                instance = hub.create(
                    f"trip-{number}", pb.CreateInstanceRequest(instanceId=f"trip-{number}", name="trip")
                )
                instance.created_at = row.created_at
                state = row.outcome or ("compensating" if number == 1 else "running")
                instance.custom_status = json.dumps({"saga": "trip", "status": state})
                if row.status == RUNNING:
                    instance.status = RUNNING
                    hub.append(instance, [instance.start])
                else:
                    hub.finish(instance, row.status, None, None)
            hub.tx.commit()
            hub.forget()
            hub.instances.clear()
    return path


def _all(path: Path, wanted: ListFilter, limit: int, most_parts: int = 1_000) -> list[list[str]]:
    """Ids of all parts."""
    parts, before = [], None
    with closing(connect(path)) as connection:
        for _ in range(most_parts):
            part = newest(connection, Payloads(), wanted, limit, before)
            assert len(part.listed) <= limit
            parts.append([each.state.instanceId for each in part.listed])
            before = part.before
            if before is None:
                return parts
    raise AssertionError("the list does not end")


@pytest.mark.parametrize("few", [10, 1_000, 1_000_000])
def test_parts_are_those_of_a_filter_over_all(path: Path, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_FEW", few)  # each way to read
    rows = [_row(number) for number in range(COUNT)]
    times = [(None, None), (None, 1_700 * SECOND), (19_000 * SECOND, None), (400 * SECOND, 900 * SECOND), (None, 0)]
    for (first, end), statuses, outcomes in product(times, [(), (FAILED,), (RUNNING,)], [(), ("compensated",)]):
        wanted = ListFilter(statuses=statuses, outcomes=outcomes, created_from=first, created_to=end)
        expected = [
            f"trip-{row.number}"
            for row in reversed(rows)
            if (not statuses or row.status in statuses)
            and (not outcomes or row.outcome in outcomes)
            and (first is None or row.created_at >= first)
            and (end is None or row.created_at < end)
        ]
        found = [each for part in _all(path, wanted, 700) for each in part]
        assert found == expected, wanted


def test_a_search_in_custom_statuses_has_bounded_work_for_each_part(path: Path) -> None:
    compensating = ListFilter(statuses=(RUNNING,), status_text=('"compensating"',))
    assert _all(path, compensating, 50) == [["trip-1"]]
    assert _all(path, ListFilter(status_text=('"compensating"',)), 50) == [[], ["trip-1"]]
    running = _all(path, ListFilter(status_text=('"running"',)), 10_000)
    assert [len(each) for each in running] == [10_000, COUNT * 3 // 4 - 10_001]


def test_the_work_of_a_part_does_not_grow_with_the_list(path: Path) -> None:
    """Steps of SQLite's machine: independent of the load of this machine."""
    with closing(connect(path)) as connection:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.set_progress_handler(count, 1_000)
        for wanted in (
            ListFilter(),
            ListFilter(created_to=0),
            ListFilter(created_from=0),
            ListFilter(created_to=100 * SECOND),
            ListFilter(statuses=(RUNNING,)),
        ):
            steps = 0
            newest(connection, Payloads(), wanted, 50)
            assert steps < 60, wanted
