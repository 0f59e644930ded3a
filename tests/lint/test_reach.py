"""Orchestrators are recognised in every form, and so are their paths to helpers and clocks."""
# ruff: noqa: E501 -- each snippet of code is one text

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.lint import examine

HEAD = "from datetime import datetime\nimport functools\nimport time, uuid\nfrom durabletask import task\n"
CTX = "ctx: task.OrchestrationContext, value"

ORCHESTRATORS = {
    "function": f"def flow({CTX}):\n    yield datetime.now()\n",
    "decorated": f"@functools.wraps(print)\ndef flow({CTX}):\n    yield datetime.now()\n",
    "static method": f"class Flows:\n    @staticmethod\n    def flow({CTX}):\n        yield datetime.now()\n",
    "class method": f"class Flows:\n    @classmethod\n    def flow(cls, {CTX}):\n        yield datetime.now()\n",
    "method": f"class Flows:\n    def flow(self, {CTX}):\n        yield datetime.now()\n",
    "unannotated": "def flow(ctx, value):\n    yield ctx.call_activity('a', input=str(datetime.now()))\n",
    "unannotated method": (
        "class Flows:\n    def flow(self, ctx, value):\n        yield ctx.create_timer(datetime.now())\n"
    ),
    "other name": "def flow(c, value):\n    yield c.call_activity('a', input=str(datetime.now()))\n",
    "nested": f"def make():\n    def flow({CTX}):\n        yield datetime.now()\n    return flow\n",
    "lambda": "flow = lambda ctx, value: (yield ctx.create_timer(datetime.now()))\n",
    "string annotation": "def flow(ctx: 'task.OrchestrationContext', value):\n    yield datetime.now()\n",
}

WAYS = {
    "self.method": (
        "class F:\n"
        "    def due(self):\n"
        "        return datetime.now()\n"
        f"    def flow(self, {CTX}):\n"
        "        yield self.due()\n"
    ),
    "cls.method": (
        "class F:\n"
        "    @classmethod\n"
        "    def due(cls):\n"
        "        return datetime.now()\n"
        "    @classmethod\n"
        f"    def flow(cls, {CTX}):\n"
        "        yield cls.due()\n"
    ),
    "inherited": (
        "class B:\n"
        "    def due(self):\n"
        "        return datetime.now()\n"
        "class F(B):\n"
        f"    def flow(self, {CTX}):\n"
        "        yield self.due()\n"
    ),
    "Class.method": (
        "class H:\n"
        "    @staticmethod\n"
        "    def due():\n"
        "        return datetime.now()\n"
        f"def flow({CTX}):\n"
        "    yield H.due()\n"
    ),
    "Class().method": (
        f"class H:\n    def due(self):\n        return datetime.now()\ndef flow({CTX}):\n    yield H().due()\n"
    ),
    "partial of a helper": (
        f"def due(x):\n    return datetime.now()\ndef flow({CTX}):\n    yield functools.partial(due, 1)()\n"
    ),
    "partial of the clock": f"def flow({CTX}):\n    yield functools.partial(datetime.now)()\n",
    "module alias": f"now = datetime.now\ndef flow({CTX}):\n    yield now()\n",
    "module alias by partial": f"now = functools.partial(datetime.now, None)\ndef flow({CTX}):\n    yield now()\n",
    "local alias": f"def flow({CTX}):\n    now = datetime.now\n    yield now()\n",
    "alias of a helper": f"def due():\n    return datetime.now()\nother = due\ndef flow({CTX}):\n    yield other()\n",
    "handed on": (
        f"def flow({CTX}):\n    yield list(map(datetime.fromtimestamp, [1])) + [value.get('at', datetime.now)]\n"
    ),
    "import as": f"from time import time as clock\ndef flow({CTX}):\n    yield clock()\n",
    "module as": f"import time as t\ndef flow({CTX}):\n    yield t.time()\n",
    "import inside": f"def flow({CTX}):\n    from time import time\n    yield time()\n",
    "star": f"from time import *\ndef flow({CTX}):\n    yield monotonic()\n",
    "star of a neighbour": f"from neighbour import *\ndef flow({CTX}):\n    yield buried()\n",
    "from as": f"from neighbour import buried as b\ndef flow({CTX}):\n    yield b()\n",
    "neighbour's class": f"from neighbour import Helper\ndef flow({CTX}):\n    yield Helper.late()\n",
    "neighbour's module": f"import neighbour as n\ndef flow({CTX}):\n    yield n.buried()\n",
    "neighbour of a neighbour": f"from middle import through\ndef flow({CTX}):\n    yield through()\n",
    "constructor": (
        f"class H:\n    def __init__(self):\n        self.at = datetime.now()\ndef flow({CTX}):\n    yield H().at\n"
    ),
    "field of a dataclass": (
        "from dataclasses import dataclass, field\n@dataclass\nclass H:\n"
        f"    at: datetime = field(default_factory=datetime.now)\ndef flow({CTX}):\n    yield H()\n"
    ),
    "method of a variable": (
        f"class H:\n    def due(self):\n        return datetime.now()\ndef flow({CTX}):\n    h = H()\n    yield h.due()\n"
    ),
    "method of a neighbour's variable": f"from neighbour import Helper\ndef flow({CTX}):\n    h = Helper()\n    yield h.late()\n",
    "lambda of the module": f"now = lambda: datetime.now()\ndef flow({CTX}):\n    yield now()\n",
    "mapped": f"def due(x):\n    return datetime.now()\ndef flow({CTX}):\n    yield list(map(due, value))\n",
    "key of a sort": f"def due(x):\n    return datetime.now()\ndef flow({CTX}):\n    yield sorted(value, key=due)\n",
    "module by another name": f"def flow({CTX}):\n    t = time\n    yield t.time()\n",
    "formatted": f"def flow({CTX}):\n    yield time.strftime('%Y')\n",
    "nested helper": f"def flow({CTX}):\n    def inner():\n        return datetime.now()\n    yield inner()\n",
}

NEIGHBOURS = {
    "neighbour.py": (
        "from datetime import datetime\ndef buried():\n    return datetime.now()\n"
        "class Helper:\n    @staticmethod\n    def late():\n        return datetime.now()\n"
    ),
    "middle.py": "from neighbour import *\ndef through():\n    return buried()\n",
}

CORRECT = {
    "a plain function with the name of a clock": (
        "def now():\n    return 1\ndef flow(ctx, value):\n    yield ctx.call_activity('a', input=now())\n"
    ),
    "an activity's method": (
        "class F:\n    def act(self, ctx: task.ActivityContext, value):\n        return datetime.now()\n"
    ),
    "a method that nobody calls": (
        "class F:\n"
        "    def late(self):\n"
        "        return datetime.now()\n"
        f"    def flow(self, {CTX}):\n"
        "        yield ctx.create_timer(1)\n"
    ),
    "a parameter called time": f"def flow({CTX}):\n    yield ctx.call_activity('a', input=sorted(value, key=len))\n",
    "star and names of one's own": (
        "from time import *\n"
        "def monotonic():\n"
        "    return 1\n"
        f"def flow({CTX}):\n"
        "    yield ctx.call_activity('a', input=monotonic())\n"
    ),
    "star and builtins": (
        f"from random import *\ndef flow({CTX}):\n    yield ctx.call_activity('a', input=len(value))\n"
    ),
    "a time that is given": (
        f"def flow({CTX}):\n    yield ctx.call_activity('a', input=time.strftime('%Y', time.gmtime(value)))\n"
    ),
    "an activity that is handed on": (
        "def act(ctx: task.ActivityContext, _):\n    return datetime.now()\n"
        f"def flow({CTX}):\n    yield ctx.call_activity(act, input=max(value, key=len))\n"
    ),
    "a client that starts things": "def start(client, value):\n    return client.wait_for_external_event('x')\n",
    "a type that is handed on": (
        f"def flow({CTX}):\n    yield ctx.call_activity('a', input=isinstance(value, datetime))\n"
    ),
}


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    for name, text in NEIGHBOURS.items():
        (tmp_path / name).write_text(text)
    return tmp_path / "flows.py"


@pytest.mark.parametrize("kind", ORCHESTRATORS)
def test_every_kind_of_orchestrator_is_seen(flows: Path, kind: str) -> None:
    flows.write_text(HEAD + ORCHESTRATORS[kind])
    assert [one.rule for one in examine([flows]).findings] == ["clock"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_followed(flows: Path, way: str) -> None:
    flows.write_text(HEAD + WAYS[way])
    assert [one.rule for one in examine([flows]).findings] == ["clock"]


@pytest.mark.parametrize("case", CORRECT)
def test_what_is_correct_is_left_alone(flows: Path, case: str) -> None:
    flows.write_text(HEAD + CORRECT[case])
    assert examine([flows]).findings == []


def test_a_method_says_where_it_was_found(flows: Path) -> None:
    flows.write_text(HEAD + WAYS["self.method"])
    (found,) = examine([flows]).findings
    assert "in due, which orchestrator flow runs" in found.what
