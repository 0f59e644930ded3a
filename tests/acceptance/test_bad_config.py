"""A broken configuration never starts part of a daemon: every problem is reported with its place, and no file stays."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.kit.processes import bridge, run_bridge

WHOLE = """\
engine: {type: embedded}
workflows: [flows]
brokers: {local: {type: local}}
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  others: {broker: local, topics: [others], codec: json, no_match: dead_letter}
routes:
  - {name: start, from: orders, schedule: {orchestration: work, instance_id: "work-{{ payload.id }}"}}
  - {name: other, from: others, schedule: {orchestration: work, instance_id: "other-{{ payload.id }}"}}
ops: {http: {port: PORT}}
"""

FLOWS = """
from durabletask import task


def work(ctx: task.OrchestrationContext, order: dict):
    return order
"""

# name: old text, new text, and (line, word) of each problem
BROKEN: dict[str, tuple[str, str, list[tuple[int, str]]]] = {
    "not YAML": ("engine: {", "engine: {{", [(1, "")]),
    "unknown key": ("targets:", "tagrets:", [(4, "targets")]),
    "endpoint": ("{type: embedded}", "{type: scheduler, endpoint: 'ftp://x/y'}", [(1, "not an endpoint")]),
    "no such broker": ("broker: local, topic: r", "broker: lokal, topic: r", [(4, "local")]),
    "no such module": ("[flows]", "[flaws]", [(2, "flaws")]),
    "unknown orchestration": ('work, instance_id: "o', 'wrok, instance_id: "o', [(10, "did you mean `work`")]),
    "two verbs": ("from: others,", "from: others, ignore: {},", [(10, "exactly one")]),
    "CEL type": ("from: others,", "from: others, when: '1 + 1',", [(10, "true or false")]),
    "map": ("from: others,", "from: others, map: 'flows:nothing',", [(10, "nothing")]),
    "schema file": ("topics: [others],", "topics: [others], schema: none.json,", [(7, "none.json")]),
    "secret file": ("{type: embedded}", "{type: scheduler, token: '${file:/etc/hostname}'}", [(1, "secrets_dir")]),
    "in two sources": (
        "json, no_match", "json, ordering: '{{ payload. }}', no_match", [(6, "ordering"), (7, "ordering")]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_it_says_where_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    old, new, problems = BROKEN[what]
    assert old in WHOLE
    (tmp_path / "flows.py").write_text(FLOWS)
    # Occupied: an attempt to listen would be reported as a problem
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "bridge.yaml").write_text(WHOLE.replace(old, new).replace("PORT", str(port)))
        done = run_bridge("serve", cwd=tmp_path, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    found = [(int(line), text) for line, text in re.findall(r"bridge\.yaml:(\d+):\d+ ?(.*)", done.stderr)]
    for line, word in problems:
        assert any(line == at and word in text for at, text in found), (line, word, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bridge.yaml", "flows.py"]
    assert "cannot listen" not in done.stderr


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = WHOLE
    changed = ("CEL type", "no such module", "in two sources")
    for what in changed:
        text = text.replace(*BROKEN[what][:2])
    (tmp_path / "bridge.yaml").write_text(text.replace("PORT", "0"))
    (tmp_path / "flows.py").write_text(FLOWS)
    done = run_bridge("serve", cwd=tmp_path)
    assert done.returncode == 3
    lines = {int(line) for line in re.findall(r"bridge\.yaml:(\d+):", done.stderr)}
    assert lines == {2, 6, 7, 10}, done.stderr


def test_a_port_that_is_taken_stops_it_before_anything_is_consumed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "bridge.yaml").write_text(WHOLE.replace("PORT", str(taken.getsockname()[1])))
        (tmp_path / "flows.py").write_text(FLOWS)
        bridge("publish", "orders", "--data", '{"id": "a"}', cwd=tmp_path)
        done = run_bridge("serve", cwd=tmp_path)
        assert done.returncode not in (0, 2)
        assert "Traceback" not in done.stderr
        assert str(taken.getsockname()[1]) in done.stderr
        assert "consuming" not in done.stderr
        assert not list(tmp_path.rglob("*.sock"))
