"""Distribution of test files over processes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.kit.schedule import COSTS, ROOT, Schedule, files_of, is_left_out, is_long


class Node:
    """A process that runs tests."""

    def __init__(self, number: int) -> None:
        self.gateway = SimpleNamespace(id=f"gw{number}")
        self.shutting_down = False
        self.given: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduled(collection: list[str], count: int) -> tuple[Any, list[Node]]:
    config: Any = SimpleNamespace(option=SimpleNamespace(), getvalue=lambda name: [f"{count}*popen"])
    schedule = Schedule(config, None, ("spread.py",), ("one.py", "two.py"))
    nodes = [Node(number) for number in range(count)]
    for node in nodes:
        schedule.add_node(node)
        schedule.add_node_collection(node, collection)
    schedule.schedule()
    return schedule, nodes


def test_one_process_begins_with_files_that_compute() -> None:
    collection = ["wait.py::a", "wait.py::b", "spread.py::a", "spread.py::b", "c.py::a", "d.py::a", "d.py::b"]
    schedule, (computing, waiting) = scheduled(collection, 2)
    assert (computing.given, waiting.given) == ([5, 6], [0, 1])
    schedule.mark_test_complete(computing, 5)
    assert computing.given == [5, 6, 4]
    schedule.mark_test_complete(waiting, 0)
    schedule.mark_test_complete(waiting, 1)
    assert waiting.given == [0, 1, 2, 3]
    assert not waiting.shutting_down
    schedule.mark_test_complete(waiting, 2)
    assert waiting.shutting_down
    schedule.mark_test_complete(computing, 6)
    assert schedule.tests_finished


def test_some_files_run_on_one_process() -> None:
    _, (computing, waiting) = scheduled(["one.py::a", "a.py::a", "two.py::a", "two.py::b"], 2)
    assert (computing.given, waiting.given) == ([1], [0, 2, 3])


def test_measured_files_exist() -> None:
    assert [name for name in COSTS if not (ROOT / name).exists()] == []


def test_a_run_compiles_its_own_files() -> None:
    own = files_of(ROOT, ["tests/test_schedule.py::test_measured_files_exist", "tests/claims"])
    assert {file.parent.name for file in own} == {"tests", "claims"}
    assert [file.name for file in own if file.parent.name == "tests"] == ["test_schedule.py"]
    assert len(files_of(ROOT, ["tests"])) > 500


def test_a_run_imports_no_file_of_other_marks() -> None:
    marked, room, short = (
        ROOT / "tests" / each for each in ("docs/test_commands.py", "page/test_demo.py", Path(__file__))
    )
    assert [is_long(file) for file in (marked, room, short)] == [True, True, False]
    for marks, left_out in (
        ("not prove and not chart and not long", [True, True, False]),
        ("long and not prove and not chart", [False, False, True]),
        ("not prove and not chart", [False, False, False]),
        ("hypothesis and not (long or chart)", [False, False, False]),
        ("chart or not long and prove", [False, False, False]),
    ):
        assert [is_left_out(file, marks) for file in (marked, room, short)] == left_out, marks


def test_the_mark_is_that_of_a_whole_file() -> None:
    """A single long test would run in neither part: `make test-long` does not import the file of a test without it."""
    marked = re.compile(r"\bmark\.(?:long)\b")
    files = {file: len(marked.findall(file.read_text())) for file in files_of(ROOT, ["tests"])}
    assert {file: count for file, count in files.items() if count != is_long(file) and count} == {}
