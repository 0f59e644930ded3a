"""`bridge diff`: messages of files, topics and standard input, its output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kit.processes import bridge, run_bridge

CONFIG = """
engine: {type: embedded, path: .bridge/engine}
workflows: {external: [ship]}
brokers: {local: {type: local, path: .bridge/broker}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  refunds: {broker: local, topics: [refunds], codec: json, no_match: ignore}
routes:
  - name: small
    from: orders
    when: payload.total < LIMIT
    ignore: {}
  - name: large
    from: orders
    schedule: {orchestration: ship, instance_id: "order-{{ payload.id }}", input: payload}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "old.yaml").write_text(CONFIG.replace("LIMIT", "10.0"))
    (tmp_path / "new.yaml").write_text(CONFIG.replace("LIMIT", "20.0"))
    return tmp_path


def lines(*totals: float, topic: str = "orders") -> str:
    found = [{"topic": topic, "key": "k", "body": {"id": str(at), "total": each}} for at, each in enumerate(totals)]
    return "".join(json.dumps(each) + "\n" for each in found)


def test_a_topic_through_the_executable(project: Path) -> None:
    bridge("publish", "local/", "--jsonl", "-", "-c", "old.yaml", cwd=project, text=lines(5, 15, 25, 12))
    text = bridge("diff", "old.yaml", "new.yaml", "--messages", "orders", cwd=project, expect=1)
    partition = json.loads(bridge("topic", "read", "orders", "-c", "old.yaml", "--json", cwd=project).splitlines()[0])
    assert text.splitlines() == [
        "2 messages of orders: large (schedule) -> ignored by small",
        "  first difference: small, when",
        "    old: payload.total < 10.0 is false (old.yaml:11:11)",
        "    new: payload.total < 20.0 is true (new.yaml:11:11)",
        f"  example: orders/{partition['partition']}@1",
        "",
        "2 of 4 messages would be routed differently",
    ]
    done = run_bridge(
        "diff", "old.yaml", "new.yaml", "--messages", "local/orders", "--limit", "2", "--json", cwd=project
    )
    found = json.loads(done.stdout)
    assert (found["messages"], found["different"], found["limited"]) == (2, 1, True)
    assert found["groups"][0]["example"]["offset"] == 3, "the newest messages are compared"
    assert found["groups"][0]["example"]["old"]["commands"][0]["instance_id"] == "order-3"
    assert "the limit of 2 messages was reached; compare more with --limit" in done.stderr
    assert bridge("diff", "old.yaml", "old.yaml", "--messages", "orders", cwd=project).endswith(
        "0 of 4 messages would be routed differently\n"
    )


def test_files_and_standard_input(project: Path) -> None:
    (project / "samples").mkdir()
    (project / "samples" / "orders.jsonl").write_text(lines(5, 15, topic="orders"))
    (project / "one.json").write_text('{"id": "1", "total": 15}')
    sides = ("diff", "old.yaml", "new.yaml", "--json")
    for messages, text, count in (
        (("samples",), None, 2),
        (("-",), lines(5, 15), 2),
        (("one.json", "--source", "orders"), None, 1),
    ):
        found = json.loads(bridge(*sides, "--messages", *messages, cwd=project, text=text, expect=1))
        assert (found["messages"], found["different"]) == (count, 1), messages
    both = bridge("diff", "old.yaml", "new.yaml", "--messages", "-", cwd=project, text=lines(1, topic="refunds"))
    assert both == "0 of 1 message would be routed differently\n"


@pytest.mark.parametrize(
    ("arguments", "text", "code", "message"),
    [
        (["--messages", "-"], "{", 2, "standard input:1: "),
        (["--messages", "one.json"], None, 2, "a message names no topic; name its source with --source"),
        (["--messages", "nothing"], None, 2, "there is no source 'nothing'"),
        (["--messages", "local/nothing"], None, 1, "nothing"),
        (["--messages", "-"], "", 1, "error: there was no message to compare"),
        (["--messages", "-"], lines(1, topic="x"), 1, "no source reads the topic of 1 message; name one with --source"),
        (["--messages", "-", "--source", "order"], "", 2, "there is no source 'order'; did you mean 'orders'?"),
        ([], None, 2, "Missing option '--messages'"),
    ],
)
def test_errors(project: Path, arguments: list[str], text: str | None, code: int, message: str) -> None:
    (project / "one.json").write_text('{"id": "1", "total": 15}')
    done = run_bridge("diff", "old.yaml", "new.yaml", *arguments, cwd=project, text=text)
    assert message in done.stderr
    assert done.returncode == code, done.stderr


def test_an_invalid_configuration(project: Path) -> None:
    (project / "bad.yaml").write_text(CONFIG.replace("LIMIT", "10.0 +"))
    done = run_bridge("diff", "old.yaml", "bad.yaml", "--messages", "-", cwd=project, text=lines(1))
    assert done.returncode == 3
    assert "bad.yaml:11:11" in done.stderr
