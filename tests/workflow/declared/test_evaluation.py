"""Expressions of declarative sagas: evaluated once, by an activity; a failure names the place and never a payload."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import ExpressionError
from bridge.testing import LocalBridge, replay
from bridge.workflow.declared import declared_saga, evaluate

NAMES = ["input", "saga", "steps", "vars"]
CONFIG = """
engine: {{type: embedded}}
brokers: {{local: {{type: local}}}}
targets: {{out: {{broker: local, topic: out}}}}
sources:
  starts: {{broker: local, topics: [starts], no_match: dead_letter}}
  answers: {{broker: local, topics: [answers], no_match: dead_letter}}
sagas:
  flow:
    replies: answers
    steps:
      - name: first
        command: {{target: out, type: first, reply: false}}
        compensation: {{target: out, type: undo-first}}
      - name: second
        command: {{target: out, type: second, data: "{command}"}}
        failed: "{failed}"
        timeout: 5m
        retry: {{attempts: 1}}
        compensation: {{target: out, type: undo-second, data: known}}
    result: "{result}"
routes:
  - {{name: start, from: starts, schedule: {{saga: flow, instance_id: "flow-{{{{ payload.id }}}}"}}}}
  - {{name: answers, from: answers, reply: {{}}}}
"""


def run(directory: Path, command: str = "input", failed: str = "false", result: str = "input") -> tuple[Any, list[str]]:
    path = directory / "bridge.yaml"
    path.write_text(CONFIG.format(command=command, failed=failed, result=result))
    with LocalBridge(path) as bridge:
        bridge.publish("starts", {"id": "1"}, type="start")
        if any(event.type == "second" for event in bridge.published("out")):
            bridge.answer("out", {"status": "done"})
        replay(bridge.recording("flow-1"), {"bridge.saga": declared_saga})
        return bridge.result("flow-1"), [event.type for event in bridge.published("out")]


def test_a_command_that_cannot_be_made_was_not_sent_and_is_not_undone(tmp_path: Path) -> None:
    done, sent = run(tmp_path, command="input.missing")
    assert (done["status"], done["reason"], done["step"]) == ("compensated", "expression", "second")
    assert "saga flow, steps[1].command, data" in done["detail"]
    assert sent == ["first", "undo-first"]


def test_a_command_that_costs_too_much_is_one_that_cannot_be_made(tmp_path: Path) -> None:
    done, sent = run(tmp_path, command="[1, 2, 3, 4, 5].map(x, input.id.matches(saga.id + string(x)))")
    assert (done["status"], done["reason"], done["step"]) == ("compensated", "expression", "second")
    assert "limits.expression_cost" in done["detail"]
    assert sent == ["first", "undo-first"]


def test_an_answer_that_cannot_be_judged_leaves_the_step_unknown(tmp_path: Path) -> None:
    done, sent = run(tmp_path, failed="reply.missing == 1")
    assert (done["status"], done["reason"], done["step"]) == ("compensated", "failed", "second")
    assert sent == ["first", "second", "undo-second", "undo-first"]


def test_a_result_that_cannot_be_made_undoes_everything(tmp_path: Path) -> None:
    done, sent = run(tmp_path, result="steps.second.missing")
    assert (done["status"], done["reason"], done["step"]) == ("compensated", "expression", None)
    assert sent == ["first", "second", "undo-second", "undo-first"]


def test_a_sound_one(tmp_path: Path) -> None:
    done, sent = run(tmp_path)
    assert (done["status"], done["result"], sent) == ("completed", {"id": "1"}, ["first", "second"])


def test_what_is_not_read_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "bridge.yaml"
    path.write_text(CONFIG.format(command="{'a': 1}", failed="reply.status == 'no'", result="steps.second"))
    with LocalBridge(path) as bridge:
        bridge.publish("starts", {"id": "1", "secret": "x" * 1000}, type="start")
        bridge.answer("out", {"status": "done"})
        events = bridge.recording("flow-1").events
        asked = [
            json.loads(event.taskScheduled.input.value)["variables"]
            for event in events
            if event.HasField("taskScheduled") and event.taskScheduled.name == "bridge.evaluate"
        ]
    assert asked == [
        {"input": {"id": "1", "secret": "x" * 1000}},  # data of the first command
        {},
        {"reply": {"status": "done"}},
        {"steps": {"second": {"status": "done"}}},
    ]


def test_a_definition_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="format 2; this bridge reads 1"):
        next(declared_saga(None, {"format": 2}))


def test_errors_say_where_and_hold_no_payload() -> None:
    block = {"where": "saga s, steps[0].command", "names": NAMES, "value": {"data": "input.a.b"}}
    with pytest.raises(ExpressionError, match=r"^saga s, steps\[0\]\.command, data: ") as caught:
        evaluate(None, {"block": block, "variables": {"input": {"a": "hunter2"}}})
    assert "hunter2" not in str(caught.value)


ORDER = """
from bridge.workflow.declared import evaluate
block = {"where": "s", "names": ["input"], "value": {"data": "{'all': input}"}}
print(evaluate(None, {"block": block, "variables": {"input": {c * 3: 1 for c in "qwertyuiop"}}})["data"])
"""


def test_why_it_is_an_activity() -> None:
    """The order of the keys in CEL's maps differs between processes: a replay must not evaluate again."""
    found = set()
    for _ in range(10):
        found.add(subprocess.run([sys.executable, "-c", ORDER], capture_output=True, text=True, check=True).stdout)
        if len(found) > 1:
            return
    raise AssertionError(
        "every process has the same order now: evaluating in the orchestrator could be thought of again"
    )
