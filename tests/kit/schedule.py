"""Distribution of the test files over the processes of `make test`, and the measurement on which it is based.

A third of the processes takes the files that compute, and the others take those that wait for locks, pauses and
timeouts: the processors then have work from beginning to end. `costs.json` has a number for each file that takes a
second or more. `make costs` renews it on a quiet machine.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it has no types

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("costs.json")
COSTS: dict[str, float] = json.loads(FILE.read_text())
"""Seconds of processor time less the seconds of waiting, by file: below zero for a file that mostly waits."""

SHARE = 3
"""Every third process takes files that compute."""

LEAST = 1.0
"""Least seconds of a file in `costs.json`."""

_LONG = re.compile(r"^pytestmark = .*\bmark\.long\b|^    item\.add_marker\(pytest\.mark\.long\)$", re.MULTILINE)
"""Mark of a file, or of a room in its `conftest.py`."""


def is_long(file: Path) -> bool:
    """True if the tests of a file are long. The mark is read, not imported."""
    rooms = (room / "conftest.py" for room in file.parents if ROOT in room.parents)
    return any(_LONG.search(_read(each)) for each in (file, *rooms))


def is_left_out(file: Path, marks: str) -> bool:
    """True if no test of a file can be in a run, by its mark. marks: expression of the run (`-m`)."""
    terms = set(marks.split(" and "))
    if "(" in marks or " or " in marks or not terms & {"long", "not long"}:
        return False
    return is_long(file) == ("not long" in terms)


def compile_part(root: Path, given: Collection[str], marks: str) -> None:
    """Import the part of the test files that is this process's, so that the processes compile each file once.

    All of them import all files afterwards, and find the others compiled. given: files and directories of the run.
    marks: expression of the run (`-m`).
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count == 1 or sys.dont_write_bytecode:
        return
    files = [file for file in files_of(root, given) if not is_left_out(file, marks)]
    for file in files[number::count]:
        # The collection reports what fails here
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))


def files_of(root: Path, given: Collection[str]) -> list[Path]:
    """Return the test files of a run. given: its files, tests and directories."""
    places = {root / each.partition("::")[0] for each in given}
    found = (each for each in sorted((root / "tests").rglob("test_*.py")) if places & {each, *each.parents})
    return [each for each in found if "corpus" not in each.parts]


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


class Schedule(LoadScopeScheduling):
    """Distribution by file. Files that wait are at the front of the queue, files that compute at its end.

    spread: files that are distributed test by test. together: files that run on one process.
    """

    def __init__(
        self, config: pytest.Config, log: Any, spread: Collection[str], together: Collection[str] = ()
    ) -> None:
        config.option.loadscopereorder = False  # by their number of tests
        super().__init__(config, log)
        self._spread = spread
        self._together = together

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        if file in self._together:
            return "together"
        return nodeid if file in self._spread else file

    def _assign_work_unit(self, node: Any) -> None:
        if int(node.gateway.id.removeprefix("gw")) % SHARE == 0:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        # One test ahead is what a process needs. The base keeps two, which may wait behind a long one
        if self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) > 1:
            return
        super()._reschedule(node)


class Costs:
    """Plugin that measures the files of one process and writes `costs.json` in the main process, with `--costs`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._found: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        began, computed = time.monotonic(), _processor_seconds()
        result = yield
        seconds, computed = time.monotonic() - began, _processor_seconds() - computed
        self._found[file_of(item.nodeid)] += computed - max(0.0, seconds - computed)
        self._seconds[file_of(item.nodeid)] += seconds
        return result

    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["costs"] = [dict(self._found), dict(self._seconds)]
            return
        known = {name: round(cost, 1) for name, cost in self._found.items() if self._seconds[name] >= LEAST}
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for mine, theirs in zip((self._found, self._seconds), node.workeroutput["costs"], strict=True):
            for name, value in theirs.items():
                mine[name] += value


def _processor_seconds() -> float:
    """Processor time of this process and of its children, also of those that run."""
    used = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    running = 0
    for task in Path("/proc/self/task").iterdir():
        for child in _read(task / "children").split():
            fields = _read(Path(f"/proc/{child}/stat")).rpartition(")")[2].split()
            running += sum(map(int, fields[11:15]))
    return sum(each.ru_utime + each.ru_stime for each in used) + running / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    """Text of a file; empty without one, such as that of a thread or process after its end."""
    try:
        return path.read_text()
    except OSError:
        return ""
