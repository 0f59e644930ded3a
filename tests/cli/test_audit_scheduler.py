"""Changing commands beside a daemon with a remote engine: the daemon executes them, with exactly one audit line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import root
from bridge.ops.trail import AuditTrail
from tests.app.project import CONFIG, write_project
from tests.cli.test_audit import DATA, MARKER, STEPS
from tests.cli.test_control_channel import PORT, daemon

HERE = {
    "publish": "cli",
    "engine backup": "cli",
    "engine restore": "cli",
    "engine compact": "cli",
    "engine reencrypt": "cli",
}
"""Commands without a daemon, with their audit role: they use a broker or an engine file."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Project with a daemon on `bridge engine`."""
    config = write_project(tmp_path_factory.mktemp("remote"))
    with ExitStack() as stack:
        arguments = ("engine", "--listen", "127.0.0.1:0", "--path", "hubs")
        _, ready = stack.enter_context(daemon(config.parent, *arguments))
        engine = f'engine: {{type: scheduler, endpoint: "http://{ready["address"]}"}}'
        config.write_text(CONFIG.replace("engine: {type: embedded, path: .bridge/engine}", engine) + PORT)
        stack.enter_context(daemon(config.parent, "serve"))
        yield config.parent


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "target", "result", "arguments"), STEPS, ids=[f"{name} {result}" for name, _, result, _ in STEPS]
)
def test_a_change_leaves_one_line(
    served: Path, tmp_path: Path, name: str, target: str, result: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "LINES").write_text(f'{{"body": "{MARKER}"}}\nno JSON {MARKER}\n')
    files = {"BACKUP": str(tmp_path / "backup.db"), "LINES": str(tmp_path / "LINES")}
    trail = AuditTrail(served / ".bridge" / "audit")
    before = list(trail.read())
    given = [files.get(argument, argument) for argument in arguments]
    command = [*name.split(), *given, "--reason", "tried", "-c", str(served / "bridge.yaml")]
    received = CliRunner().invoke(root, command, prog_name="bridge")
    assert received.exit_code in (0, 1, 2, 3), received.output
    [line] = [line for line in trail.read() if line not in before]
    assert line["action"].replace(".", " ").removesuffix("_by") == name
    # A seek that cannot be planned, an empty selection of dead letters, an unknown route and a missing candidate
    # reach no daemon
    planned = result == "done" or not name.startswith(("sources seek", "dlq ", "limits ", "canary "))
    assert line["via"] == HERE.get(name, "socket" if planned else "cli")
    assert (line["result"] == "done") == (received.exit_code == 0), (line, received.output)
    assert line["reason"] == "tried"
    assert MARKER not in json.dumps(line)
    assert DATA not in json.dumps(line)
    if name not in HERE:
        assert line["target"].endswith(target)


@pytest.mark.parametrize(
    "command", [("sources", "resume", "nobody"), ("instances", "purge", "x", "--engine", "nowhere")]
)
def test_an_unknown_name_is_a_change_that_was_tried(served: Path, command: tuple[str, ...]) -> None:
    trail = AuditTrail(served / ".bridge" / "audit")
    before = list(trail.read())
    received = CliRunner().invoke(root, [*command, "-c", str(served / "bridge.yaml")], prog_name="bridge")
    assert received.exit_code == 2
    [line] = [line for line in trail.read() if line not in before]
    assert (line["result"], line["error"]) == ("failed", "unknown_name")
