"""Completion in a real bash, and by the protocol of the scripts for zsh and fish."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.processes import bridge, run_bridge

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded, path: engine.db}
brokers: {local: {type: local, path: local}}
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  bills: {broker: local, topics: [bills], codec: json, no_match: ignore}
routes:
  - {name: start-order, from: orders, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
workflows: [flows]
"""
FLOWS = """
raise RuntimeError("not imported")

def order(ctx, data):
    yield ctx.call_activity("a")

def refund(ctx, data):
    yield ctx.call_activity("a")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


CASES = [
    (["sour"], {"sources"}),
    (["sources", "pau"], {"pause"}),
    (["tap", "--sour"], {"--source"}),
    (["tap", "--source", ""], {"orders", "bills"}),
    (["tap", "--source", "o"], {"orders"}),
    (["dlq", "list", "b"], {"bills"}),
    (["sources", "pause", ""], {"orders", "bills"}),
    (["dlq", "list", "--route", "st"], {"start-order"}),
    (["instances", "start", ""], {"order", "refund"}),
    (["instances", "list", "--engine", ""], {"default"}),
    (["topic", "read", "local/o"], {"local/orders", "local/orders.dlq"}),
    (["publish", "local/r"], {"local/results"}),
    (["tap", "--outcome", "dead"], {"dead_lettered"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
]


def in_bash(directory: Path, words: list[str]) -> set[str]:
    """Words with which a real bash completes a command line."""
    line = shlex.join(["bridge", *words])
    script = f"""
eval "$(bridge completion bash)"
complete -p bridge > /dev/null || exit 9
COMP_WORDS=({line}); COMP_CWORD={len(words)}
_bridge_completion bridge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return set(filter(None, done.stdout.splitlines()))


def test_bash_completes_commands_options_and_names(project: Path) -> None:
    for words, expected in CASES[1::3]:
        assert in_bash(project, words) == expected, words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_the_command(project: Path, shell: str) -> None:
    script = bridge("completion", shell, cwd=project)
    assert "_BRIDGE_COMPLETE" in script
    assert "bridge" in script


def complete(directory: Path, words: list[str]) -> tuple[set[str], str]:
    environment = os.environ | {
        "_BRIDGE_COMPLETE": "bash_complete",
        "COMP_WORDS": shlex.join(["bridge", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = run_bridge(cwd=directory, env=environment)
    assert done.returncode == 0, done
    return {line.partition(",")[2] for line in done.stdout.splitlines() if line}, done.stderr


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_names_come_from_the_configuration(project: Path, words: list[str], expected: set[str]) -> None:
    assert complete(project, words) == (expected, "")


def test_a_configuration_on_the_command_line_is_used(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "own.yaml").write_text(CONFIG.replace("orders:", "returns:").replace("from: orders", "from: returns"))
    assert complete(other, ["tap", "-c", "own.yaml", "--source", ""])[0] == {"returns", "bills"}


@pytest.mark.parametrize("text", [None, "", ":", "sources: 3", CONFIG + "wrong: 1\n", "\tx", "sources: {a: {}}"])
def test_a_wrong_configuration_disturbs_no_prompt(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "bridge.yaml").write_text(text)
    found, error = complete(tmp_path, ["tap", "--source", ""])
    assert error == ""
    assert found in (set(), {"orders", "bills"}, {"a"})


def test_an_unknown_shell_is_refused(project: Path) -> None:
    assert run_bridge("completion", "csh", cwd=project).returncode == 2
