"""Sets with an order, and sets without."""
# ruff: noqa: E501 -- each snippet of code is one text

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from bridge.lint import examine

HEAD = """
from durabletask import task
from neighbour import unique

TAGS = {"a", "b"}
FROZEN = frozenset(["a"])

class Flow:
    def flow(self, ctx: task.OrchestrationContext, value):
"""
NEIGHBOUR = """
def unique(values):
    return {one.lower() for one in values}
"""

ORDERED = {
    "of the module": "for one in TAGS:\n    yield ctx.call_activity('a', input=one)",
    "frozen, of the module": "yield ctx.call_activity('a', input=list(FROZEN))",
    "joined": "yield ctx.call_activity('a', input=','.join({'a', 'b'}))",
    "keys of a dict": "yield ctx.call_activity('a', input=dict.fromkeys(set(value)))",
    "popped": "rest = set(value)\nwhile rest:\n    yield ctx.call_activity('a', input=rest.pop())",
    "unpacked": "a, b = {'x', 'y'}\nyield ctx.call_activity('a', input=a)",
    "starred": "yield ctx.call_activity('a', input=[*set(value)])",
    "of a helper": "for one in unique(value):\n    yield ctx.call_activity('a', input=one)",
    "an attribute": "self.rest = set(value)\nfor one in self.rest:\n    yield ctx.call_activity('a', input=one)",
    "one or the other": "for one in set(value) if value else {1}:\n    yield ctx.call_activity('a', input=one)",
}

UNORDERED = {
    "sorted under its own name": "rest = set(value)\nrest = sorted(rest)\nfor one in rest:\n    yield ctx.call_activity('a', input=one)",
    "sorted, of a helper": "for one in sorted(unique(value)):\n    yield ctx.call_activity('a', input=one)",
    "asked": "if value in TAGS or value in FROZEN:\n    yield ctx.call_activity('a')",
    "filled and counted": "seen = set()\nseen.add(value)\nyield ctx.call_activity('a', input=len(seen))",
    "starred into a set": "both = {*set(value), *TAGS}\nyield ctx.call_activity('a', input=len(both))",
    "a list that is popped": "rest = list(value)\nyield ctx.call_activity('a', input=rest.pop())",
    "joined text": "yield ctx.call_activity('a', input=','.join(value))",
    "hidden by a parameter": "def inner(TAGS):\n    return list(TAGS)\nyield ctx.call_activity('a', input=inner([1]))",
}


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    return tmp_path / "flow.py"


@pytest.mark.parametrize("case", ORDERED)
def test_an_order_is_found(flow: Path, case: str) -> None:
    flow.write_text(HEAD + textwrap.indent(ORDERED[case], " " * 8) + "\n")
    assert [one.rule for one in examine([flow]).findings] == ["unordered"]


@pytest.mark.parametrize("case", UNORDERED)
def test_no_order_is_left_alone(flow: Path, case: str) -> None:
    flow.write_text(HEAD + textwrap.indent(UNORDERED[case], " " * 8) + "\n")
    assert examine([flow]).findings == []
