"""`bridge dlq` beside a running daemon: groups, list, show, export and the dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.app.dead_letters.reading import DeadLetterSelection
from bridge.cli.shared import exit_codes
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message, Position
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
  bills: {broker: local, topics: [bills], codec: json, no_match: dead_letter}
routes:
  - name: first
    from: orders
    match: {type: both}
    continue: true
    schedule: {orchestration: order, instance_id: "first-{{ payload.id }}"}
  - name: start
    from: orders
    match: {type: created}
    when: payload.total > 0.0
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: pay
    from: orders
    match: {type: [paid, both]}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: dead_letter}
ops: {http: {port: 0}}
"""
FIXED = CONFIG.replace("payload.total > 0.0", "'!has(payload.total) || double(payload.total) > 0.0'")

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("paid"))
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Project with a running daemon and seven dead letters of four causes."""
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "fixed.yaml").write_text(FIXED)
    (tmp_path / "flows.py").write_text(FLOWS)
    with DaemonProcess(tmp_path) as daemon:
        for number in range(3):
            publish(tmp_path, "created", {"id": number})
        publish(tmp_path, "created", {"id": 7, "total": "S3CRET"})
        publish(tmp_path, "paid", {"id": 0})
        publish(tmp_path, "paid", {"id": 1})
        publish(tmp_path, "unknown", {"id": 9})
        daemon.wait(lambda: sum(daemon.metrics("bridge_dead_letters_total").values()) == 7, "dead letters")
        yield tmp_path


def publish(place: Path, kind: str, payload: dict[str, Any]) -> None:
    bridge("publish", "orders", "--header", f"type={kind}", "--data", json.dumps(payload), cwd=place)


def read(place: Path, *arguments: str, expect: int = 0) -> Any:
    return json.loads(bridge("dlq", *arguments, "--json", cwd=place, expect=expect))


def test_groups_have_one_line_for_each_cause(place: Path) -> None:
    groups = read(place, "groups")
    assert [(each["count"], each["reason"], each["routes"]) for each in groups] == [
        (3, "expression_error", {"start": 3}),
        (2, "instance_not_found", {"pay": 2}),
        (1, "expression_error", {"start": 1}),
        (1, "no_route", {}),
    ]
    assert groups[0]["error"] == "ExpressionError"
    assert groups[0]["first"] <= groups[0]["last"]
    assert sum(groups[0]["configs"].values()) == 3
    assert {each["format"] for each in groups} == {"bridge"}
    table = bridge("dlq", "groups", cwd=place)
    assert "S3CRET" not in table
    assert groups[0]["group"] in table


def test_a_selection_narrows(place: Path) -> None:
    groups = read(place, "groups")
    by_group = read(place, "list", "--cause", groups[0]["group"])
    assert len(by_group) == 3
    assert {each["group"] for each in by_group} == {groups[0]["group"]}
    assert len(read(place, "list", "--cause", "expression_error")) == 4
    assert len(read(place, "list", "--route", "pay")) == 2
    assert len(read(place, "list", "--limit", "2")) == 2
    assert read(place, "list", "--until", "1h") == []
    assert len(read(place, "list", "--since", "1h")) == 7
    assert read(place, "list", "bills") == []
    assert "there is no source 'order'; did you mean 'orders'?" in run_bridge("dlq", "list", "order", cwd=place).stderr


def test_a_caret_marks_the_missing_key_of_an_expression(place: Path) -> None:
    dead_letter = next(
        each for each in read(place, "list", "--cause", "expression_error") if "no key" in each["detail"]
    )
    shown = bridge("dlq", "show", dead_letter["id"], cwd=place).splitlines()
    assert shown[-2:] == ["  payload.total > 0.0", "          ^"]


def test_one_dead_letter_by_any_of_its_names(place: Path) -> None:
    (dead_letter,) = read(place, "list", "--cause", "no_route")
    (by_position,) = read(place, "show", dead_letter["id"])
    (by_origin,) = read(place, "show", dead_letter["origin"])
    (by_message,) = read(place, "show", dead_letter["message_id"])
    assert bridge("dlq", "list", "--cause", "no_route", "-o", "ids", cwd=place) == f"{dead_letter['id']}\n"
    assert by_position == by_origin == by_message == dead_letter
    assert "body" not in dead_letter
    shown = bridge("dlq", "show", dead_letter["id"], "--payload", cwd=place)
    assert '{"id": 9}' in shown
    assert "bridge.reason: no_route" in shown
    missing = run_bridge("dlq", "show", "orders.dlq/0@99", cwd=place)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no dead letter 'orders.dlq/0@99'" in missing.stderr


def test_an_export_can_be_published(place: Path) -> None:
    lines = bridge("dlq", "export", "--route", "pay", cwd=place).splitlines()
    assert [json.loads(line)["headers"]["bridge.route"] for line in lines] == ["pay", "pay"]
    assert sorted(json.loads(line)["body"]["id"] for line in lines) == [0, 1]


def test_an_export_into_a_closed_pipe_ends_quietly(place: Path) -> None:
    command = [sys.executable, "-m", "bridge", "dlq", "export"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == exit_codes.BROKEN_PIPE


@pytest.mark.parametrize(
    ("id_", "holds"), [("shop a 1", True), ("a 1", True), ("1", False), ("shop", False), ("", False)]
)
def test_an_event_is_named_by_its_id(id_: str, holds: bool) -> None:
    """The identity of a CloudEvent is its source, a blank and its id."""
    entry = DeadLetter(Position("c", "orders.dlq", 0, 0), "bridge", "no_route", message_id="shop a 1")
    assert DeadLetterSelection(ids=(id_,)).holds(entry, Message(b"")) is holds


def test_a_check_says_what_would_become_of_each_and_changes_nothing(place: Path) -> None:
    report = read(place, "check", expect=1)
    assert (report["total"], report["failing"]) == (7, 7)
    lines = {(each["count"], each["would"]) for each in report["lines"]}
    line = CONFIG.splitlines().index("    when: payload.total > 0.0") + 1
    assert (3, f"still fails: expression_error, bridge.yaml:{line}") in lines
    assert (1, "still fails: no_route") in lines
    line = next(n for n, text in enumerate(CONFIG.splitlines(), 1) if "raise_event" in text)
    assert (2, f"still fails: instance_not_found, bridge.yaml:{line}") in lines
    fixed = read(place, "check", "--candidate", "fixed.yaml", expect=1)
    would = {each["would"]: each["count"] for each in fixed["lines"]}
    assert would["start order"] == 3
    # The payments find the orders that the replay would start, if these come first: no order between partitions
    paid = {text: count for text, count in would.items() if text == "raise paid" or "instance_not_found" in text}
    assert sum(paid.values()) == 2
    assert bridge("instances", "list", "--prefix", "order-", "--json", cwd=place).strip() in ("", "[]")


def test_a_check_tells_starts_from_duplicates(place: Path) -> None:
    bridge("instances", "start", "order", "--id", "order-0", cwd=place)
    offline = read(place, "check", "--route", "start", "--candidate", "fixed.yaml", "--offline", expect=1)
    assert {each["would"] for each in offline["lines"] if each["outcome"] == "executed"} == {"start order"}
    asked = read(place, "check", "--route", "start", "--candidate", "fixed.yaml", expect=1)
    would = {each["would"]: each["count"] for each in asked["lines"]}
    # Another message has started order-0: `on_existing: ignore`
    assert (would["start order"], would["ignored"]) == (2, 1)
    paid = read(place, "check", "--route", "pay", expect=1)
    assert {each["would"]: each["count"] for each in paid["lines"]}["raise paid"] == 1


def test_a_check_skips_what_was_executed(place: Path) -> None:
    publish(place, "both", {"id": 5})
    eventually_blocking(lambda: len(read(place, "list", "--route", "pay")) == 3, "the dead letter")
    (both,) = [each for each in read(place, "list", "--route", "pay") if each["executed"]]
    assert both["executed"] == ["first"]
    bridge("instances", "start", "order", "--id", "order-5", cwd=place)
    report = read(place, "check", "--route", "pay", expect=1)
    assert {each["would"]: each["count"] for each in report["lines"]}["raise paid"] == 1


def test_dead_letters_need_no_daemon(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    assert read(tmp_path, "groups") == []
    assert "there are no open dead letters" in run_bridge("dlq", "groups", cwd=tmp_path).stderr
    bridge("dlq", "check", cwd=tmp_path, expect=3)
    assert read(tmp_path, "check", "--offline")["total"] == 0


def test_reading_starts_fast_because_it_imports_no_client_of_an_engine(tmp_path: Path) -> None:
    """The state of each dead letter is read from the file of the embedded engine."""
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    code = (
        "import sys\nfrom bridge.cli import root\nroot(['dlq', 'groups'], standalone_mode=False)\nprint(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = {"grpc", "durabletask.client", "durabletask.worker", "opentelemetry", "aiohttp", "cel_expr_python"}
    assert not heavy & set(result.stdout.splitlines()[-1].split())
