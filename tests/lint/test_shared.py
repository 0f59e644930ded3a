"""Values that outlive a run, in the module itself and in other modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.lint import examine

HEAD = """
import itertools, os, random, time
from pathlib import Path
import requests
from durabletask import task
from pack import state
from pack.settings import LIMIT, TOPIC

STARTED = time.time()
MODE = os.environ.get("MODE")
HOME = os.environ["HOME"]
CHANCE = random.Random(7)
SESSION = requests.Session()
BASE = Path("data")
IDS = itertools.count()
FIXED = {"a": 1}

class State:
    number = 0
"""
SETTINGS = "import os\nTOPIC = os.environ['TOPIC']\nLIMIT = 3\n"
STATE = "CACHE = {}\ndef put(key):\n    CACHE[key] = 1\n"

FOUND = {
    "clock at the start": ("clock", "STARTED"),
    "environment at the start": ("environment", "[MODE]"),
    "environment by item": ("environment", "[HOME]"),
    "environment of a neighbour": ("environment", "TOPIC"),
    "a generator of the module": ("random", "CHANCE.random()"),
    "a session of the module": ("http", "SESSION.get('x')"),
    "a path of the module": ("files", "BASE.read_text()"),
    "a counter": ("globals", "next(IDS)"),
    "a neighbour's global": ("globals", "state.CACHE"),
    "a neighbour that changes its global": ("globals", "state.put(1)"),
}
LEFT_ALONE = ["FIXED['a']", "LIMIT", "CHANCE", "BASE / 'x'", "State.number"]


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    (pack / "settings.py").write_text(SETTINGS)
    (pack / "state.py").write_text(STATE)
    return tmp_path / "flow.py"


def rules(flow: Path, body: str, given: str = "ctx: task.OrchestrationContext, value") -> list[str]:
    flow.write_text(f"{HEAD}\ndef flow({given}):\n{body}\n    yield ctx.create_timer(value)\n")
    return [one.rule for one in examine([flow]).findings]


@pytest.mark.parametrize("case", FOUND)
def test_it_is_found(flow: Path, case: str) -> None:
    rule, read = FOUND[case]
    assert rules(flow, f"    x = {read}") == [rule]


@pytest.mark.parametrize("read", LEFT_ALONE)
def test_what_stays_the_same_is_left_alone(flow: Path, read: str) -> None:
    assert rules(flow, f"    x = {read}") == []


def test_an_attribute_of_a_class_is_shared(flow: Path) -> None:
    assert rules(flow, "    State.number += 1") == ["globals"]


def test_a_default_that_is_changed_is_shared(flow: Path) -> None:
    given = "ctx: task.OrchestrationContext, value, taken=[]"
    assert rules(flow, "    taken.append(value)", given) == ["globals"]
    assert rules(flow, "    x = len(taken)", given) == []
    assert rules(flow, "    taken = [value]\n    x = taken[0]", given) == []
