"""Lint rules: their findings, and code that they accept."""
# ruff: noqa: E501, ISC004 -- each snippet of code is one text

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path

import pytest

from bridge.lint import RULES, examine
from bridge.lint.waits import GENERATORS, HEARING, TASKS
from tests.lint.test_corpus import marked

HEAD = """
import asyncio
import datetime as dt
import os
import random
import subprocess
import threading
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import sqlite3
from durabletask import task
from bridge.workflow import Saga, Step, publish, request, wait_for_message

CACHE = {}
LIMIT = 5
KINDS = ("a", "b")
TOTAL = 0

def remember(key, value):
    CACHE[key] = value

def count():
    global TOTAL
    TOTAL += 1

def again(value, context_of_mine):
    context_of_mine.continue_as_new(value)

def work(ctx: task.ActivityContext, value):
    time.sleep(1)
    return value

def orchestrator(ctx: task.OrchestrationContext, value):
"""

BAD = {
    "clock": ["now = datetime.now()", "now = dt.datetime.utcnow()", "t = time.time()", "d = dt.date.today()"],
    "uuid": ["key = str(uuid.uuid4())"],
    "random": ["x = random.random()", "x = os.urandom(4)", "x = hash(value)", "r = random.Random()"],
    "sleep": ["time.sleep(1)", "asyncio.sleep(1)"],
    "http": ["httpx.get('https://example.org')"],
    "database": ["sqlite3.connect('x')"],
    "files": ["open('x')", "os.listdir('.')", "Path('x').read_text()", "Path('x').open()", "x = Path('x')\ny = x.read_text()",
        "(Path('x') / 'y').read_bytes()"],
    "environment": ["x = os.environ['A']", "x = os.environ.get('A')", "x = os.getenv('A')", "x = os.getcwd()", "x = os.getpid()"],
    "threads": ["threading.Thread(target=work).start()", "subprocess.run(['x'])", "asyncio.run(value)"],
    "globals": ["x = CACHE.get(value)", "x = TOTAL", "global TOTAL"],
    "unordered": [
        "for one in {1, 2}:\n    yield ctx.call_activity(work, input=one)",
        "names = set(value)\nfor one in names:\n    yield ctx.call_activity(work, input=one)",
        "tasks = [ctx.call_activity(work, input=one) for one in set(value) | {1}]\nif tasks:\n"
        "    yield task.when_all(tasks)",
        "first = list(set(value))",
        "for one in value.keys() - {'a'}:\n    yield ctx.call_activity(work, input=one)",
        "for one in value.keys() & value.keys():\n    yield ctx.call_activity(work, input=one)",
    ],
    "missing-yield": [
        "ctx.call_activity(work)",
        "result = ctx.call_activity(work)",
        "ctx.create_timer(timedelta(seconds=1))",
        "publish(ctx, 'results', type='x')",
        "request(ctx, 'results', type='x', reply_to='y')",
        "yield request(ctx, 'results', type='x', reply_to='y')",
        "x = 1 + ctx.call_activity(work)",
        "saga = Saga(ctx, 'x')\nsaga.step(Step('a', work))",
        "def body():\n    yield ctx.create_timer(timedelta(seconds=1))\nbody()",
    ],
    "continue-as-new": [
        "yield from wait_for_message(ctx, 'x')\nctx.continue_as_new(value)",
        "yield ctx.wait_for_external_event('x')\nagain(value, ctx)",
        "yield ctx.wait_for_external_event('x')\nctx.continue_as_new(value)"],
    "losing-wait": [
        "while True:\n    event = ctx.wait_for_external_event('x')\n    timer = ctx.create_timer(timedelta(hours=1))\n"
        "    winner = yield task.when_any([event, timer])\n    if winner is event:\n        return 1",
        "a = ctx.wait_for_external_event('x')\nb = ctx.create_timer(timedelta(hours=1))\nyield task.when_any([a, b])\n"
        "return (yield ctx.wait_for_external_event('x'))",
        "while True:\n    yield task.when_any([ctx.wait_for_external_event('x'), ctx.create_timer(timedelta(hours=1))])",
    ],
    "empty-when-all": [
        "yield task.when_all([ctx.call_activity(work, input=one) for one in value])",
        "tasks = []\nfor one in value:\n    tasks.append(ctx.call_activity(work, input=one))\nyield task.when_all(tasks)",
        "yield task.when_all([])",
    ],
    "retry-timeout": [
        "yield ctx.call_activity(work, retry_policy=task.RetryPolicy(first_retry_interval=timedelta(seconds=1),"
        " max_number_of_attempts=3, retry_timeout=timedelta(hours=1)))"
    ],
}  # fmt: skip

GOOD = [
    "now = ctx.current_utc_datetime\nyield ctx.call_activity(work, input=now.isoformat())",
    "x = datetime(2030, 1, 1)\ny = timedelta(days=1)",
    "key = ctx.new_uuid()\nother = uuid.uuid5(uuid.NAMESPACE_DNS, 'x')",
    "x = random.Random(value).random()",
    "x = LIMIT",
    "for one in sorted({3, 1}):\n    yield ctx.call_activity(work, input=one)",
    "for one in value.keys():\n    yield ctx.call_activity(work, input=one)",
    "total = sum(x for x in set(value))\nsize = len({1, 2})\nmembers = {one + 1 for one in set(value)}",
    "x = yield ctx.call_activity(work)\nreturn x",
    "yield task.when_all([ctx.call_activity(work, input=one) for one in KINDS])",
    "yield task.when_all([ctx.call_activity(work, input=one) for one in range(1, 4)])",
    "yield task.when_all([ctx.call_activity(work, input=one) for one in value or ['x']])",
    "if not value['lines']:\n    return []\nyield task.when_all([ctx.call_activity(work, input=one) for one in value['lines']])",
    "if len(value.lines) == 0:\n    return []\nyield task.when_all([ctx.call_activity(work, input=one) for one in value.lines])",
    "pending = ctx.call_activity(work)\nx = yield pending",
    "a = ctx.call_activity(work)\nb = ctx.call_activity(work)\nyield task.when_all([a, b])",
    "tasks = [ctx.call_activity(work, input=n) for n in range(3)]\nyield task.when_all(tasks)",
    "tasks = [ctx.call_activity(work, input=one) for one in value]\nif tasks:\n    yield task.when_all(tasks)",
    "if not value:\n    return []\nyield task.when_all([ctx.call_activity(work, input=one) for one in value])",
    "tasks = [ctx.call_activity(work, input=one) for one in value]\nresults = (yield task.when_all(tasks)) if tasks else []",
    "yield ctx.wait_for_external_event('x')\nctx.continue_as_new(value, save_events=True)",
    "yield ctx.create_timer(timedelta(hours=1))\nctx.continue_as_new(value)",
    "event = ctx.wait_for_external_event('x')\ntimer = ctx.create_timer(timedelta(hours=1))\n"
    "winner = yield task.when_any([event, timer])\nif winner is timer:\n    return 'late'\nreturn event.get_result()",
    "while True:\n    event = ctx.wait_for_external_event('x')\n    timer = ctx.create_timer(timedelta(hours=1))\n"
    "    winner = yield task.when_any([event, timer])\n    if winner is timer:\n        event.cancel()",
    "while True:\n    event = ctx.wait_for_external_event('x')\n    timer = ctx.create_timer(timedelta(hours=1))\n"
    "    winner = yield task.when_any([event, timer])\n    if winner is timer:\n        return 1",
    "event = ctx.wait_for_external_event('x')\nwhile not event.is_complete:\n"
    "    yield task.when_any([event, ctx.create_timer(timedelta(hours=1))])",
    "ctx.signal_entity(value, 'add', 1)\nctx.send_event('other', 'x')\nctx.set_custom_status('y')",
    "saga = Saga(ctx, 'x')\ndef body():\n    yield from saga.step(Step('a', work))\nreturn (yield from saga.run(body()))",
    "x = yield publish(ctx, 'results', type='x')\ny = yield from request(ctx, 'r', type='x', reply_to='y')",
    "with (yield ctx.lock_entities([value])):\n    yield ctx.call_entity(value, 'add', 1)",
    "def helper(open):\n    return open('x')\nhelper(str)",
]


def rules_of(directory: Path, body: str, head: str = HEAD) -> list[str]:
    path = directory / "flow.py"
    path.write_text(head + textwrap.indent(body + "\nyield ctx.create_timer(timedelta(seconds=1))", "    ") + "\n")
    return [finding.rule for finding in examine([path]).findings]


@pytest.mark.parametrize(("rule", "body"), [(rule, body) for rule, bodies in BAD.items() for body in bodies])
def test_it_is_found(tmp_path: Path, rule: str, body: str) -> None:
    assert rules_of(tmp_path, body) == [rule]


@pytest.mark.parametrize("body", GOOD)
def test_correct_code_is_left_alone(tmp_path: Path, body: str) -> None:
    assert rules_of(tmp_path, body) == []


def test_activities_and_plain_functions_may_do_anything(tmp_path: Path) -> None:
    assert rules_of(tmp_path, "pass") == []


def test_an_async_orchestrator(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    path.write_text("from durabletask import task\nasync def flow(ctx: task.OrchestrationContext, _):\n    pass\n")
    (finding,) = examine([path]).findings
    assert (finding.rule, finding.line) == ("async", 2)


def test_a_wait_in_a_callback_of_a_composite_task(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    path.write_text(
        "from durabletask import task\n"
        "class Rearming(task.WhenAnyTask):\n"
        "    def on_child_completed(self, child):\n"
        "        self.ctx.wait_for_external_event('x')\n"
    )
    (finding,) = examine([path]).findings
    assert (finding.rule, finding.line) == ("rearmed-wait", 4)


def test_a_composite_task_of_composite_tasks_and_what_it_is_made_of(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    path.write_text(
        "from durabletask import task\n"
        "class First(task.WhenAnyTask):\n"
        "    def __init__(self, ctx):\n"
        "        super().__init__([ctx.wait_for_external_event('x'), ctx.create_timer(1)])\n"
        "class Second(First):\n"
        "    def on_child_completed(self, child):\n"
        "        self.ctx.create_timer(1)\n"
    )
    (finding,) = examine([path]).findings
    assert (finding.rule, finding.line) == ("rearmed-wait", 7)


def test_every_rule_is_proved() -> None:
    corpus = {rule for _, _, rule in marked("faulty")}
    assert {*BAD, *corpus, "async", "rearmed-wait", "suppression", "syntax"} == set(RULES)


@pytest.mark.parametrize("name", sorted(GENERATORS | TASKS | HEARING))
def test_names_of_the_bridge_in_rules_exist(name: str) -> None:
    module, _, member = name.rpartition(".")
    assert hasattr(importlib.import_module(module), member)
